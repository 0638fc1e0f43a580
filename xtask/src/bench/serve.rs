//! `cargo xtask bench serve`: `nbd serve` beside nbdkit and qemu-nbd.
//!
//! The same loads, by our client and by libnbd's, take turns at servers of the same disk: one in
//! memory, a file that is cached, and a file whose every read takes a millisecond. Then a hundred
//! busy connections, alone and among thousands that ask for nothing.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{slice, thread};

use super::contender::{Contender, Measurement};
use super::report::Report;
use super::rounds::in_turns;
use super::server::{DISK, Directory, Server, nbdkit};
use super::{LOADS, Load};
use crate::Outcome;
use crate::steps::capture;
use crate::workspace::{has_program, nbd_program, target_dir};

/// What shows how long a request takes from end to end.
const ONE: Load = Load {
    name: "random read 4 KiB, depth 1",
    direction: "read",
    size: "4k",
    depth: 1,
    count: 20_000,
};

/// A disk on which neighbours of what was read are hardly ever asked for.
const SLOW_DISK: &str = "64G";

const SLOW: [Load; 2] = [
    Load { name: "1 ms away, depth 64", direction: "read", size: "4k", depth: 64, count: 4000 },
    Load { name: "1 ms away, depth 1", direction: "read", size: "4k", depth: 1, count: 400 },
];

/// Connections that are at work, and those that are only there.
const BUSY: u32 = 100;
const IDLE: u32 = 4900;

/// Builds the programs, runs all rounds and prints a table for each disk.
pub(super) fn run(rounds: usize) -> Outcome {
    super::build(&["-p", "nbd-bench"])?;
    let clients = Contender::all()?;
    let directory = Directory::fresh("serve")?;
    let dir = directory.path();
    in_memory(dir, &clients, rounds)?;
    cached(dir, &clients, rounds)?;
    if has_program("nbdfuse") {
        slow(dir, &clients[0], rounds)?;
    } else {
        eprintln!("nbdfuse is not installed: a slow file is not measured");
    }
    many(dir, rounds)
}

/// A server by the name it has in the table.
struct Row {
    name: &'static str,
    server: Server,
}

fn ours(dir: &Path, disk: &[&str]) -> Outcome<Row> {
    let socket = dir.join("ours");
    let mut program = Command::new(nbd_program()?);
    let program = program.arg("serve").args(disk).arg("--unix").arg(&socket);
    Ok(Row { name: "nbd serve", server: Server::start(program, &socket)? })
}

fn by_nbdkit(dir: &Path, disk: &[&str]) -> Outcome<Row> {
    let socket = dir.join("nbdkit");
    Ok(Row { name: "nbdkit", server: Server::start(nbdkit(&socket).args(disk), &socket)? })
}

/// Where it is installed.
fn by_qemu(dir: &Path, file: &str) -> Outcome<Option<Row>> {
    if !has_program("qemu-nbd") {
        eprintln!("qemu-nbd is not installed: it is not measured");
        return Ok(None);
    }
    let socket = dir.join("qemu");
    let mut program = Command::new("qemu-nbd");
    program.args(["-t", "-e", "0", "-f", "raw", "-k"]).arg(&socket).arg(file);
    Ok(Some(Row { name: "qemu-nbd", server: Server::start(&mut program, &socket)? }))
}

fn in_memory(dir: &Path, clients: &[Contender], rounds: usize) -> Outcome {
    let rows = [ours(dir, &["--memory", DISK])?, by_nbdkit(dir, &["memory", DISK])?];
    compare("memory", &rows, clients, &loads(), rounds, || Ok(()))
}

fn cached(dir: &Path, clients: &[Contender], rounds: usize) -> Outcome {
    let path = dir.join("disk");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    File::create(&path).and_then(|file| file.set_len(256 << 20)).map_err(failed)?;
    let file = path.display().to_string();
    let mut rows = vec![ours(dir, &[&file])?, by_nbdkit(dir, &["file", &file])?];
    rows.extend(by_qemu(dir, &file)?);
    compare("cached file", &rows, clients, &loads(), rounds, || Ok(()))
}

fn slow(dir: &Path, client: &Contender, rounds: usize) -> Outcome {
    let mount = Mount::new(dir)?;
    let file = mount.file.display().to_string();
    let mut rows = vec![ours(dir, &[&file])?];
    rows.extend(by_qemu(dir, &file)?);
    rows.push(by_nbdkit(dir, &["file", &file])?);
    compare("file", &rows, slice::from_ref(client), &SLOW.each_ref(), rounds, || {
        // Nobody finds in the cache what the one before has read.
        let mut dd = Command::new("dd");
        dd.args(["iflag=nocache", "count=0", "status=none"]).arg(format!("if={file}"));
        capture(&mut dd).map(drop)
    })
}

fn loads() -> [&'static Load; 4] {
    [&LOADS[0], &ONE, &LOADS[1], &LOADS[2]]
}

