//! `cargo xtask fuzz TARGET [--seconds N]`: looks for inputs that break an invariant.
//!
//! cargo-fuzz asks for an unstable compiler; the stable one does as well when it is
//! told that it may use what is unstable. A sanitizer is built in only where there is
//! `unsafe` to watch, at the boundary of the C library: without one several times as many
//! inputs are tried.

use std::env;
use std::fs;
use std::process::Command;

use crate::Outcome;
use crate::args::how_many;
use crate::steps::run as command;
use crate::workspace::{cargo, root};

/// Builds the target and runs it, from the seeds and what earlier runs have found.
pub(crate) fn run(args: &[String]) -> Outcome {
    let targets = targets()?;
    let (target, seconds) = parse(args, &targets)?;
    ensure_cargo_fuzz()?;
    let fuzz = root().join("fuzz");
    let corpus = fuzz.join("corpus").join(target);
    fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    let sanitizer = if target == "capi_calls" { "address" } else { "none" };
    let dictionary = if target == "uri" { "uri" } else { "nbd" };
    command(
        Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["fuzz", "run", "--fuzz-dir", ".", "--sanitizer", sanitizer, target])
            .arg(corpus)
            .arg(fuzz.join("corpus-seeds").join(target))
            .arg("--")
            .arg(format!("-dict=dictionaries/{dictionary}.dict"))
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-max_len=8192", "-print_final_stats=1"])
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(&fuzz),
    )
}

/// The names of the targets: one file each.
fn targets() -> Outcome<Vec<String>> {
    let directory = root().join("fuzz/fuzz_targets");
    let failed = |error| format!("{}: {error}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn ensure_cargo_fuzz() -> Outcome {
    let installed = cargo(["fuzz", "--version"]).output().is_ok_and(|out| out.status.success());
    if installed {
        return Ok(());
    }
    command(&mut cargo(["install", "cargo-fuzz", "--locked"]))
}

fn parse<'a>(args: &[String], targets: &'a [String]) -> Outcome<(&'a str, u64)> {
    let usage = || {
        let names = targets.join(", ");
        format!("usage: cargo xtask fuzz TARGET [--seconds N], where TARGET is one of {names}")
    };
    let (target, seconds) = match args {
        [target] => (target, 60),
        [target, option, seconds] if option == "--seconds" => (target, how_many(option, seconds)?),
        _ => return Err(usage()),
    };
    match targets.iter().find(|name| *name == target) {
        Some(target) => Ok((target, seconds)),
        None => Err(usage()),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, targets};

    #[test]
    fn a_target_is_a_file() {
        let targets = targets().expect("the directory of targets");
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
            parse(&words, &targets).map(|(target, seconds)| (target.to_owned(), seconds))
        };
        assert_eq!(parse(&["uri"]), Ok(("uri".to_owned(), 60)));
        assert_eq!(parse(&["pair_ops", "--seconds", "9"]), Ok(("pair_ops".to_owned(), 9)));
        for wrong in [
            &[][..],
            &["nothing"],
            &["uri", "--seconds"],
            &["uri", "--seconds", "0"],
            &["uri", "9"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
