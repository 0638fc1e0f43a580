//! What is measured, part by part.

mod clients;
mod connections;
mod copies;
mod depth;
mod library;
mod memory;
mod mount;
mod placement;
mod servers;
mod setup;
mod slow;
mod threads;
mod tls;

use std::path::Path;
use std::process::Command;

use super::contender::Contender;
use super::data::{Rounds, Row, Sample, Side};
use super::load::Load;
use super::rounds::{brief, race};
use super::server::{DISK, Directory, Server, nbdkit};
use crate::Outcome;
use crate::steps::capture;
use crate::workspace::nbd_program;

/// A part: its name, and what measures it.
pub(super) struct Part {
    pub(super) name: &'static str,
    run: fn(&mut Run) -> Outcome,
}

pub(super) const PARTS: [Part; 13] = [
    Part { name: "clients", run: clients::run },
    Part { name: "threads", run: threads::run },
    Part { name: "depth", run: depth::run },
    Part { name: "placement", run: placement::run },
    Part { name: "connections", run: connections::run },
    Part { name: "setup", run: setup::run },
    Part { name: "memory", run: memory::run },
    Part { name: "servers", run: servers::run },
    Part { name: "slow", run: slow::run },
    Part { name: "tls", run: tls::run },
    Part { name: "copies", run: copies::run },
    Part { name: "library", run: library::run },
    Part { name: "mount", run: mount::run },
];

/// What stands for a part that could not be measured.
const EVERYTHING: &str = "everything";

impl Part {
    /// Measures it. What fails altogether is a row, too.
    pub(super) fn measure(&self, rounds: usize) -> Vec<Row> {
        let mut run = Run { part: self.name, rounds, rows: Vec::new() };
        if let Err(error) = (self.run)(&mut run) {
            eprintln!("    {}: {error}", self.name);
            let result = Rounds::Failed(brief(&error));
            run.add(EVERYTHING, None, [(EVERYTHING.to_owned(), Side::Ours, result)]);
        }
        run.rows
    }
}

/// A part under way.
struct Run {
    part: &'static str,
    rounds: usize,
    rows: Vec<Row>,
}

/// Somebody who takes turns.
struct Entry<T> {
    name: String,
    side: Side,
    what: T,
}

impl<T> Entry<T> {
    fn new(name: impl Into<String>, side: Side, what: T) -> Self {
        Self { name: name.into(), side, what }
    }
}

impl Entry<Contender> {
    fn of(contender: Contender) -> Self {
        Self::new(contender.name, contender.side, contender)
    }
}

impl Run {
    /// All rounds of a load; returns the index of its first row.
    fn race<T>(
        &mut self,
        load: &str,
        at: Option<u64>,
        entries: &[Entry<T>],
        try_out: impl FnMut(&Entry<T>) -> Outcome,
        measure: impl FnMut(&Entry<T>) -> Outcome<Sample>,
    ) -> usize {
        eprintln!("==> {}: {load}: {} rounds", self.part, self.rounds);
        let first = self.rows.len();
        let results = race(self.rounds, entries, try_out, measure);
        let rows = entries.iter().zip(results);
        self.add(load, at, rows.map(|(entry, result)| (entry.name.clone(), entry.side, result)));
        first
    }

    fn add(
        &mut self,
        load: &str,
        at: Option<u64>,
        rows: impl IntoIterator<Item = (String, Side, Rounds)>,
    ) {
        let row = |(contender, side, result)| Row {
            part: self.part.to_owned(),
            load: load.to_owned(),
            at,
            contender,
            side,
            result,
        };
        let rows: Vec<Row> = rows.into_iter().map(row).collect();
        self.rows.extend(rows);
    }
}

/// A server with a disk whose every eight bytes tell where they are.
fn known(directory: &Path) -> Outcome<Server> {
    let socket = directory.join("known");
    Server::start(nbdkit(&socket).args(["pattern", DISK]), &socket)
}

/// Has a contender do what a load does once with known data, at servers that nobody has written
/// to, and looks.
fn try_out(directory: &Path, contender: &Contender, load: &Load, known: &Server) -> Outcome {
    if load.direction == "read" && contender.is_countable() {
        return contender.check(load, &known.uri());
    }
    let socket = directory.join("trial");
    let server = Server::start(nbdkit(&socket).args(["memory", DISK]), &socket)?;
    contender.check(load, &server.uri())?;
    // fio has looked itself.
    if contender.is_countable() { same(&server.uri(), &known.uri()) } else { Ok(()) }
}

/// Whether two disks hold the same, by a program that nobody of the contenders is.
fn same(one: &str, other: &str) -> Outcome {
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "raw", one, other]);
    capture(&mut compare).map(drop).map_err(|error| format!("wrong data: {error}"))
}

/// Our server with a disk.
fn ours(directory: &Path, disk: &[&str]) -> Outcome<Server> {
    let socket = directory.join("ours");
    let mut program = Command::new(nbd_program()?);
    Server::start(program.arg("serve").args(disk).arg("--unix").arg(&socket), &socket)
}

/// The same that looks for the next request awake.
fn ours_awake(directory: &Path, disk: &[&str]) -> Outcome<Server> {
    let socket = directory.join("awake");
    let mut program = Command::new(nbd_program()?);
    program.args(["serve", "--busy-poll=100"]).args(disk).arg("--unix").arg(&socket);
    Server::start(&mut program, &socket)
}

fn by_nbdkit(directory: &Path, disk: &[&str]) -> Outcome<Server> {
    let socket = directory.join("nbdkit");
    Server::start(nbdkit(&socket).args(disk), &socket)
}

fn by_qemu(directory: &Path, file: &str) -> Outcome<Server> {
    let socket = directory.join("qemu");
    let mut program = Command::new("qemu-nbd");
    program.args(["-t", "-e", "0", "-f", "raw", "-k"]).arg(&socket).arg(file);
    Server::start(&mut program, &socket)
}

/// All servers, each with a file of its own that is in memory when it was read once.
fn of_files(directory: &Directory) -> Outcome<Vec<Entry<Server>>> {
    let dir = directory.path();
    let file = |name: &str| {
        let path = dir.join(name);
        let made = std::fs::File::create(&path).and_then(|file| file.set_len(256 << 20));
        made.map_err(|error| format!("{}: {error}", path.display()))?;
        Outcome::Ok(path)
    };
    let [one, two, three, four] = ["disk-1", "disk-2", "disk-3", "disk-4"].map(file);
    let shown = |path: Outcome<std::path::PathBuf>| Ok::<_, String>(path?.display().to_string());
    Ok(vec![
        Entry::new(
            "nbd serve",
            Side::Ours,
            ours(dir, &[&shown(one)?, "--max-connections", "2000"])?,
        ),
        Entry::new("nbdkit", Side::Theirs, by_nbdkit(dir, &["file", &shown(two)?])?),
        Entry::new("qemu-nbd", Side::Theirs, by_qemu(dir, &shown(three)?)?),
        Entry::new("nbd-server", Side::Theirs, Server::nbd_server(dir, &four?)?),
    ])
}