/// All loads by all clients at these servers in turns; `before` comes before each turn.
fn compare(
    disk: &str,
    rows: &[Row],
    clients: &[Contender],
    loads: &[&Load],
    rounds: usize,
    before: impl Fn() -> Outcome,
) -> Outcome {
    let mut report = Report::new(rows.iter().map(|row| row.name).collect());
    let uris: Vec<String> = rows.iter().map(|row| row.server.uri()).collect();
    // What takes memory when it is first written to is no one's turn.
    if loads.iter().any(|load| load.direction == "write") {
        uris.iter().try_for_each(|uri| clients[0].measure(&LOADS[2], uri).map(drop))?;
    }
    for load in loads {
        for client in clients {
            let label = format!("{disk}, {}: {}", client.name(), load.name);
            eprintln!("==> {label}: {rounds} rounds");
            let results = in_turns(rounds, uris.len(), |turn| {
                before()?;
                client.measure(load, &uris[turn])
            })?;
            report.operations(&label, &results);
        }
    }
    print!("{report}");
    Ok(())
}

/// A file system with one file, whose every read takes a millisecond.
struct Mount {
    child: Child,
    file: PathBuf,
}

impl Mount {
    fn new(dir: &Path) -> Outcome<Self> {
        let file = dir.join("slow");
        let failed = |error: std::io::Error| format!("nbdfuse {}: {error}", file.display());
        File::create(&file).map_err(failed)?;
        let mut nbdfuse = Command::new("nbdfuse");
        nbdfuse.arg(&file).args(["[", "nbdkit", "--exit-with-parent", "--filter=delay", "memory"]);
        nbdfuse.args([SLOW_DISK, "rdelay=1ms", "]"]);
        let mount = Self { child: nbdfuse.stdin(Stdio::null()).spawn().map_err(failed)?, file };
        let deadline = Instant::now() + Duration::from_secs(30);
        while fs::metadata(&mount.file).map_or(0, |found| found.len()) == 0 {
            if Instant::now() > deadline {
                return Err(format!("nbdfuse did not mount {} within 30 s", mount.file.display()));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It ends when nothing is mounted any more; failing means that nothing is.
        let _ = Command::new("fusermount3").arg("-u").arg(&self.file).status();
        let _ = self.child.wait();
    }
}

/// Busy connections, alone and among idle ones.
fn many(dir: &Path, rounds: usize) -> Outcome {
    let most = (BUSY + IDLE + 8).to_string();
    let row = ours(dir, &["--memory", DISK, "--max-connections", &most])?;
    let uri = row.server.uri();
    let mut each = Vec::new();
    let label = format!("{BUSY} connections, 4 KiB reads");
    eprintln!("==> {label}, among {IDLE} and alone: {rounds} rounds");
    // Its threads and their memory are there from then on.
    busy(&uri)?;
    let results = in_turns(rounds, 2, |turn| match turn {
        0 => {
            let before = resident(row.server.id())?;
            let idle = Idle::new(&uri)?;
            each.push((resident(row.server.id())? as f64 - before as f64) / f64::from(IDLE));
            let measured = busy(&uri);
            idle.end()?;
            measured
        }
        _ => busy(&uri),
    })?;
    let mut report = Report::new(vec!["among idle", "alone"]);
    report.operations(&label, &results);
    print!("{report}");
    each.sort_by(f64::total_cmp);
    println!("memory of an idle connection: at most {:.1} KiB", each.last().unwrap_or(&f64::NAN));
    Ok(())
}

fn busy(uri: &str) -> Outcome<Measurement> {
    let mut bench = Command::new(nbd_program()?);
    bench.args(["bench", "--json", "--size", "4k", "--depth", "1", "--count", "200000"]);
    let (json, _) = capture(bench.args(["--connections", &BUSY.to_string(), uri]))?;
    Measurement::parse(&json).ok_or_else(|| format!("no measurement but: {json}"))
}

/// Kilobytes that a process has in memory.
fn resident(process: u32) -> Outcome<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.ok_or_else(|| format!("{path} does not tell what is resident"))
}

/// A program that keeps connections that ask for nothing.
struct Idle(Child);

impl Idle {
    fn new(uri: &str) -> Outcome<Self> {
        let mut program = Command::new(target_dir()?.join("release/nbd-bench"));
        program.args(["idle", "--count", &IDLE.to_string(), uri]);
        let child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut idle = Self(child.map_err(|error| format!("cannot start nbd-bench: {error}"))?);
        let mut line = String::new();
        let told = idle.0.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        match told {
            Some(Ok(length)) if length > 0 => Ok(idle),
            _ => Err(format!("{IDLE} connections could not be made")),
        }
    }

    fn end(mut self) -> Outcome {
        drop(self.0.stdin.take());
        let status = self.0.wait().map_err(|error| format!("waiting for nbd-bench: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("nbd-bench ended with {status}")) }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // Failing means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
