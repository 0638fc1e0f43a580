//! The same copies by `nbd copy`, nbdcopy and qemu-img convert, start and end of the programs
//! included.
//!
//! Before any is timed each has copied once to servers that were just started, and qemu-img
//! compare has found what was to be there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tls::make_certificates;
use super::{Entry, Run};
use crate::Outcome;
use crate::bench::data::{Sample, Side};
use crate::bench::server::{Server, nbdkit};
use crate::bench::whole_program::time;
use crate::steps::{capture, run as command};
use crate::workspace::{has_program, nbd_program, target_dir};

/// Bytes in a copy.
const SIZE: u64 = 1 << 30;

/// A kind of copy.
struct Row {
    name: &'static str,
    /// The servers' command lines, without where they listen.
    servers: &'static [&'static [&'static str]],
    /// What is copied: `{uri}` and `{uri2}` are at those servers, `{full}` and `{sparse}` are
    /// files, `{out}` is one that is made.
    from: &'static str,
    to: &'static str,
    /// The file that holds the same as the destination afterwards.
    holds: Option<&'static str>,
}

const PSK: &str = "nbds+unix://alice@/?socket={socket}&tls-psk-file={keys.psk}";
const X509: &str = "nbds+unix:///?socket={socket}&tls-certificates={pki}";

const ROWS: [Row; 14] = [
    Row {
        name: "pattern to null",
        servers: &[&["nbdkit", "pattern", "1G"]],
        from: "{uri}",
        to: "null:",
        holds: None,
    },
    Row {
        name: "file to server",
        servers: &[&["nbdkit", "memory", "1G"]],
        from: "{full}",
        to: "{uri}",
        holds: Some("full"),
    },
    Row {
        name: "server to file",
        servers: &[&["nbdkit", "file", "{full}"]],
        from: "{uri}",
        to: "{out}",
        holds: Some("full"),
    },
    Row {
        name: "server to server",
        servers: &[&["nbdkit", "file", "{full}"], &["nbdkit", "memory", "1G"]],
        from: "{uri}",
        to: "{uri2}",
        holds: Some("full"),
    },
    Row {
        name: "sparse file to server",
        servers: &[&["nbdkit", "memory", "1G"]],
        from: "{sparse}",
        to: "{uri}",
        holds: Some("sparse"),
    },
    Row {
        name: "sparse server to file",
        servers: &[&["nbdkit", "file", "{sparse}"]],
        from: "{uri}",
        to: "{out}",
        holds: Some("sparse"),
    },
    Row {
        name: "sparse server to server",
        servers: &[&["nbdkit", "file", "{sparse}"], &["nbdkit", "memory", "1G"]],
        from: "{uri}",
        to: "{uri2}",
        holds: Some("sparse"),
    },
    Row {
        name: "qcow2 by qemu-nbd",
        servers: &[&["qemu-nbd", "-t", "-e", "0", "-r", "-f", "qcow2", "{qcow2}"]],
        from: "{uri}",
        to: "{out}",
        holds: Some("full"),
    },
    Row {
        name: "PSK to file",
        servers: &[&["nbdkit", "--tls=require", "--tls-psk={keys.psk}", "file", "{full}"]],
        from: PSK,
        to: "{out}",
        holds: Some("full"),
    },
    Row {
        name: "X.509 to file",
        servers: &[&["nbdkit", "--tls=require", "--tls-certificates={pki}", "file", "{full}"]],
        from: X509,
        to: "{out}",
        holds: Some("full"),
    },
    Row {
        name: "X.509 from file",
        servers: &[&["nbdkit", "--tls=require", "--tls-certificates={pki}", "memory", "1G"]],
        from: "{full}",
        to: X509,
        holds: Some("full"),
    },
    Row {
        name: "256 MiB, 1 ms away",
        servers: &[&["nbdkit", "--filter=delay", "pattern", "256M", "rdelay=1ms"]],
        from: "{uri}",
        to: "null:",
        holds: None,
    },
    Row {
        name: "256 MiB, 10 ms away",
        servers: &[&["nbdkit", "--filter=delay", "pattern", "256M", "rdelay=10ms"]],
        from: "{uri}",
        to: "null:",
        holds: None,
    },
    Row {
        name: "256 MiB, 50 ms away",
        servers: &[&["nbdkit", "--filter=delay", "pattern", "256M", "rdelay=50ms"]],
        from: "{uri}",
        to: "null:",
        holds: None,
    },
];

/// Who copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Ours,
    Nbdcopy,
    QemuImg,
}

