//! From one request in flight to as many as a connection may have.

use super::{Entry, Run, known};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::load::{LOADS, Load};
use crate::bench::server::{Directory, Server, with_server};

const DEPTHS: [u32; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16_384];

pub(super) fn run(run: &mut Run) -> Outcome {
    let ours =
        Contender::ours()?.into_iter().filter(|one| ["blocking", "tokio"].contains(&one.name));
    let entries: Vec<_> = ours.chain(Contender::libnbd()?).map(Entry::of).collect();
    let directory = Directory::fresh("depth")?;
    let dir = directory.path();
    let (known, server) = (known(dir)?, Server::memory(dir)?);
    let uri = server.uri();
    Contender::blocking()?.check(&LOADS[3], &uri)?;
    for depth in DEPTHS {
        let count = if depth == 1 { 12_000 } else { 40_000 };
        let load = Load { depth, count, ..LOADS[0] };
        run.race(
            &format!("{depth} in flight"),
            Some(depth.into()),
            &entries,
            |entry| entry.what.check(&load, &known.uri()),
            |entry| with_server(&server, || entry.what.measure(&load, &uri)),
        );
    }
    Ok(())
}
