//! `cargo xtask bench adapters`: the same loads through every client.
//!
//! All of them, and libnbd where it can be compiled against, talk to one nbdkit in turns;
//! a ratio is the median of each round's.

use super::contender::Contender;
use super::report::{median, ratio};
use super::rounds::in_turns;
use super::server::{Directory, Server};
use super::{LOADS, command};
use crate::Outcome;
use crate::workspace::cargo;

/// Builds the programs, runs all rounds and prints a table for each load.
pub(super) fn run(rounds: usize) -> Outcome {
    command(&mut cargo(["build", "--release", "-p", "nbd-bench"]))?;
    let mut contenders = Contender::adapters()?;
    let clients = contenders.len();
    contenders.extend(Contender::libnbd()?);
    let directory = Directory::fresh("adapters")?;
    let server = Server::memory(directory.path())?;
    let uri = server.uri();
    // The disk takes memory when it is first written to; that is no one's turn.
    contenders[0].measure(&LOADS[2], &uri)?;
    println!(
        "{:<34}{:>14}{:>10}{:>12}{:>12}",
        "median of all rounds", "", "ops/s", "/ blocking", "/ libnbd"
    );
    for load in &LOADS {
        eprintln!("==> {}: {rounds} rounds", load.name);
        let results = in_turns(rounds, contenders.len(), |turn| {
            Ok(contenders[turn].measure(load, &uri)?.ops_per_s)
        })?;
        let (ours, libnbd) = (&results[0], results.get(clients));
        for (contender, rounds) in contenders.iter().zip(&results) {
            let middle = median(rounds.iter().copied());
            let beside = |other: &Vec<f64>| ratio(rounds, other);
            let beside = [Some(ours), libnbd].map(|other| other.and_then(beside));
            print!("{:<34}{:>14}", load.name, contender.name());
            println!("{}{}{}", cell(middle, 10, 0), cell(beside[0], 12, 2), cell(beside[1], 12, 2));
        }
    }
    Ok(())
}

fn cell(value: Option<f64>, width: usize, decimals: usize) -> String {
    match value {
        Some(value) => format!("{value:>width$.decimals$}"),
        None => format!("{:>width$}", "-"),
    }
}
