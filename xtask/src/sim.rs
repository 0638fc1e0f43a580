//! `cargo xtask sim [--seeds N] [--first K]`: simulated sessions, then as many stories of
//! lost connections, on every processor.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::Outcome;
use crate::steps::run as command;
use crate::workspace::{cargo, target_dir};

/// Builds the simulation with optimisation and shares the seeds out.
pub(crate) fn run(args: &[String]) -> Outcome {
    let range = parse(args)?;
    command(&mut cargo(["build", "--release", "-p", "nbd-sim", "--example", "sim"]))?;
    let program = target_dir()?.join("release/examples/sim");
    let workers = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let shares = range.split(workers);
    eprintln!("    {} seeds from {}, in {} processes", range.seeds, range.first, shares.len());
    let failed =
        share_out(&program, &shares, &[])? + share_out(&program, &shares, &["--recovery"])?;
    if failed == 0 {
        Ok(())
    } else {
        Err("some seeds failed; each line above tells how to see one again".to_owned())
    }
}

/// Runs all shares side by side; returns how many failed.
fn share_out(program: &Path, shares: &[Range], mode: &[&str]) -> Outcome<usize> {
    let children = shares
        .iter()
        .map(|share| {
            Command::new(program)
                .args(mode)
                .args(["--first", &share.first.to_string(), "--seeds", &share.seeds.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("cannot start {}: {error}", program.display()))
        })
        .collect::<Vec<_>>();
    let mut failed = 0;
    for (share, child) in shares.iter().zip(children) {
        let output = child?.wait_with_output().map_err(|error| format!("waiting: {error}"))?;
        print!("from {}: {}", share.first, String::from_utf8_lossy(&output.stdout));
        failed += usize::from(!output.status.success());
    }
    Ok(failed)
}

/// Seeds in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    seeds: u64,
}

impl Range {
    /// In parts of about the same size, none of them empty.
    fn split(self, parts: u64) -> Vec<Self> {
        let bound =
            |part: u64| (u128::from(self.seeds) * u128::from(part) / u128::from(parts)) as u64;
        (0..parts)
            .map(|part| Self {
                first: self.first + bound(part),
                seeds: bound(part + 1) - bound(part),
            })
            .filter(|share| share.seeds > 0)
            .collect()
    }
}

fn parse(args: &[String]) -> Outcome<Range> {
    let mut range = Range { first: 0, seeds: 100_000 };
    let mut words = args.iter();
    while let Some(option) = words.next() {
        let value = words.next().and_then(|text| text.parse().ok());
        match (option.as_str(), value) {
            ("--first", Some(first)) => range.first = first,
            ("--seeds", Some(seeds)) if seeds > 0 => range.seeds = seeds,
            _ => return Err("usage: cargo xtask sim [--seeds N] [--first K]".to_owned()),
        }
    }
    match range.first.checked_add(range.seeds) {
        Some(_) => Ok(range),
        None => Err("there are not so many seeds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Range, parse};

    #[test]
    fn no_seed_is_lost_or_run_twice() {
        for seeds in [1, 2, 3, 1000, u64::MAX] {
            let range = Range { first: 0, seeds };
            let shares = range.split(3);
            let mut next = 0;
            for share in &shares {
                assert_eq!(share.first, next);
                next += share.seeds;
            }
            assert_eq!(next, seeds);
        }
    }

    #[test]
    fn arguments_are_numbers() {
        let parse = |words: &[&str]| parse(&words.iter().map(|&w| w.into()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok(Range { first: 0, seeds: 100_000 }));
        assert_eq!(parse(&["--seeds", "7", "--first", "9"]), Ok(Range { first: 9, seeds: 7 }));
        let most = u64::MAX.to_string();
        for wrong in
            [&["--seeds", "0"][..], &["--seeds"], &["7"], &["--seeds", "2", "--first", &most]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