pub(super) fn run(run: &mut Run) -> Outcome {
    let room = Room::new()?;
    for row in &ROWS {
        let tools = [
            Entry::new("nbd copy", Side::Ours, Tool::Ours),
            Entry::new("nbdcopy", Side::Theirs, Tool::Nbdcopy),
            Entry::new("qemu-img", Side::Theirs, Tool::QemuImg),
        ];
        let tools: Vec<_> = tools.into_iter().filter(|entry| entry.what.can(row)).collect();
        // Those of the rounds are there from the first one on.
        let mut servers = None;
        run.race(
            row.name,
            None,
            &tools,
            |entry| entry.what.try_out(&room, row),
            |entry| {
                if servers.is_none() {
                    servers = Some(start_all(&room, row)?);
                }
                entry.what.measure(&room, row)
            },
        );
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
        if !room.file("keys.psk").exists() {
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/urandom", "bs=1M", "count=1024", "status=none"]);
            command(dd.arg(format!("of={}", room.file("full").display())))?;
            sparse(&room.file("sparse"), &room.file("full"))?;
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
            command(convert.arg(room.file("full")).arg(room.file("qcow2")))?;
            let mut psktool = Command::new("psktool");
            command(psktool.args(["-u", "alice", "-p"]).arg(room.file("keys.psk")))?;
        }
        // They are not valid for long.
        let pki = room.file("pki");
        fs::create_dir_all(&pki).map_err(failed)?;
        make_certificates(&pki)?;
        Ok(room)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn fill(&self, word: &str) -> String {
        let uri = |socket| format!("nbd+unix:///?socket={}", self.file(socket).display());
        let mut word = word.replace("{uri}", &uri("socket")).replace("{uri2}", &uri("socket2"));
        for name in ["socket", "full", "sparse", "qcow2", "out", "keys.psk", "pki"] {
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

/// Where servers listen, the first one and the second.
const SOCKETS: [&str; 2] = ["socket", "socket2"];

/// Starts the servers of a row.
fn start_all(room: &Room, row: &Row) -> Outcome<Vec<Server>> {
    let start = |(line, socket): (&&[&str], &str)| {
        let socket = room.file(socket);
        let words: Vec<String> = line.iter().map(|word| room.fill(word)).collect();
        let (name, rest) = words.split_first().ok_or("no server")?;
        let mut server = match name.as_str() {
            "nbdkit" => nbdkit(&socket),
            name => {
                let mut server = Command::new(name);
                server.arg("-k").arg(&socket);
                server
            }
        };
        Server::start(server.args(rest), &socket)
    };
    row.servers.iter().zip(SOCKETS).map(start).collect()
}

impl Tool {
    fn can(self, row: &Row) -> bool {
        match self {
            Self::Ours => true,
            Self::Nbdcopy => has_program("nbdcopy"),
            // It has no such destination.
            Self::QemuImg => {
                let tls = [row.from, row.to].iter().any(|word| word.starts_with("nbds"));
                // It has no such destination, and takes no credentials from a URI.
                row.to != "null:" && !tls && has_program("qemu-img")
            }
        }
    }

    /// Copies once, with servers that nobody has written to, and looks at what is there then.
    fn try_out(self, room: &Room, row: &Row) -> Outcome {
        let _servers = start_all(room, row)?;
        self.measure(room, row)?;
        let Some(expected) = row.holds else {
            return Ok(());
        };
        let mut copied = room.fill(row.to);
        if copied.starts_with("nbds") {
            // qemu-img takes no credentials from a URI.
            let file = room.file("fetched");
            command(Command::new("nbdcopy").arg(&copied).arg(&file))?;
            copied = file.display().to_string();
        }
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(room.file(expected)).arg(copied);
        capture(&mut compare).map(drop).map_err(|error| format!("wrong data: {error}"))
    }

    fn measure(self, room: &Room, row: &Row) -> Outcome<Sample> {
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
                if row.to.starts_with("{uri") {
                    convert.arg("-n");
                }
                convert
            }
        };
        let bytes = if row.name.starts_with("256 MiB") { 256 << 20 } else { SIZE };
        time(copy.args([from, to]).stdout(Stdio::null()), bytes)
    }
}
