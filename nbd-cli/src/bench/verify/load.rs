//! One connection's part: reads, writes and flushes, each read compared with what was
//! written, and at the end all of it once more.

use std::time::Instant;

use nbd_client_blocking::proto::{Buffers, Command, CommandFlags, RequestId, TransmissionFlags};
use nbd_client_blocking::session::replay::RecoveryError;
use nbd_client_blocking::{Client, Completion, Error, ErrorKind, Pipeline};

use super::blocks::Blocks;
use super::count::{Counts, Mismatches};
use crate::bench::random::Random;
use crate::bench::report::Tally;
use crate::bench::{Args, Pattern};

/// One command in so many is a flush, if the server takes any.
const FLUSHES: u64 = 128;

/// One write in so many asks to be durable at once, if the server knows how.
const DURABLE: u64 = 16;

/// One connection's part of the work.
pub(super) struct Load<'a> {
    args: &'a Args,
    blocks: Blocks,
    mismatches: &'a Mismatches,
    random: Random,
    /// The block after the last one that was chosen.
    next: usize,
    buffers: Vec<Vec<u8>>,
    at_work: Buffers<Work>,
    tally: Tally,
    counts: Counts,
    /// When something was last completed.
    progress: Instant,
}

/// What a request is for.
struct Work {
    kind: Kind,
    started: Instant,
}

#[derive(Clone, Copy)]
enum Kind {
    Read(usize),
    Write(usize),
    Flush,
}

impl<'a> Load<'a> {
    pub(super) fn new(
        args: &'a Args,
        blocks: Blocks,
        mismatches: &'a Mismatches,
        index: u64,
    ) -> Self {
        Self {
            args,
            blocks,
            mismatches,
            random: Random::stream(index),
            next: 0,
            buffers: vec![vec![0; args.size as usize]; args.depth as usize],
            at_work: Buffers::new(),
            tally: Tally::new(),
            counts: Counts::default(),
            progress: Instant::now(),
        }
    }

    /// Sends `count` commands, or as many as the time is enough for, then looks at every
    /// block once more.
    pub(super) fn run(mut self, mut client: Client, count: u64) -> Result<(Tally, Counts), Error> {
        let calls_before = client.system_calls();
        let begin = Instant::now();
        let end = self.args.seconds().map(|seconds| begin + seconds);
        self.progress = begin;
        let mut pipeline = client.pipeline();
        let mut left = count;
        loop {
            while left > 0 && end.is_none_or(|end| self.progress < end) {
                if !self.submit_any(&mut pipeline)? {
                    break;
                }
                left -= 1;
            }
            let Some(done) = pipeline.wait() else { break };
            self.complete(done)?;
        }
        self.counts.elapsed = begin.elapsed();
        self.tally.end_run();
        self.look_at_all(&mut pipeline)?;
        drop(pipeline);
        self.counts.reconnects = client.session().stats().connections - 1;
        self.counts.sent_again = client.session().stats().sent_again;
        self.tally.system_calls = client.system_calls() - calls_before;
        self.tally.stats = client.session().stats().wire;
        client.disconnect()?;
        Ok((self.tally, self.counts))
    }

    /// Submits a command by chance, if the depth allows and there is a block to be had.
    fn submit_any(&mut self, pipeline: &mut Pipeline<'_, Vec<u8>>) -> Result<bool, Error> {
        if pipeline.in_flight() >= self.args.depth as usize {
            return Ok(false);
        }
        let flags = pipeline.client().flags();
        let can = |flag| flags.contains(flag);
        if can(TransmissionFlags::SEND_FLUSH) && self.random.below(FLUSHES) == 0 {
            let id = pipeline.submit(Command::flush(), None)?;
            self.started(id, Kind::Flush);
            return Ok(true);
        }
        let Some(mut buffer) = self.buffers.pop() else { return Ok(false) };
        let Some(block) = self.choose() else {
            self.buffers.push(buffer);
            return Ok(false);
        };
        if self.blocks.is_known(block) && self.random.below(2) == 0 {
            self.read(pipeline, block, buffer)?;
            return Ok(true);
        }
        let durable = can(TransmissionFlags::SEND_FUA) && self.random.below(DURABLE) == 0;
        let with = if durable { CommandFlags::FUA } else { CommandFlags::empty() };
        self.blocks.fill(block, &mut buffer);
        let id = pipeline.write_with(buffer, self.blocks.offset(block), with)?;
        self.started(id, Kind::Write(block));
        Ok(true)
    }

