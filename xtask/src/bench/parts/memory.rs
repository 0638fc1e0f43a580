//! What an idle connection takes, at both ends, and what a deep queue takes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Entry, Run, of_files};
use crate::Outcome;
use crate::bench::contender::{Contender, in_c};
use crate::bench::data::{Sample, Side};
use crate::bench::load::Load;
use crate::bench::server::{Directory, Server, memory_of};
use crate::workspace::target_dir;

/// Connections that ask for nothing.
const IDLE: u32 = 100;

/// A queue that takes megabytes.
const DEEP: Load = Load {
    name: "1024 reads of 256 KiB in flight",
    direction: "read",
    size: "256k",
    depth: 1024,
    count: 4096,
};

/// Small requests, so that what they take themselves shows.
const SMALL: Load = Load {
    name: "16384 reads of 4 KiB in flight",
    direction: "read",
    size: "4k",
    depth: 16_384,
    count: 20_000,
};

pub(super) fn run(run: &mut Run) -> Outcome {
    servers(run)?;
    clients(run)
}

fn servers(run: &mut Run) -> Outcome {
    let directory = Directory::fresh("memory")?;
    let servers = of_files(&directory)?;
    let kib = |value: f64| Sample::from([("kib".to_owned(), value)]);
    let names = servers.iter().enumerate();
    let entries: Vec<_> =
        names.map(|(place, entry)| Entry::new(&*entry.name, entry.side, place)).collect();
    run.race(
        "an idle connection, at the server",
        None,
        &entries,
        |_| Ok(()),
        // What earlier connections have left would be used again: it is a fresh server each time.
        |entry| {
            let directory = Directory::fresh("idle")?;
            let server = of_files(&directory)?.swap_remove(entry.what).what;
            let few = Idle::ours(1, &server.uri())?;
            let before = server.memory_held()?;
            few.end()?;
            let many = Idle::ours(IDLE + 1, &server.uri())?;
            let after = server.memory_held()?;
            many.end()?;
            Ok(kib((after as f64 - before as f64) / f64::from(IDLE)))
        },
    );
    let client = Contender::blocking()?;
    // nbd-server has a process for each client, whose most is gone with it.
    let in_one: Vec<_> = servers.into_iter().filter(|entry| entry.name != "nbd-server").collect();
    run.race(
        &format!("{}, at the server", DEEP.name),
        None,
        &in_one,
        |entry| client.measure(&DEEP, &entry.what.uri()).map(drop),
        |entry| {
            client.measure(&DEEP, &entry.what.uri())?;
            Ok(kib(entry.what.peak()? as f64))
        },
    );
    Ok(())
}

fn clients(run: &mut Run) -> Outcome {
    let directory = Directory::fresh("memory")?;
    let server = Server::memory(directory.path())?;
    let uri = server.uri();
    let nbd_bench = target_dir()?.join("release/nbd-bench");
    let mut entries = vec![
        Entry::new("blocking", Side::Ours, (nbd_bench.clone(), "connect")),
        Entry::new("tokio", Side::Ours, (nbd_bench, "connect-at-once")),
    ];
    let libnbd = in_c("libnbd-connect")?;
    entries.extend(libnbd.map(|what| Entry::new("libnbd", Side::Theirs, (what, "connect"))));
    let held = |(program, mode): &(PathBuf, &'static str), count| {
        let idle = Idle::new(program, mode, count, &uri)?;
        let memory = memory_of(idle.0.id())?;
        idle.end()?;
        Ok::<_, String>(memory as f64)
    };
    run.race(
        "an idle connection, at the client",
        None,
        &entries,
        |_| Ok(()),
        |entry| {
            let each = (held(&entry.what, IDLE + 1)? - held(&entry.what, 1)?) / f64::from(IDLE);
            Ok(Sample::from([("kib".to_owned(), each)]))
        },
    );

    let clients = Contender::ours()?.into_iter().filter(|one| !one.name.contains("polling"));
    let entries: Vec<_> = clients.chain(Contender::libnbd()?).map(Entry::of).collect();
    let peak = |contender: &Contender, load: &Load| {
        let sample = contender.measure(load, &uri)?;
        sample.get("peak_kib").copied().ok_or_else(|| "no peak was told".to_owned())
    };
    run.race(
        &format!("{}, at the client, without the buffers", SMALL.name),
        None,
        &entries,
        |_| Ok(()),
        |entry| {
            let one = Load { depth: 1, ..SMALL };
            let more = peak(&entry.what, &SMALL)? - peak(&entry.what, &one)?;
            let buffers = f64::from(SMALL.depth - 1) * 4.0;
            Ok(Sample::from([("kib".to_owned(), more - buffers)]))
        },
    );
    Ok(())
}

/// A program that keeps connections that ask for nothing.
pub(super) struct Idle(Child);

impl Idle {
    pub(super) fn ours(count: u32, uri: &str) -> Outcome<Self> {
        Self::new(&target_dir()?.join("release/nbd-bench"), "connect", count, uri)
    }

    fn new(program: &std::path::Path, mode: &str, count: u32, uri: &str) -> Outcome<Self> {
        let mut program = Command::new(program);
        program.args([mode, "--count", &count.to_string(), uri]);
        let child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut idle = Self(child.map_err(|error| format!("cannot start a client: {error}"))?);
        let mut line = String::new();
        let told = idle.0.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        match told {
            Some(Ok(length)) if length > 0 => Ok(idle),
            _ => Err(format!("{count} connections could not be made")),
        }
    }

    pub(super) fn end(mut self) -> Outcome {
        drop(self.0.stdin.take());
        let status = self.0.wait().map_err(|error| format!("waiting for a client: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("a client ended with {status}")) }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // Failing means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
