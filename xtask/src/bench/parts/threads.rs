//! The longest latencies, over how many threads nbdkit has: whether it is the client for which
//! they wait, or the server.

use super::{Entry, Run, by_nbdkit, known};
use crate::Outcome;
use crate::bench::contender::Contender;
use crate::bench::load::LOADS;
use crate::bench::server::{DISK, Directory, with_server};

const THREADS: [u32; 4] = [1, 4, 8, 16];

pub(super) fn run(run: &mut Run) -> Outcome {
    let mut entries = vec![Entry::of(Contender::by_hand()?), Entry::of(Contender::blocking()?)];
    entries.extend(Contender::libnbd()?.map(Entry::of));
    let directory = Directory::fresh("threads")?;
    let dir = directory.path();
    let (known, load) = (known(dir)?, &LOADS[0]);
    for threads in THREADS {
        let server = by_nbdkit(dir, &["-t", &threads.to_string(), "memory", DISK])?;
        let uri = server.uri();
        Contender::blocking()?.check(&LOADS[3], &uri)?;
        run.race(
            &format!("{}, nbdkit with threads: {threads}", load.name),
            Some(threads.into()),
            &entries,
            |entry| entry.what.check(load, &known.uri()),
            |entry| with_server(&server, || entry.what.measure(load, &uri)),
        );
    }
    Ok(())
}
