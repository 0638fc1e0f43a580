//! `cargo xtask bench adapters`: the same loads through every client.
//!
//! All of them, and libnbd where it can be compiled against, talk to one nbdkit in turns;
//! a ratio is that of the medians of all rounds.

use super::contender::Contender;
use super::report::median;
use super::server::Server;
use super::{LOADS, command};
use crate::Outcome;
use crate::workspace::cargo;

/// Builds the programs, runs all rounds and prints a table for each load.
pub(super) fn run(rounds: usize) -> Outcome {
    command(&mut cargo(["build", "--release", "-p", "nbd-bench"]))?;
    let mut contenders = Contender::adapters()?;
    let clients = contenders.len();
    contenders.extend(Contender::libnbd()?);
    let server = Server::start()?;
    // The disk takes memory when it is first written to; that is no one's turn.
    contenders[0].measure(&LOADS[2], server.uri())?;
    println!(
        "{:<34}{:>14}{:>10}{:>12}{:>12}",
        "median of all rounds", "", "ops/s", "/ blocking", "/ libnbd"
    );
    for load in &LOADS {
        eprintln!("==> {}: {rounds} rounds", load.name);
        let mut results = vec![Vec::with_capacity(rounds); contenders.len()];
        for _ in 0..rounds {
            for (contender, results) in contenders.iter().zip(&mut results) {
                results.push(contender.measure(load, server.uri())?.ops_per_s);
            }
        }
        let medians: Vec<f64> =
            results.into_iter().filter_map(|rounds| median(rounds.into_iter())).collect();
        let ours = medians.first().copied().unwrap_or(f64::NAN);
        let libnbd = medians.get(clients).copied();
        for (contender, median) in contenders.iter().zip(&medians) {
            print!(
                "{:<34}{:>14}{median:>10.0}{:>12.2}",
                load.name,
                contender.name(),
                median / ours
            );
            match libnbd {
                Some(libnbd) => println!("{:>12.2}", median / libnbd),
                None => println!("{:>12}", "-"),
            }
        }
    }
    Ok(())
}
