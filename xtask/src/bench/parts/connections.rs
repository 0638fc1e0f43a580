//! From one connection to a thousand, each with one request in flight; and a hundred among
//! thousands that ask for nothing.

use std::process::Command;

use super::memory::Idle;
use super::{Entry, Run, of_files, ours};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::data::{Sample, Side};
use crate::bench::load::LOADS;
use crate::bench::server::{DISK, Directory, with_server};
use crate::workspace::nbd_program;

const CONNECTIONS: [u32; 4] = [1, 10, 100, 1000];

/// Connections that are at work, and those that are only there.
const BUSY: u32 = 100;
const IDLE: u32 = 4900;

pub(super) fn run(run: &mut Run) -> Outcome {
    let directory = Directory::fresh("connections")?;
    let servers = of_files(&directory)?;
    for connections in CONNECTIONS {
        let count = if connections == 1 { 12_000 } else { 40_000 };
        run.race(
            &format!("{connections} connections"),
            Some(connections.into()),
            &servers,
            |entry| {
                let (client, uri) = (Contender::blocking()?, entry.what.uri());
                client.check(&LOADS[3], &uri)?;
                client.check(&LOADS[2], &uri)
            },
            |entry| with_server(&entry.what, || load(connections, count, &entry.what.uri())),
        );
    }
    drop(servers);
    let most = (BUSY + IDLE + 8).to_string();
    let server = ours(directory.path(), &["--memory", DISK, "--max-connections", &most])?;
    let uri = server.uri();
    let entries = [
        Entry::new("alone", Side::Ours, 0),
        Entry::new(format!("among {IDLE} idle ones"), Side::Ours, IDLE),
    ];
    run.race(
        &format!("{BUSY} busy connections at nbd serve"),
        None,
        &entries,
        |_| load(BUSY, 40_000, &uri).map(drop),
        |entry| {
            let idle = (entry.what > 0).then(|| Idle::ours(entry.what, &uri)).transpose()?;
            let sample = with_server(&server, || load(BUSY, 40_000, &uri));
            idle.map(Idle::end).transpose()?;
            sample
        },
    );
    Ok(())
}

/// Reads of 4 KiB, by a thread for each connection.
fn load(connections: u32, count: u32, uri: &str) -> Outcome<Sample> {
    let mut bench = Command::new(nbd_program()?);
    bench.args(["bench", "--json", "--size", "4k", "--depth", "1"]);
    bench.args(["--count", &count.to_string(), "--connections", &connections.to_string(), uri]);
    let mut sample = Contender::numbers_of(&mut bench)?;
    if sample.get("operations") != Some(&f64::from(count)) {
        return Err(format!("nbd bench did not do {count} requests"));
    }
    sample.insert("bytes".to_owned(), f64::from(count) * 4096.0);
    Ok(sample)
}
