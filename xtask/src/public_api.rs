//! `cargo xtask public-api`: what each crate shows to its users, one line an item.
//!
//! The lists are kept in the repository, so that a change of the public surface is seen
//! where it is made, and is never made by accident.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use crate::workspace::root;
use crate::{Outcome, rustdoc_json};

/// What others build on.
pub(crate) const LIBRARIES: [&str; 11] = [
    "nbd-proto",
    "nbd-transport",
    "nbd-session",
    "nbd-client-blocking",
    "nbd-client-mio",
    "nbd-client-async",
    "nbd-client-tokio",
    "nbd-client-futures",
    "nbd-client-compio",
    "nbd-server",
    "nbd-handle",
];

const USAGE: &str = "usage: cargo xtask public-api [--check]";

/// Writes the lists, or checks them.
pub(crate) fn run(args: &[String]) -> Outcome {
    match args {
        [] => {
            for package in LIBRARIES {
                let path = list(package);
                fs::write(&path, listing(package)?)
                    .map_err(|error| format!("writing {}: {error}", path.display()))?;
                eprintln!("{}", path.display());
            }
            Ok(())
        }
        [only] if only == "--check" => check(),
        _ => Err(USAGE.to_owned()),
    }
}

/// Compares each crate with its list.
///
/// # Errors
///
/// Naming what is public and not in the list, and what is in the list and gone.
pub(crate) fn check() -> Outcome {
    let mut changes = String::new();
    for package in LIBRARIES {
        let path = list(package);
        let kept = fs::read_to_string(&path)
            .map_err(|error| format!("reading {}: {error}", path.display()))?;
        for line in differences(&kept, &listing(package)?) {
            let _ = write!(changes, "\n  {package}: {line}");
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the public surface has changed; if it should, run `cargo xtask public-api`:{changes}"
    ))
}

fn list(package: &str) -> PathBuf {
    root().join("docs/public-api").join(package).with_extension("txt")
}

/// Every public item of a crate, without what is derived or implemented for everything.
fn listing(package: &str) -> Outcome<String> {
    let api = public_api::Builder::from_rustdoc_json(rustdoc_json::build(package)?)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .map_err(|error| format!("the public surface of {package}: {error}"))?;
    Ok(api.to_string())
}

/// What came (`+`) and what went (`-`).
fn differences<'a>(kept: &'a str, found: &'a str) -> Vec<String> {
    let lacking = |from: &'a str, other: &'a str, sign: char| {
        let other: std::collections::HashSet<&str> = other.lines().collect();
        let lines = from.lines().filter(move |line| !other.contains(line));
        lines.map(move |line| format!("{sign}{line}")).collect::<Vec<_>>()
    };
    [lacking(kept, found, '-'), lacking(found, kept, '+')].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went_is_told() {
        assert_eq!(differences("a\nb\n", "b\nc\n"), ["-a", "+c"]);
        assert!(differences("a\nb\n", "a\nb\n").is_empty());
    }
}
