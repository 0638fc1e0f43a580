//! `cargo xtask bench tls`: the same comparison behind TLS, with certificates and with
//! pre-shared keys, and copies with `nbd copy` and nbdcopy.
//!
//! Beside large reads there is a row for a client that decrypts nothing: so fast is the server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::slice;
use std::time::Instant;

use super::contender::{Contender, Measurement};
use super::report::Report;
use super::rounds::in_turns;
use super::server::{DISK, Directory, Server, nbdkit};
use super::{Load, build};
use crate::Outcome;
use crate::steps::{capture, run as command};
use crate::workspace::nbd_program;

const LOADS: [Load; 2] = [
    Load { name: "read 256 KiB, depth 4", direction: "read", size: "256k", depth: 4, count: 3_000 },
    Load { name: "read 4 KiB, depth 16", direction: "read", size: "4k", depth: 16, count: 30_000 },
];

/// What puts data on a disk first: at random, so four times as much as the larger one holds.
const FILL: Load = Load { name: "fill", direction: "write", size: "256k", depth: 4, count: 16_384 };

/// The size of the disk to copy, in MiB: enough to be more than the start of a program.
const COPIED: u32 = 1024;

/// How server and clients know each other.
#[derive(Clone, Copy)]
enum Kind {
    Certificates,
    Keys,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Certificates => "X.509",
            Self::Keys => "PSK",
        }
    }

    /// Makes the credentials in a directory and starts a server with them, and with a disk that
    /// is full of data.
    /// Returns the URI, too.
    fn start(self, dir: &Path, disk: &str, filler: &Contender) -> Outcome<(Server, String)> {
        let (shown, path) = (dir.display().to_string(), dir.join("s"));
        let socket = path.display();
        let (option, uri) = match self {
            Self::Certificates => {
                make_certificates(dir)?;
                let uri = format!("nbds+unix:///?socket={socket}&tls-certificates={shown}");
                (format!("--tls-certificates={shown}"), uri)
            }
            Self::Keys => {
                let file = dir.join("keys.psk");
                command(Command::new("psktool").args(["-u", "alice", "-p"]).arg(&file))?;
                let file = file.display();
                let uri = format!("nbds+unix://alice@/?socket={socket}&tls-psk-file={file}");
                (format!("--tls-psk={file}"), uri)
            }
        };
        let mut server = nbdkit(&path);
        let server = Server::start(server.args(["--tls=require", &option, "memory", disk]), &path)?;
        filler.measure(&FILL, &uri)?;
        Ok((server, uri))
    }
}

/// Builds the programs, runs all rounds and prints one table.
pub(super) fn run(rounds: usize) -> Outcome {
    build(&["-p", "nbd-bench", "--features", "nbd-cli/psk,nbd-bench/psk"])?;
    let contenders = Contender::all()?;
    let mut report = Report::new(contenders.iter().map(Contender::name).collect());
    for kind in [Kind::Certificates, Kind::Keys] {
        reads(kind, &contenders, rounds, &mut report)?;
        copies(kind, &contenders, rounds, &mut report)?;
    }
    print!("{report}");
    Ok(())
}

fn reads(kind: Kind, contenders: &[Contender], rounds: usize, report: &mut Report) -> Outcome {
    let dir = Directory::fresh(kind.name())?;
    let (_server, uri) = kind.start(dir.path(), DISK, &contenders[0])?;
    // Of small replies it says nothing: there most of the time goes into the requests.
    for (load, unread) in LOADS.iter().zip([Some(Contender::unread()?), None]) {
        let label = format!("{}: {}", kind.name(), load.name);
        eprintln!("==> {label}: {rounds} rounds");
        let all: Vec<_> = contenders.iter().chain(&unread).collect();
        let results = in_turns(rounds, all.len(), |turn| all[turn].measure(load, &uri))?;
        let (known, unread) = results.split_at(contenders.len());
        report.throughput(&label, known);
        if let [unread] = unread {
            report.rate("  nothing decrypted", &[slice::from_ref(unread), &known[1..]].concat());
        }
    }
    Ok(())
}

fn copies(kind: Kind, contenders: &[Contender], rounds: usize, report: &mut Report) -> Outcome {
    let dir = Directory::fresh(kind.name())?;
    let (_server, uri) = kind.start(dir.path(), &format!("{COPIED}M"), &contenders[0])?;
    let label = format!("{}: copy to nowhere", kind.name());
    eprintln!("==> {label}: {rounds} rounds");
    let nbd = nbd_program()?;
    let results = in_turns(rounds, contenders.len(), |turn| {
        let mut program = match turn {
            0 => Command::new(&nbd),
            _ => Command::new("nbdcopy"),
        };
        if turn == 0 {
            program.arg("copy");
        }
        copy(program.args([&uri, "null:"]))
    })?;
    report.rate(&label, &results);
    Ok(())
}

/// Copies the whole disk, start and end of the program included.
fn copy(program: &mut Command) -> Outcome<Measurement> {
    let start = Instant::now();
    capture(program)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Measurement {
        ops_per_s: 1.0 / seconds,
        mib_per_s: f64::from(COPIED) / seconds,
        syscalls_per_op: None,
    })
}

/// An authority and a certificate for the server.
pub(super) fn make_certificates(dir: &Path) -> Outcome {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))
    };
    write("ca.info", "cn = Benchmark\nca\ncert_signing_key\nexpiration_days = 1\n")?;
    write(
        "server.info",
        "dns_name = localhost\ntls_www_server\nsigning_key\nexpiration_days = 1\n",
    )?;
    for who in ["ca", "server"] {
        let key = format!("{who}-key.pem");
        certtool(dir, &["--generate-privkey", "--key-type=ecdsa", "--outfile", &key])?;
    }
    let authority = ["--load-privkey", "ca-key.pem", "--template", "ca.info"];
    let authority = [&["--generate-self-signed"], &authority[..], &["--outfile", "ca-cert.pem"]];
    certtool(dir, &authority.concat())?;
    certtool(
        dir,
        &[
            "--generate-certificate",
            "--load-privkey=server-key.pem",
            "--load-ca-certificate=ca-cert.pem",
            "--load-ca-privkey=ca-key.pem",
            "--template=server.info",
            "--outfile=server-cert.pem",
        ],
    )
}

fn certtool(dir: &Path, args: &[&str]) -> Outcome {
    capture(Command::new("certtool").args(args).current_dir(dir)).map(|_| ())
}
