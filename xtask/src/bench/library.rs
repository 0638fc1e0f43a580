//! `cargo xtask bench library`: programs that know nothing of this project, on the system's
//! libnbd and on ours, in turns.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::contender::{Contender, Measurement};
use super::report::Report;
use super::rounds::in_turns;
use super::server::{Directory, Server, nbdkit};
use super::{LOADS, Load};
use crate::steps::capture;
use crate::workspace::{has_program, target_dir};
use crate::{Outcome, capi};

const LOADS_MORE: [Load; 2] = [
    Load {
        name: "random read 4 KiB, depth 1",
        direction: "read",
        size: "4k",
        depth: 1,
        count: 20_000,
    },
    Load {
        name: "random write 4 KiB, depth 64",
        direction: "write",
        size: "4k",
        depth: 64,
        count: 100_000,
    },
];

/// What is copied and read by whole programs, in MiB.
const DISK: u32 = 1024;

/// Who runs on it.
enum Library {
    Ours(PathBuf),
    System,
}

impl Library {
    /// Has a program that was built against the system's find this one.
    fn apply(&self, program: &mut Command) {
        if let Self::Ours(directory) = self {
            program.env("LD_LIBRARY_PATH", directory);
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "ours",
            Self::System => "system's",
        }
    }
}

/// Builds the library, runs all rounds and prints one table.
pub(super) fn run(rounds: usize) -> Outcome {
    let prefix = target_dir()?.join("bench-library");
    capi::run(&["--prefix".to_owned(), prefix.display().to_string()])?;
    let libraries = [Library::Ours(prefix.join("lib")), Library::System];
    let Some(client) = Contender::libnbd()? else {
        return Err("there is no libnbd to compare with (Debian package libnbd-dev)".to_owned());
    };
    let directory = Directory::fresh("library")?;
    let mut report = Report::new(libraries.iter().map(Library::name).collect());
    calls(directory.path(), &client, &libraries, rounds, &mut report)?;
    programs(directory.path(), &libraries, rounds, &mut report)?;
    print!("{report}");
    Ok(())
}

/// The loop on the library's calls.
fn calls(
    dir: &Path,
    client: &Contender,
    libraries: &[Library],
    rounds: usize,
    report: &mut Report,
) -> Outcome {
    let server = Server::memory(dir)?;
    let uri = server.uri();
    // The disk takes memory when it is first written to; that is no one's turn.
    client.measure(&LOADS[2], &uri)?;
    for load in LOADS.iter().chain(&LOADS_MORE) {
        eprintln!("==> {}: {rounds} rounds", load.name);
        let results = in_turns(rounds, libraries.len(), |turn| {
            let words = client.words(load, load.count, &uri);
            measure(&words, &libraries[turn])
        })?;
        report.operations(load.name, &results);
    }
    Ok(())
}

fn measure(words: &[OsString], library: &Library) -> Outcome<Measurement> {
    let (name, args) = words.split_first().ok_or("no program")?;
    let mut program = Command::new(name);
    library.apply(program.args(args));
    let (json, _) = capture(&mut program)?;
    Measurement::parse(&json).ok_or_else(|| format!("no measurement but: {json}"))
}

/// Whole programs, by the time they take.
fn programs(dir: &Path, libraries: &[Library], rounds: usize, report: &mut Report) -> Outcome {
    let socket = dir.join("p");
    let server = Server::start(nbdkit(&socket).args(["memory", &format!("{DISK}M")]), &socket)?;
    let uri = server.uri();
    let fio = |direction: &str, size: &str, depth: &str| {
        let mut words = vec!["fio".to_owned(), "--name=load".to_owned()];
        words.extend(["--ioengine=nbd", "--size=1G", "--minimal"].map(str::to_owned));
        words.push(format!("--io_size={}", if size == "4k" { "400M" } else { "2G" }));
        words.push(format!("--rw={direction}"));
        words.push(format!("--bs={size}"));
        words.push(format!("--iodepth={depth}"));
        words.push(format!("--uri={uri}"));
        words
    };
    let copy = |words: [&str; 2]| {
        ["nbdcopy", words[0], words[1]].into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let rows = [
        ("fio, random write 256 KiB, depth 16", fio("randwrite", "256k", "16")),
        ("fio, random read 4 KiB, depth 64", fio("randread", "4k", "64")),
        ("fio, random read 256 KiB, depth 16", fio("randread", "256k", "16")),
        ("nbdcopy to nowhere", copy([&uri, "null:"])),
    ];
    for (label, words) in rows {
        if !has_program(&words[0]) {
            eprintln!("{} is not installed: it is not measured", words[0]);
            continue;
        }
        eprintln!("==> {label}: {rounds} rounds");
        let results = in_turns(rounds, libraries.len(), |turn| {
            let mut program = Command::new(&words[0]);
            libraries[turn].apply(program.args(&words[1..]).current_dir(dir));
            let start = Instant::now();
            capture(&mut program)?;
            let rate = 1.0 / start.elapsed().as_secs_f64();
            Ok(Measurement { ops_per_s: rate, mib_per_s: rate, syscalls_per_op: None })
        })?;
        report.operations(&format!("{label} (runs)"), &results);
    }
    Ok(())
}
