//! `cargo xtask bench copies`: the same copies by `nbd copy`, nbdcopy and qemu-img convert.
//!
//! They take turns, each as often before the other as behind it; what is told is the median
//! of each round's ratio.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::report::{median, ratio};
use super::rounds::in_turns;
use crate::Outcome;
use crate::steps::run as command;
use crate::workspace::{has_program, nbd_program, target_dir};

/// Bytes in a copy.
const SIZE: u64 = 1 << 30;

/// A kind of copy.
struct Row {
    name: &'static str,
    /// The server's command line behind `-U SOCKET`, and whether it is nbdkit.
    server: &'static [&'static str],
    /// What is copied: `{uri}`, `{sparse}` and `{full}` are files, `{out}` is one that is made.
    from: &'static str,
    to: &'static str,
}

const ROWS: [Row; 9] = [
    Row {
        name: "pattern to null",
        server: &["nbdkit", "pattern", "1G"],
        from: "{uri}",
        to: "null:",
    },
    Row {
        name: "file to server",
        server: &["nbdkit", "memory", "1G"],
        from: "{full}",
        to: "{uri}",
    },
    Row {
        name: "server to file",
        server: &["nbdkit", "file", "{full}"],
        from: "{uri}",
        to: "{out}",
    },
    Row {
        name: "sparse file to server",
        server: &["nbdkit", "memory", "1G"],
        from: "{sparse}",
        to: "{uri}",
    },
    Row {
        name: "sparse server to file",
        server: &["nbdkit", "file", "{sparse}"],
        from: "{uri}",
        to: "{out}",
    },
    Row {
        name: "qcow2 by qemu-nbd",
        server: &["qemu-nbd", "-t", "-e", "0", "-r", "-f", "qcow2", "{qcow2}"],
        from: "{uri}",
        to: "{out}",
    },
    Row {
        name: "256 MiB, 1 ms away",
        server: &["nbdkit", "--filter=delay", "pattern", "256M", "rdelay=1ms"],
        from: "{uri}",
        to: "null:",
    },
    Row {
        name: "256 MiB, 10 ms away",
        server: &["nbdkit", "--filter=delay", "pattern", "256M", "rdelay=10ms"],
        from: "{uri}",
        to: "null:",
    },
    Row {
        name: "256 MiB, 50 ms away",
        server: &["nbdkit", "--filter=delay", "pattern", "256M", "rdelay=50ms"],
        from: "{uri}",
        to: "null:",
    },
];

/// Who copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Ours,
    Nbdcopy,
    QemuImg,
}

/// Builds the program, runs all rounds and prints a table.
pub(super) fn run(rounds: usize) -> Outcome {
    super::build(&["--features", "psk"])?;
    let room = Room::new()?;
    println!(
        "{:<28}{:>10}{:>14}{:>14}",
        "median of all rounds", "seconds", "/ nbdcopy", "/ qemu-img"
    );
    for row in &ROWS {
        eprintln!("==> {}: {rounds} rounds", row.name);
        let server = Server::start(&room, row)?;
        let tools: Vec<Tool> = [Tool::Ours, Tool::Nbdcopy, Tool::QemuImg]
            .into_iter()
            .filter(|tool| tool.can(row))
            .collect();
        // The first one finds caches cold, which is no one's turn.
        tools[0].measure(&room, row)?;
        let results = in_turns(rounds, tools.len(), |turn| tools[turn].measure(&room, row))?;
        drop(server);
        let beside = |tool| {
            let place = tools.iter().position(|one| *one == tool)?;
            ratio(&results[0], &results[place])
        };
        let cell = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        };
        let seconds = cell(median(results[0].iter().copied()));
        let (nbdcopy, qemu) = (cell(beside(Tool::Nbdcopy)), cell(beside(Tool::QemuImg)));
        println!("{:<28}{seconds:>10}{nbdcopy:>14}{qemu:>14}", row.name);
    }
    Ok(())
}

