//! `nbd copy`: from a server, file or stream to another.
//!
//! ```text
//!   source thread                        destination thread
//!   map ─► reads in flight ── pieces ──► writes in flight ─► flush
//!                 ▲                            │
//!                 └────────── memory ◄─────────┘
//! ```
//!
//! To `null:` there is nothing to write, and no thread for it: the source counts its pieces.
//! What was written over a connection that was lost, and is not known to be durable, is
//! copied again from the source: a copy is made of passes, most often of one.
//!
//! | file | what |
//! |---|---|
//! | `mod` | a copy, pass by pass |
//! | `args` | the command line |
//! | `commands` | what other commands are made of |
//! | `part` | which part of the source goes where |
//! | `dirty` | what of a source has changed |
//! | `plan` | what reading and writing go by |
//! | `transfer` | one pass, in threads |
//! | `workers` | sharing the work out among several connections |
//! | `distance` | whether more workers are of use |
//! | `piece` | what travels from the source to the destination, and the channel for it |
//! | `filters` | what changes or sums it up on its way |
//! | `rate_limit` | `--rate`: no faster than is wanted |
//! | `sparse` | finds zeroes in data |
//! | `source` | reading from a file or stream |
//! | `destination` | writing to a file or stream, or nowhere |
//! | `written` | writing and reading again a file |
//! | `difference` | what was found by comparing |
//! | `place` | where a copy comes to be, and what is left when it fails |
//! | `record` | the state file of `--resume` |
//! | `sample` | whether a destination still holds what was copied |
//! | `progress` | how far it is |
//! | `display` | showing that to a person or a program |
//! | `job` | what all workers share |
//! | `stop` | what ends it early |
//! | `server/` | both ends, with an NBD server |

mod args;
mod commands;
mod destination;
mod difference;
mod dirty;
mod display;
mod distance;
mod filters;
mod job;
mod part;
mod piece;
mod place;
mod plan;
mod progress;
mod rate_limit;
mod record;
mod sample;
mod server;
mod source;
mod sparse;
mod stop;
mod transfer;
mod workers;
mod written;

use std::iter;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nbd_client_blocking::BufferPool;

use crate::checksum::{Digest, Kind};
use crate::failure::{Failure, Result};
use crate::interrupt::{self, UnderWay};
use crate::output::mention;
use crate::size;
use crate::target::Target;

pub(crate) use args::Args;
pub(crate) use commands::{Comparison, between, checksum, compare, read};
use destination::Destination;
use difference::{Differences, Found};
use display::{Display, Form};
use distance::Distance;
use job::Job;
use part::{Asked, Part};
use place::Place;
use plan::Plan;
use progress::Progress;
use rate_limit::RateLimit;
use record::Record;
use source::Source;
use stop::Stop;
use transfer::WorkerCount;
use workers::Regions;

pub(crate) use args::run;

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copied {
    /// Bytes that travelled as data.
    pub(crate) data: u64,
    /// Bytes that travelled as "so many zeroes".
    pub(crate) zeroes: u64,
    /// Bytes of these that had to be written once more.
    pub(crate) again: u64,
    /// Connections that were lost and made again.
    pub(crate) lost: u64,
}

impl Copied {
    /// Bytes of the source that are in the destination.
    const fn bytes(&self) -> u64 {
        (self.data + self.zeroes).saturating_sub(self.again)
    }
}

/// What a copy reports to people.
#[derive(Clone, Copy, Debug, Default)]
struct Reporting {
    /// How progress is shown, if it is.
    form: Option<Form>,
    verbose: bool,
    /// What was done is told at the end.
    summary: bool,
}

