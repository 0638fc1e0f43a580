//! The copy itself: workers, and the two threads of each.

use std::sync::{Arc, Mutex};
use std::thread::Builder;

use super::destination::Destination;
use super::filters::{Shifted, Summing};
use super::job::Job;
use super::piece::{PieceSender, Sink, channel, forward_all};
use super::plan::Plan;
use super::source::Source;
use super::workers::{Team, worthwhile};
use crate::failure::{Failure, Result};

/// Pieces that wait for the destination, where their length is not known before.
const WAITING: usize = 8;

/// How many workers a copy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WorkerCount {
    /// From the start.
    pub(super) first: usize,
    /// When the source turns out to be far away.
    pub(super) most: usize,
}

impl WorkerCount {
    pub(super) const ONE: Self = Self { first: 1, most: 1 };
}

/// How many workers both ends have, of those that are worth while.
pub(super) fn workers(source: &Source, destination: &Destination<'_>, plan: &Plan) -> WorkerCount {
    let size = source.size().unwrap_or(0);
    let both = |wanted| destination.workers(source.workers(worthwhile(size, wanted)));
    let first = both(plan.connections);
    let most = if plan.adapts { both(plan.connections.max(FAR)) } else { first };
    WorkerCount { first, most }
}

/// Workers for a source that is far away, which wait for its answers and not for a processor.
const FAR: usize = 4;

/// Copies all of it, on so many workers.
pub(super) fn transfer(
    source: Source,
    destination: Destination<'_>,
    job: &Arc<Job>,
    workers: WorkerCount,
) -> Result<()> {
    let team = Arc::new(Team::new());
    for place in 1..workers.most {
        let (Some(source), Some(destination)) = (source.another(), destination.another()) else {
            break;
        };
        let (job, team) = (Arc::clone(job), Arc::clone(&team));
        let join = move || {
            // Whoever has no room for one more has told nothing that is worth failing for.
            if (place < workers.first || job.distance.wait())
                && let (Ok(source), Ok(destination)) = (source(), destination())
                && team.enter()
            {
                worker(source, destination, &job, &team);
            }
        };
        // Where no thread can be made, there are fewer workers.
        if Builder::new().name("worker".to_owned()).spawn(join).is_err() {
            break;
        }
    }
    worker(source, destination, job, &team);
    job.distance.close();
    team.end()
}

/// Copies the regions that one worker takes. When it fails, all workers stop.
fn worker(source: Source, destination: Destination<'_>, job: &Job, team: &Team) {
    let result = copy(source, destination, job);
    let failed = result.is_err();
    // Told before the others stop, as the reason why they do.
    team.leave(result);
    if failed {
        job.stop.stop();
    }
}

fn copy(source: Source, destination: Destination<'_>, job: &Job) -> Result<()> {
    // What is only counted needs no thread.
    let alone = matches!(destination, Destination::Nowhere);
    let source = Mutex::new(Some(source));
    let read = |sender: &PieceSender<'_>| {
        let source = source.lock().ok().and_then(|mut source| source.take());
        source.map(|source| source.read_all(job, sender))
    };
    destination.run(job, |sink| {
        let mut shifted = Shifted { part: &job.part, sink };
        if !job.sums {
            return pass(&read, alone, job, &mut shifted);
        }
        let mut summing = Summing::new(&job.digest, job.part.range.start, &mut shifted);
        pass(&read, alone, job, &mut summing)?;
        summing.finish()
    })
}

/// Passes all that is read on to the destination; on a thread of its own, unless it is `alone`.
fn pass(
    read: &(impl Fn(&PieceSender<'_>) -> Option<Result<()>> + Sync),
    alone: bool,
    job: &Job,
    sink: &mut dyn Sink,
) -> Result<()> {
    if !alone {
        let waiting = if job.plan.adapts { WAITING } else { job.plan.requests };
        let (pieces, receiver) = channel(waiting);
        let result = std::thread::scope(|scope| {
            let reader = move || read(&PieceSender::Thread(pieces));
            let reader = Builder::new().name("reader".to_owned()).spawn_scoped(scope, reader);
            let forwarded = forward_all(receiver, sink);
            (reader.map(|reader| reader.join()), forwarded)
        });
        match result {
            // The source stops because the destination did: that is the failure to tell.
            (_, Err(failure)) => return Err(failure),
            (Ok(Ok(read)), Ok(())) => return read.unwrap_or(Ok(())),
            (Ok(Err(_)), Ok(())) => return Err(Failure::new("the reading thread failed")),
            // There is no thread to be had.
            (Err(_), Ok(())) => {}
        }
    }
    read(&PieceSender::direct(sink)).unwrap_or(Ok(()))
}