/// Where everything is.
struct Room {
    directory: PathBuf,
}

impl Room {
    fn new() -> Outcome<Self> {
        let directory = target_dir()?.join("bench-copies");
        let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
        fs::create_dir_all(&directory).map_err(failed)?;
        let room = Self { directory: directory.clone() };
        if !room.file("full").exists() {
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/urandom", "bs=1M", "count=1024", "status=none"]);
            command(dd.arg(format!("of={}", room.file("full").display())))?;
            sparse(&room.file("sparse"), &room.file("full"))?;
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
            command(convert.arg(room.file("full")).arg(room.file("qcow2")))?;
        }
        Ok(room)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn fill(&self, word: &str) -> String {
        let uri = format!("nbd+unix:///?socket={}", self.file("socket").display());
        let mut word = word.replace("{uri}", &uri);
        for name in ["full", "sparse", "qcow2", "out"] {
            word = word.replace(&format!("{{{name}}}"), &self.file(name).display().to_string());
        }
        word
    }
}

/// Every eighth MiB is data.
fn sparse(path: &Path, full: &Path) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    File::create(path).and_then(|file| file.set_len(SIZE)).map_err(failed)?;
    for mib in (0..SIZE >> 20).step_by(8) {
        let mut dd = Command::new("dd");
        dd.args(["bs=1M", "count=1", "conv=notrunc", "status=none"]);
        dd.arg(format!("if={}", full.display())).arg(format!("of={}", path.display()));
        let status = dd.args([format!("skip={mib}"), format!("seek={mib}")]).status();
        status.map_err(failed)?;
    }
    Ok(())
}

/// A server that is there while this is.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn start(room: &Room, row: &Row) -> Outcome<Self> {
        let socket = room.file("socket");
        let words: Vec<String> = row.server.iter().map(|word| room.fill(word)).collect();
        let (name, rest) = words.split_first().ok_or("no server")?;
        let mut server = Command::new(name);
        match name.as_str() {
            "nbdkit" => server.arg("-f").arg("-U").arg(&socket),
            _ => server.arg("-k").arg(&socket),
        };
        // It may be left from a run that was killed.
        let _ = fs::remove_file(&socket);
        let child = server.args(rest).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("{name}: {error}"))?;
        let started = Self { child, socket };
        let until = Instant::now() + Duration::from_secs(30);
        while !started.socket.exists() {
            if Instant::now() > until {
                return Err(format!("{name} does not start"));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(started)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is ours, and has nothing to keep.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

impl Tool {
    fn can(self, row: &Row) -> bool {
        match self {
            Self::Ours => true,
            Self::Nbdcopy => has_program("nbdcopy"),
            // It has no such destination.
            Self::QemuImg => row.to != "null:" && has_program("qemu-img"),
        }
    }

    /// Seconds that a copy takes.
    fn measure(self, room: &Room, row: &Row) -> Outcome<f64> {
        let (from, to) = (room.fill(row.from), room.fill(row.to));
        // A new file each time, for everybody.
        let _ = fs::remove_file(room.file("out"));
        let mut copy = match self {
            Self::Ours => {
                let mut copy = Command::new(nbd_program()?);
                copy.arg("copy");
                copy
            }
            Self::Nbdcopy => Command::new("nbdcopy"),
            Self::QemuImg => {
                let mut convert = Command::new("qemu-img");
                convert.args(["convert", "-f", "raw", "-O", "raw"]);
                // A destination that is there already.
                if row.to == "{uri}" {
                    convert.arg("-n");
                }
                convert
            }
        };
        copy.args([from, to]).stdout(Stdio::null()).stderr(Stdio::piped());
        let begin = Instant::now();
        let done = copy.output().map_err(|error| format!("cannot copy: {error}"))?;
        let took = begin.elapsed().as_secs_f64();
        match done.status.success() {
            true => Ok(took),
            false => Err(format!("{}: {}", row.name, String::from_utf8_lossy(&done.stderr))),
        }
    }
}
