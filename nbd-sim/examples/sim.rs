//! Runs simulated sessions: `cargo run -p nbd-sim --example sim -- --first 0 --seeds 1000`.
//!
//! With `--recovery` they are stories of lost connections instead, see `nbd_sim::recovery`, and
//! with `--sessions` of whole sessions, see `nbd_sim::session`.
//! Prints each failing seed on a line of its own, and a sum at the end.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut first, mut seeds, mut recovery, mut sessions) = (0, 1000, false, false);
    while let Some(name) = arguments.next() {
        if name == "--recovery" {
            recovery = true;
            continue;
        }
        if name == "--sessions" {
            sessions = true;
            continue;
        }
        let value = arguments.next().and_then(|text| text.parse().ok());
        match (name.as_str(), value) {
            ("--first", Some(value)) => first = value,
            ("--seeds", Some(value)) => seeds = value,
            _ => {
                eprintln!("usage: sim [--recovery | --sessions] [--first SEED] [--seeds COUNT]");
                return ExitCode::from(2);
            }
        }
    }
    let (mut commands, mut failures) = (0, 0);
    for seed in first..first + seeds {
        let outcome = if sessions {
            let outcome = nbd_sim::session::run_seed(seed);
            outcome.map(|report| report.submitted).map_err(|failure| failure.to_string())
        } else if recovery {
            let outcome = nbd_sim::recovery::run_seed(seed);
            outcome.map(|report| report.submitted).map_err(|failure| failure.to_string())
        } else {
            let outcome = nbd_sim::pair::run_seed(seed);
            outcome.map(|report| report.submitted).map_err(|failure| failure.to_string())
        };
        match outcome {
            Ok(submitted) => commands += submitted,
            Err(failure) => {
                failures += 1;
                println!("{failure}");
            }
        }
    }
    println!("{seeds} sessions, {commands} commands, {failures} failures");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
