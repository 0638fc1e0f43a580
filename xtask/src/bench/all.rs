//! `cargo xtask bench all`: measures everything, keeps it, and makes the page.

use std::fs;
use std::path::PathBuf;

use super::data::{self, Data};
use super::machine::Machine;
use super::parts::{PARTS, Part};
use super::{USAGE, page, table};
use crate::Outcome;
use crate::args::how_many;
use crate::steps::run as command;
use crate::workspace::cargo;

/// Rounds of each load, unless told.
const ROUNDS: usize = 5;

/// What to measure, and how often.
struct Wanted {
    rounds: usize,
    parts: Vec<&'static Part>,
}

pub(super) fn names() -> Vec<&'static str> {
    PARTS.iter().map(|part| part.name).collect()
}

/// Measures all parts, or some of them, writes what came out and makes the page.
pub(super) fn run(args: &[String]) -> Outcome {
    let wanted = Wanted::parse(args)?;
    build()?;
    let machine = Machine::here(wanted.rounds)?;
    let path = data::directory().join(format!("{}.jsonl", machine.date));
    let before = path.exists().then(|| data::read(&path)).transpose()?;
    let mut measured = Data { machine, rows: Vec::new() };
    for part in &wanted.parts {
        measured.rows.extend(part.measure(wanted.rounds));
        // Who interrupts it has what was measured so far.
        write(&path, &measured, before.as_ref())?;
    }
    page::write()?;
    eprintln!("    written: {}, and the page", path.display());
    Ok(())
}

/// Measures one part, and prints its tables.
pub(super) fn run_one(name: &str, args: &[String]) -> Outcome {
    let part = find(name)?;
    let wanted = Wanted::parse(args)?;
    build()?;
    let machine = Machine::here(wanted.rounds)?;
    let measured = Data { machine, rows: part.measure(wanted.rounds) };
    print!("{}", table::tables(&measured, name));
    Ok(())
}

/// Programs that are measured, with everything that a part asks of them.
fn build() -> Outcome {
    let features = ["--features", "nbd-cli/psk,nbd-bench/psk"];
    command(cargo(["build", "--release", "-p", "nbd-cli", "-p", "nbd-bench"]).args(features))
}

fn write(path: &PathBuf, measured: &Data, before: Option<&Data>) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(data::directory()).map_err(failed)?;
    let mut all = measured.clone();
    if let Some(before) = before {
        all.keep_others(before.clone());
    }
    fs::write(path, all.render()?).map_err(failed)
}

fn find(name: &str) -> Outcome<&'static Part> {
    let part = PARTS.iter().find(|part| part.name == name);
    part.ok_or_else(|| format!("there is no part {name:?}\n{USAGE}\nparts: {}", names().join(" ")))
}

impl Wanted {
    fn parse(args: &[String]) -> Outcome<Self> {
        let mut wanted = Self { rounds: ROUNDS, parts: PARTS.iter().collect() };
        for pair in args.chunks(2) {
            match pair {
                [option, rounds] if option == "--rounds" => {
                    wanted.rounds = how_many(option, rounds)?;
                }
                [option, parts] if option == "--only" => {
                    wanted.parts = parts.split(',').map(find).collect::<Outcome<_>>()?;
                }
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Outcome<(usize, Vec<&'static str>)> {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        let wanted = Wanted::parse(&words)?;
        Ok((wanted.rounds, wanted.parts.iter().map(|part| part.name).collect()))
    }

    #[test]
    fn rounds_and_parts_are_chosen() {
        assert_eq!(parse(&[]), Ok((ROUNDS, names())));
        assert_eq!(parse(&["--rounds", "9"]), Ok((9, names())));
        let two = ["--only", "tls,copies", "--rounds", "1"];
        assert_eq!(parse(&two), Ok((1, vec!["tls", "copies"])));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let wrong: [&[&str]; 5] =
            [&["--rounds", "0"], &["--rounds", "x"], &["--rounds"], &["x"], &["--only", "x"]];
        for words in wrong {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