/// What is asked of a copy beside its two ends.
#[derive(Clone, Debug, Default)]
struct CopyOptions {
    part: Asked,
    /// Only what this bitmap says has changed.
    bitmap: Option<String>,
    /// Where the state is kept for going on after an interruption.
    state: Option<PathBuf>,
    /// Bytes in a second.
    rate: Option<u64>,
    checksum: Option<Kind>,
    /// How long to go on after a connection is lost.
    patience: Duration,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    copied: Copied,
    checksum: Option<String>,
    found: Found,
    /// Bytes in both ends of a comparison.
    sizes: (Option<u64>, Option<u64>),
}

/// What is copied, in the words of nbdcopy.
fn description(from: &Target, to: &Target, total: Option<u64>, plan: &Plan) -> String {
    let size = total
        .map_or_else(|| "unknown".to_owned(), |total| format!("{total} ({})", size::format(total)));
    let name = crate::compat::program();
    format!(
        "{name}: src: {}\n{name}: src: size={size}\n{name}: dst: {}\n\
         {name}: connections={} requests={} request-size={} sparse={}\n",
        from.kind(),
        to.kind(),
        plan.connections,
        plan.requests,
        plan.request_size,
        plan.sparse
    )
}

/// A copy that is under way: both ends are open.
struct Copy<'a> {
    from: &'a Target,
    to: &'a Target,
    plan: Plan,
    part: Part,
    /// Of the source, in bytes.
    size: Option<u64>,
    place: Arc<Place>,
    stop: Arc<Stop>,
    progress: Arc<Progress>,
    record: Option<Arc<Record>>,
    rate_limit: Option<Arc<RateLimit>>,
    digest: Arc<Mutex<Option<Digest>>>,
    differences: Arc<Differences>,
    patience: Duration,
}

/// Why a stream is not compared: nothing tells whether it is as long.
const NO_STREAM: &str = "only servers and files can be compared";

fn copy(
    from: &Target,
    to: &Target,
    mut plan: Plan,
    options: &CopyOptions,
    reporting: Reporting,
) -> Result<Outcome> {
    let dirty = match &options.bitmap {
        Some(bitmap) => Some(dirty::of(from, bitmap, plan.limit)?),
        None => None,
    };
    let mut source = Source::open(from, &plan)?;
    let size = source.size();
    if plan.compare.is_some() && size.is_none() {
        return Err(Failure::new(NO_STREAM));
    }
    let mut part = options.part.of(size)?;
    let record = match (&options.state, size) {
        (Some(path), Some(size)) => {
            Some(Arc::new(Record::open(path.clone(), (from, to), (size, &part))?))
        }
        (Some(_), None) => {
            return Err(Failure::new("--resume needs a source whose size is known"));
        }
        (None, _) => None,
    };
    if let Some(record) = record.as_deref()
        && let durable = record.durable()
        && !durable.is_empty()
    {
        // There are servers that take one client at a time.
        drop(source);
        if let Some(at) = sample::check(&durable, (from, to), &part, plan)? {
            return Err(record.outdated(at));
        }
        source = Source::open(from, &plan)?;
    }
    plan.keep = options.part.is_part() || options.bitmap.is_some() || record.is_some();
    let end = size.map(|_| part.end());
    let (destination, place) = Destination::open(to, end, &plan)?;
    let sizes = (size, destination.size());
    if let Some(there) = sizes.1 {
        // What only one of them has is known to differ.
        part.range.end = part.range.end.min(part.range.start + there.saturating_sub(part.to));
    }
    let plan = plan.between(&source, &destination);
    part.check(plan.block.max(source.block()) as u64)?;
    let mut wanted = match &record {
        Some(record) => record.left(&part.range),
        None => iter::once(part.range.clone()).collect(),
    };
    if let Some(dirty) = dirty {
        wanted = blocks(dirty, plan.block.max(source.block()) as u64, &part.range);
    }
    let total = size.map(|_| wanted.iter().map(|range| range.end - range.start).sum());
    if reporting.verbose {
        mention(&description(from, to, size, &plan));
    }
    let copy = Copy {
        from,
        to,
        plan,
        part,
        size,
        place,
        stop: Arc::new(Stop::new()?),
        progress: Arc::default(),
        record,
        rate_limit: options.rate.map(|rate| Arc::new(RateLimit::new(rate))),
        digest: Arc::new(Mutex::new(options.checksum.map(Digest::new))),
        differences: Arc::default(),
        patience: options.patience,
    };
    let under_way = copy.under_way();
    let begun = Instant::now();
    let display = reporting.form.map(|form| Display::start(&copy.progress, total, form));
    let done = copy.passes(source, destination, wanted);
    drop(display);
    copy.finish(done, total)?;
    drop(under_way);
    let copied = copy.progress.copied();
    if reporting.summary {
        mention(&display::summary(&copied, begun.elapsed()));
    }
    let digest = copy.digest.lock().unwrap_or_else(PoisonError::into_inner).take();
    let found = copy.differences.found();
    Ok(Outcome { copied, checksum: digest.map(Digest::finish), found, sizes })
}

