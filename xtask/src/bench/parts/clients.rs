//! The same loads through every client, at one nbdkit with a disk in memory.

use super::{Entry, Run, known, try_out};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::costs::{instructions_per_request, system_calls_per_request};
use crate::bench::data::Rounds;
use crate::bench::load::LOADS;
use crate::bench::server::{Directory, Server, with_server};

pub(super) fn run(run: &mut Run) -> Outcome {
    let mut contenders = vec![Contender::by_hand()?];
    contenders.extend(Contender::ours()?);
    contenders.extend(Contender::libnbd()?);
    contenders.extend(Contender::fio());
    let entries: Vec<_> = contenders.into_iter().map(Entry::of).collect();
    let directory = Directory::fresh("clients")?;
    let dir = directory.path();
    let (known, server) = (known(dir)?, Server::memory(dir)?);
    let uri = server.uri();
    // The disk takes memory when it is first written to; that is no one's turn.
    Contender::blocking()?.check(&LOADS[3], &uri)?;
    for (number, load) in LOADS.iter().enumerate() {
        let first = run.race(
            load.name,
            None,
            &entries,
            |entry| try_out(dir, &entry.what, load, &known),
            |entry| with_server(&server, || entry.what.measure(load, &uri)),
        );
        for (row, entry) in run.rows[first..].iter_mut().zip(&entries) {
            if matches!(row.result, Rounds::Failed(_)) {
                continue;
            }
            if let Some(calls) = system_calls_per_request(&entry.what, load, &uri)? {
                row.add("syscalls_per_op", calls);
            }
            // Valgrind is slow; the others differ in what is copied.
            if number == 0
                && let Some(instructions) = instructions_per_request(&entry.what, load, &uri)?
            {
                row.add("instructions_per_op", instructions);
            }
        }
    }
    Ok(())
}
