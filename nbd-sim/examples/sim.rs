//! Runs simulated sessions: `cargo run -p nbd-sim --example sim -- --first 0 --seeds 1000`.
//!
//! Prints each failing seed on a line of its own, and a sum at the end.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut first, mut seeds) = (0, 1000);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|text| text.parse().ok());
        match (name.as_str(), value) {
            ("--first", Some(value)) => first = value,
            ("--seeds", Some(value)) => seeds = value,
            _ => {
                eprintln!("usage: sim [--first SEED] [--seeds COUNT]");
                return ExitCode::from(2);
            }
        }
    }
    let (mut commands, mut failures) = (0, 0);
    for seed in first..first + seeds {
        match nbd_sim::pair::run_seed(seed) {
            Ok(report) => commands += report.submitted,
            Err(failure) => {
                failures += 1;
                println!("{failure}");
            }
        }
    }
    println!("{seeds} sessions, {commands} commands, {failures} failures");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