impl Copy<'_> {
    /// Has signals end it in good order, where it would leave something behind otherwise.
    fn under_way(&self) -> Option<UnderWay> {
        if matches!(*self.place, Place::Nowhere) {
            return None;
        }
        let (stop, place) = (Arc::clone(&self.stop), Arc::clone(&self.place));
        Some(interrupt::asks(move |signal, now| match now {
            false => stop.interrupt(signal),
            true => place.abandon(),
        }))
    }

    /// Copies what is wanted, and once more what was lost with a connection.
    fn passes(
        &self,
        source: Source,
        destination: Destination<'static>,
        wanted: Vec<Range<u64>>,
    ) -> Result<()> {
        let all = wanted.clone();
        let bytes =
            |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum();
        let mut plan = self.plan;
        let mut lost = self.pass(&plan, source, destination, wanted, true)?;
        let mut without_progress = 0;
        while !lost.is_empty() && !self.stop.is_requested() {
            self.progress.again(bytes(&lost));
            let (source, destination) = self.reopen()?;
            let wanted = self.whole_blocks(lost, source.block() as u64);
            let before: u64 = bytes(&wanted);
            // The more is lost, the less is to be lost the next time.
            plan.flush_every = (plan.flush_every >> 4).max(1);
            lost = self.pass(&plan, source, destination, wanted, false)?;
            without_progress = if bytes(&lost) < before { 0 } else { without_progress + 1 };
            if without_progress == MOST_WITHOUT_PROGRESS {
                return Err(Failure::new(
                    "the connection is lost again and again before anything is durable",
                ));
            }
        }
        self.check_what_stayed(&all)
    }

    /// A server that was gone may have come back without what it had said was durable.
    fn check_what_stayed(&self, copied: &[Range<u64>]) -> Result<()> {
        let Target::Nbd(server) = self.to else { return Ok(()) };
        let is_known = self.size.is_some() && self.plan.compare.is_none();
        let was_lost = self.progress.copied().lost > 0 && !server.is_command();
        if !is_known || !was_lost || self.stop.is_requested() {
            return Ok(());
        }
        match sample::check(copied, (self.from, self.to), &self.part, self.plan)? {
            None => Ok(()),
            Some(at) => {
                if let Some(record) = &self.record {
                    // Nobody is to go on from there.
                    record.remove()?;
                }
                Err(Failure::new(format!(
                    "{}: the server has lost what it had made durable, or the source has changed: \
                     byte {at} differs",
                    server.name
                )))
            }
        }
    }

    /// Copies parts of the source; returns those of them that were lost.
    fn pass(
        &self,
        plan: &Plan,
        source: Source,
        destination: Destination<'static>,
        wanted: Vec<Range<u64>>,
        first: bool,
    ) -> Result<Vec<Range<u64>>> {
        let sums = first && self.digest.lock().is_ok_and(|digest| digest.is_some());
        // What is summed up comes in order.
        let workers =
            if sums { WorkerCount::ONE } else { transfer::workers(&source, &destination, plan) };
        let job = Arc::new(Job {
            plan: *plan,
            progress: Arc::clone(&self.progress),
            stop: Arc::clone(&self.stop),
            memory: BufferPool::new(),
            regions: Regions::new(wanted, workers.most, self.plan.request_size as u64),
            distance: Distance::default(),
            part: self.part.clone(),
            record: self.record.clone(),
            rate_limit: self.rate_limit.clone(),
            digest: Arc::clone(&self.digest),
            sums,
            differences: Arc::clone(&self.differences),
            lost: Mutex::default(),
            until: AtomicU64::new(u64::MAX),
        });
        transfer::transfer(source, destination, &job, workers)?;
        Ok(job.take_lost())
    }

    /// Opens both ends once more, as soon as they are there again.
    fn reopen(&self) -> Result<(Source, Destination<'static>)> {
        let begin = Instant::now();
        loop {
            let open = || {
                let source = Source::open(self.from, &self.plan)?;
                let plan = Plan { keep: true, ..self.plan };
                let end = self.size.map(|_| self.part.end());
                let (destination, _) = Destination::open(self.to, end, &plan)?;
                Ok((source, destination))
            };
            match open() {
                Ok((source, destination)) if source.size() == self.size => {
                    return Ok((source, destination));
                }
                Ok(_) => return Err(Failure::new("the source has another size than before")),
                Err(failure) if self.stop.is_requested() || begin.elapsed() > self.patience => {
                    return Err(failure);
                }
                Err(_) => self.stop.sleep(AGAIN),
            }
        }
    }

    /// The blocks in which some ranges lie.
    fn whole_blocks(&self, ranges: Vec<Range<u64>>, source: u64) -> Vec<Range<u64>> {
        let block = source.max(self.plan.block as u64);
        blocks(ranges, block, &self.part.range)
    }

    /// Everything is there, or not: gives the destination its name, or tells what is left.
    fn finish(&self, done: Result<()>, total: Option<u64>) -> Result<()> {
        let done = match self.stop.interruption() {
            Some(interruption) => Err(interruption),
            None => done.and_then(|()| self.place.finish(self.plan.flush)),
        };
        let done = done.and_then(|()| self.record.as_ref().map_or(Ok(()), |one| one.remove()));
        let Err(failure) = done else { return Ok(()) };
        self.place.abandon();
        let failure = match self.place.left_behind(&self.progress, total) {
            Some(left) => failure.and(left),
            None => failure,
        };
        Err(match self.record.as_ref().and_then(|record| record.advice()) {
            Some(advice) => failure.and(advice),
            None => failure,
        })
    }
}