    fn read(
        &mut self,
        pipeline: &mut Pipeline<'_, Vec<u8>>,
        block: usize,
        mut buffer: Vec<u8>,
    ) -> Result<(), Error> {
        // What is read must not be what was there before.
        buffer.fill(0);
        let id = pipeline.read(buffer, self.blocks.offset(block))?;
        self.started(id, Kind::Read(block));
        Ok(())
    }

    fn choose(&mut self) -> Option<usize> {
        let blocks = self.blocks.len();
        let start = match self.args.pattern {
            Pattern::Rand => self.random.below(blocks as u64) as usize,
            Pattern::Seq => self.next,
        };
        let block = self.blocks.borrow(start)?;
        self.next = (block + 1) % blocks;
        Some(block)
    }

    fn started(&mut self, id: RequestId, kind: Kind) {
        // The clock was looked at when the last command was completed, and since then
        // nothing was waited for.
        self.at_work.insert(id, Work { kind, started: self.progress });
    }

    /// Takes note of a command that is finished; a read is compared.
    fn complete(&mut self, done: Completion<Vec<u8>>) -> Result<(), Error> {
        let now = Instant::now();
        self.counts.stalled(now - self.progress);
        self.progress = now;
        let Some(Work { kind, started }) = self.at_work.remove(done.id) else { return Ok(()) };
        let nanos = (now - started).as_nanos();
        self.tally.record(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.tally.operations += 1;
        let succeeded = succeeds(done.result)?;
        self.counts.failed += u64::from(!succeeded);
        match kind {
            Kind::Read(block) => {
                if succeeded {
                    self.counts.reads += 1;
                    self.compare(block, done.buffer.as_deref());
                }
                self.blocks.give_back(block);
            }
            Kind::Write(block) => {
                self.counts.writes += u64::from(succeeded);
                self.blocks.written(block, succeeded);
                self.blocks.give_back(block);
            }
            Kind::Flush => self.counts.flushes += u64::from(succeeded),
        }
        self.buffers.extend(done.buffer);
        Ok(())
    }

    fn compare(&mut self, block: usize, data: Option<&[u8]>) {
        if let Err(mismatch) = self.blocks.check(block, data.unwrap_or_default()) {
            self.counts.mismatches += 1;
            self.mismatches.tell(&mismatch);
        }
    }

    /// Reads every block that was written.
    fn look_at_all(&mut self, pipeline: &mut Pipeline<'_, Vec<u8>>) -> Result<(), Error> {
        let mut next = 0;
        loop {
            while let Some(buffer) = self.buffers.pop() {
                let Some(block) = (next..self.blocks.len()).find(|at| self.blocks.is_known(*at))
                else {
                    next = self.blocks.len();
                    self.buffers.push(buffer);
                    break;
                };
                next = block + 1;
                self.read(pipeline, block, buffer)?;
            }
            let Some(done) = pipeline.wait() else { return Ok(()) };
            let Some(Work { kind: Kind::Read(block), .. }) = self.at_work.remove(done.id) else {
                continue;
            };
            if succeeds(done.result)? {
                self.counts.looked_at += 1;
                self.compare(block, done.buffer.as_deref());
            } else {
                self.counts.unread += 1;
            }
            self.buffers.extend(done.buffer);
        }
    }
}

/// Whether the server did it; an error when the connection is over for good.
fn succeeds(result: Result<(), Error>) -> Result<bool, Error> {
    let Err(error) = result else { return Ok(true) };
    // A flush that tells of a loss is no news here: each block tells for itself.
    let told = matches!(error.recovery(), Some(RecoveryError::UnflushedLost));
    if told || error.kind() == ErrorKind::Command { Ok(false) } else { Err(error) }
}
