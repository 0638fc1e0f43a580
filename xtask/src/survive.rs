//! `cargo xtask survive [--seconds N]`: loads on servers that are killed every second.

use std::process::Command;

use crate::Outcome;
use crate::args::how_many;
use crate::steps::run as command;
use crate::workspace::{cargo, nbd_program, target_dir};

/// Builds the programs with optimisation and lets them run.
pub(crate) fn run(args: &[String]) -> Outcome {
    let seconds = parse(args)?;
    command(&mut cargo(["build", "--release", "-p", "nbd-cli"]))?;
    let example = ["build", "--release", "-p", "nbd-sim", "--features=peers", "--example=survive"];
    command(&mut cargo(example))?;
    let program = target_dir()?.join("release/examples/survive");
    let mut survive = Command::new(program);
    command(survive.arg(seconds.to_string()).env("NBD_PROGRAM", nbd_program()?))
}

fn parse(args: &[String]) -> Outcome<u64> {
    match args {
        [] => Ok(60),
        [option, seconds] if option == "--seconds" => how_many(option, seconds),
        _ => Err("usage: cargo xtask survive [--seconds N]".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn seconds_are_a_positive_number() {
        let parse = |words: &[&str]| parse(&words.iter().map(|&w| w.into()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok(60));
        assert_eq!(parse(&["--seconds", "5"]), Ok(5));
        for wrong in [&["--seconds", "0"][..], &["--seconds"], &["5"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