/// Passes after which nothing more is durable than before, that are too many.
const MOST_WITHOUT_PROGRESS: u32 = 16;

/// From one attempt to open both ends to the next.
const AGAIN: Duration = Duration::from_millis(100);

/// The blocks in which some ranges lie, as far as a part goes.
fn blocks(
    ranges: impl IntoIterator<Item = Range<u64>>,
    block: u64,
    part: &Range<u64>,
) -> Vec<Range<u64>> {
    let mut blocks: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let start = (range.start - range.start % block).max(part.start);
        let end = range.end.next_multiple_of(block).min(part.end);
        match blocks.last_mut() {
            _ if start >= end => {}
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => blocks.push(start..end),
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(ranges: Vec<Range<u64>>) -> Vec<(u64, u64)> {
        ranges.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn ranges_in_whole_blocks() {
        let ranges = [5..6, 9..10, 4096..4097, 9000..9001, 9001..20_000];
        assert_eq!(pairs(blocks(ranges, 4096, &(0..10_000))), [(0, 10_000)]);
        let ranges = [5..6, 5000..5001, 30_000..30_001];
        assert_eq!(pairs(blocks(ranges, 4096, &(4096..20_000))), [(4096, 8192)]);
        assert_eq!(blocks([], 512, &(0..10)), []);
    }
}
