//! `cargo xtask bench`: the same loads through `nbd bench` and through libnbd.
//!
//! Both programs talk to one nbdkit, which keeps the disk in memory. They take
//! turns, each as often before the other as behind it, so that a machine that slows
//! down slows both down, and the median of each round's ratio is told. Instructions
//! are counted by valgrind: other work on the machine changes only how many replies
//! share a read.

mod adapters;
mod callgrind;
mod contender;
mod copies;
pub(crate) mod core;
mod library;
mod report;
mod rounds;
mod serve;
mod server;
mod tls;

use self::contender::Contender;
use self::report::Report;
use self::rounds::in_turns;
use self::server::{Directory, Server};
use crate::Outcome;
use crate::steps::run as command;
use crate::workspace::{cargo, has_program};

/// What to ask of the server.
struct Load {
    name: &'static str,
    direction: &'static str,
    /// Bytes in a request, with a unit.
    size: &'static str,
    /// Requests in flight.
    depth: u32,
    /// Requests in a round: about a second of work.
    count: u32,
}

const LOADS: [Load; 3] = [
    Load {
        name: "random read 4 KiB, depth 64",
        direction: "read",
        size: "4k",
        depth: 64,
        count: 100_000,
    },
    Load {
        name: "random read 256 KiB, depth 16",
        direction: "read",
        size: "256k",
        depth: 16,
        count: 10_000,
    },
    Load {
        name: "random write 256 KiB, depth 16",
        direction: "write",
        size: "256k",
        depth: 16,
        count: 10_000,
    },
];

/// Builds both programs, runs all rounds and prints one table.
pub(crate) fn run(args: &[String]) -> Outcome {
    let rounds = match args.split_first() {
        Some((word, rest)) if word == "tls" => return tls::run(parse(rest)?),
        Some((word, rest)) if word == "adapters" => return adapters::run(parse(rest)?),
        Some((word, rest)) if word == "copies" => return copies::run(parse(rest)?),
        Some((word, rest)) if word == "library" => return library::run(parse(rest)?),
        Some((word, rest)) if word == "serve" => return serve::run(parse(rest)?),
        Some((word, rest)) if word == "core" => return core::run(rest),
        _ => parse(args)?,
    };
    build(&[])?;
    let contenders = Contender::all()?;
    let directory = Directory::fresh("plain")?;
    let server = Server::memory(directory.path())?;
    let uri = server.uri();
    // The disk takes memory when it is first written to; that is no one's turn.
    for load in &LOADS[1..] {
        contenders[0].measure(load, &uri)?;
    }

    let mut report = Report::new(contenders.iter().map(Contender::name).collect());
    for load in &LOADS {
        eprintln!("==> {}: {rounds} rounds", load.name);
        let results =
            in_turns(rounds, contenders.len(), |turn| contenders[turn].measure(load, &uri))?;
        report.throughput(load.name, &results);
    }
    if has_program("valgrind") {
        eprintln!("==> instructions");
        let counts = contenders
            .iter()
            .map(|contender| callgrind::instructions_per_request(contender, &LOADS[0], &uri))
            .collect::<Outcome<Vec<_>>>()?;
        report.instructions("user instructions per 4 KiB read", &counts);
    } else {
        eprintln!("valgrind is not installed: instructions are not counted");
    }
    print!("{report}");
    Ok(())
}

/// Builds our program.
fn build(more: &[&str]) -> Outcome {
    command(cargo(["build", "--release", "-p", "nbd-cli"]).args(more))
}

fn parse(args: &[String]) -> Outcome<usize> {
    match args {
        [] => Ok(11),
        [option, rounds] if option == "--rounds" => match rounds.parse() {
            Ok(rounds) if rounds > 0 => Ok(rounds),
            _ => Err(format!("--rounds wants a number above 0, not {rounds:?}")),
        },
        _ => Err(
            "usage: cargo xtask bench [tls|adapters|copies|library|serve] [--rounds N], or core [--check]"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn rounds_are_a_positive_number() {
        let parse = |words: &[&str]| parse(&words.iter().map(|&w| w.into()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok(11));
        assert_eq!(parse(&["--rounds", "9"]), Ok(9));
        for wrong in [&["--rounds", "0"][..], &["--rounds", "x"], &["--rounds"], &["x"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
