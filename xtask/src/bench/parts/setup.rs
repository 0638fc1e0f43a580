//! Making connections: one, and many, one after the other and at the same time.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Entry, Run, by_nbdkit};
use crate::Outcome;
use crate::bench::contender::{Contender, in_c};
use crate::bench::data::{Sample, Side};
use crate::bench::server::{DISK, Directory, Server};
use crate::workspace::target_dir;

const MANY: u32 = 96;

/// How a server takes its time with each.
const SLOW: [&str; 4] = ["--filter=delay", "memory", DISK, "delay-open=50ms"];

pub(super) fn run(run: &mut Run) -> Outcome {
    let nbd_bench = target_dir()?.join("release/nbd-bench");
    let libnbd = in_c("libnbd-connect")?;
    let directory = Directory::fresh("setup")?;
    let dir = directory.path();
    let fast = Server::memory(dir)?;
    let slow = by_nbdkit(dir, &SLOW)?;
    for (name, server) in [("nbdkit", &fast), ("nbdkit, 50 ms to open", &slow)] {
        for (how, count, mode, client) in [
            ("1 connection", 1, "connect", "blocking"),
            ("96 connections, one after the other", MANY, "connect", "blocking"),
            ("96 connections, all at once", MANY, "connect-at-once", "tokio"),
        ] {
            let mut entries = vec![Entry::new(client, Side::Ours, nbd_bench.clone())];
            entries.extend(libnbd.clone().map(|what| Entry::new("libnbd", Side::Theirs, what)));
            let measure = |entry: &Entry<PathBuf>| connect(&entry.what, mode, count, &server.uri());
            let rounds = run.rounds;
            if count == 1 {
                // It takes so little that chance counts more.
                run.rounds = 5 * rounds;
            }
            run.race(&format!("{name}: {how}"), None, &entries, |e| measure(e).map(drop), measure);
            run.rounds = rounds;
        }
    }
    Ok(())
}

fn connect(program: &Path, mode: &str, count: u32, uri: &str) -> Outcome<Sample> {
    let mut command = Command::new(program);
    let sample =
        Contender::numbers_of(command.args([mode, "--count", &count.to_string()]).arg(uri))?;
    if sample.get("operations") != Some(&f64::from(count)) {
        return Err(format!("{count} connections were not made"));
    }
    Ok(sample)
}
