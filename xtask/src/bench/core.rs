//! `cargo xtask bench core`: what the protocol core costs, in user instructions.
//!
//! A clock tells of a machine and of what else it does; instructions tell of the code. They
//! are kept beside the benchmark, and the test command compares: what has become dearer by
//! more than a twentieth fails, unless the list is written anew, which a reader of the change
//! sees.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::costs::instructions;
use crate::Outcome;
use crate::steps::run as command;
use crate::workspace::{cargo, root, target_dir};

/// The paths of `nbd-bench-core`.
const PATHS: [&str; 6] = ["read-simple", "read", "read-64", "write", "block-status", "handshake"];

/// How often a path is taken in two runs, whose difference is told.
const SHORT: u32 = 100;
const LONG: u32 = 1_100;

/// What may be added before the check fails, in hundredths.
const TOLERANCE: u64 = 5;

/// Counts, and writes the list, or compares with it.
pub(super) fn run(args: &[String]) -> Outcome {
    match args {
        [] => {
            let list = render(&count_all()?);
            print!("{list}");
            fs::write(list_path(), list).map_err(|error| format!("cannot write: {error}"))
        }
        [option] if option == "--check" => check(),
        _ => Err("usage: cargo xtask bench core [--check]".to_owned()),
    }
}

/// Compares with the list.
///
/// # Errors
///
/// Names every path that costs too much more.
pub(crate) fn check() -> Outcome {
    let path = list_path();
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    compare(&parse(&text)?, &count_all()?)
}

fn list_path() -> PathBuf {
    root().join("bench/core.txt")
}

fn count_all() -> Outcome<Vec<(&'static str, u64)>> {
    let build = ["build", "--release", "-p", "nbd-bench", "--no-default-features"];
    command(cargo(build).args(["--bin", "nbd-bench-core"]))?;
    let program = target_dir()?.join("release/nbd-bench-core");
    let count = |path: &str, times: u32| {
        instructions(Command::new(&program).args([path, &times.to_string()]))
    };
    let each = |path| {
        let cost = (count(path, LONG)? - count(path, SHORT)?) / u64::from(LONG - SHORT);
        Ok((path, cost))
    };
    PATHS.into_iter().map(each).collect()
}

fn render(counts: &[(&str, u64)]) -> String {
    let mut text = "# User instructions for one turn of each path of nbd-bench-core, both ends \
                    together.\n# Written by `cargo xtask bench core`.\n"
        .to_owned();
    for (path, cost) in counts {
        let _ = writeln!(text, "{path:<14}{cost:>8}");
    }
    text
}

fn parse(text: &str) -> Outcome<Vec<(String, u64)>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let one = |line: &str| {
        let (path, cost) = line.split_once(' ')?;
        Some((path.to_owned(), cost.trim().parse().ok()?))
    };
    lines
        .map(|line| one(line).ok_or_else(|| format!("not a path and its cost: {line:?}")))
        .collect()
}

fn compare(listed: &[(String, u64)], counted: &[(&str, u64)]) -> Outcome {
    let mut wrong = Vec::new();
    for (path, now) in counted {
        let Some((_, before)) = listed.iter().find(|(name, _)| name == path) else {
            wrong.push(format!("{path} is not listed"));
            continue;
        };
        eprintln!("    {path:<14}{before:>8} listed {now:>8} counted");
        if now * 100 > before * (100 + TOLERANCE) {
            wrong.push(format!("{path} takes {now} instructions, {before} are listed"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{}. If that is its worth, `cargo xtask bench core` lists it", wrong.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let counts = [("read", 900), ("write", 12)];
        let read = parse(&render(&counts)).expect("its own list");
        assert_eq!(read, [("read".to_owned(), 900), ("write".to_owned(), 12)]);
        assert!(parse("read many").is_err());
    }

    #[test]
    fn a_twentieth_more_is_too_much() {
        let listed = [("read".to_owned(), 1000)];
        assert_eq!(compare(&listed, &[("read", 1050)]), Ok(()));
        assert_eq!(compare(&listed, &[("read", 500)]), Ok(()));
        let failed = compare(&listed, &[("read", 1051)]).expect_err("more than a twentieth");
        assert!(failed.starts_with("read takes 1051 instructions, 1000 are listed"), "{failed}");
        assert!(compare(&listed, &[("write", 1)]).is_err());
    }
}
