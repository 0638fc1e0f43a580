//! `cargo xtask bench attach`: `nbd attach` beside a program that only moves bytes.
//!
//! Both stand between the kernel and one nbdkit in the virtual machine and take turns. The ratio
//! says what is left of the throughput that anything at that place can have.

use std::fmt::Write;
use std::time::Duration;

use super::server::Directory;
use super::stats::{median, ratio};
use crate::Outcome;
use crate::args::how_many;
use crate::steps::run as command;
use crate::vm;
use crate::workspace::{cargo, find_program, nbd_program, target_dir};

/// In the order in which the script has them.
const LOADS: [&str; 4] =
    ["randread 4k 64", "randwrite 4k 64", "randread 256k 16", "randwrite 256k 16"];

/// Builds the programs, runs all rounds and prints one table.
pub(super) fn run(args: &[String]) -> Outcome {
    let rounds = parse(args)?;
    command(&mut cargo(["build", "--release", "-p", "nbd-cli"]))?;
    let pump = ["build", "--release", "-p", "nbd-bench", "--bin=nbd-bench-pump"];
    command(cargo(pump).arg("--no-default-features"))?;
    let directory = Directory::fresh("attach")?;
    let count = directory.path().join("rounds");
    std::fs::write(&count, rounds.to_string())
        .map_err(|error| format!("{}: {error}", count.display()))?;
    let find = |name| find_program(name).ok_or_else(|| format!("there is no {name}"));
    let (fio, nbdkit) = (find("fio")?, find("nbdkit")?);
    let files = vec![
        nbd_program()?,
        target_dir()?.join("release/nbd-bench-pump"),
        fio,
        vm::nbdkit_plugin(&nbdkit, "memory")?,
        nbdkit,
        count,
    ];
    let patience = Duration::from_secs(120 + 90 * u64::from(rounds));
    let said = vm::run_script("throughput.sh", files, patience)?;
    print!("{}", table(&said)?);
    Ok(())
}

fn parse(args: &[String]) -> Outcome<u32> {
    match args {
        [] => Ok(9),
        [option, rounds] if option == "--rounds" => how_many(option, rounds),
        _ => Err("usage: cargo xtask bench attach [--rounds N]".to_owned()),
    }
}

/// A line for each load, of what the script has said.
fn table(said: &[String]) -> Outcome<String> {
    let mut table =
        format!("{:<20}{:>12}{:>12}{:>8}\n", "requests/s", "nbd attach", "bytes", "ratio");
    for load in LOADS {
        let [ours, theirs] = ["nbd0", "nbd1"].map(|device| measured(said, device, load));
        let missing = || format!("the script has not measured {load} as often for both");
        let ratio = ratio(&ours, &theirs).ok_or_else(missing)?;
        let middle = |values: &[f64]| median(values).unwrap_or_default();
        let (ours, theirs) = (middle(&ours), middle(&theirs));
        writeln!(table, "{load:<20}{ours:>12.0}{theirs:>12.0}{ratio:>8.2}")
            .map_err(|error| error.to_string())?;
    }
    Ok(table)
}

/// All values of one device and load, in their order.
fn measured(said: &[String], device: &str, load: &str) -> Vec<f64> {
    let prefix = format!("measured {device} {load} ");
    said.iter().filter_map(|line| line.strip_prefix(&prefix)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_has_measured_is_a_table() {
        let line = |device, load, value| format!("measured {device} {load} {value}");
        let said: Vec<_> = LOADS
            .iter()
            .flat_map(|load| [line("nbd0", load, 90), line("nbd1", load, 100)])
            .collect();
        let told = table(&said).expect("all is there");
        let words: Vec<_> = told.lines().nth(1).unwrap_or("").split_whitespace().collect();
        assert_eq!(words, ["randread", "4k", "64", "90", "100", "0.90"]);
        assert!(table(&said[1..]).is_err());
    }
}
