//! The load itself: one connection, as many requests in flight as are wanted.

use std::time::{Duration, Instant};

use nbd_client_blocking::proto::Command;
use nbd_client_blocking::{Client, Error};

use super::random::Random;
use super::report::Tally;
use super::{Args, Direction, Pattern};

/// One connection's part of the work.
pub(super) struct Worker<'a> {
    args: &'a Args,
    /// Which of the offsets this worker takes, when they are sequential.
    index: u64,
    workers: u64,
    random: Random,
    next: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(args: &'a Args, index: u64, workers: u64) -> Self {
        Self { args, index, workers, random: Random::stream(index), next: 0 }
    }

    pub(super) fn run(mut self, mut client: Client, mut count: u64) -> Result<Tally, Error> {
        let size = self.args.size as usize;
        let blocks = client.size() / self.args.size;
        let depth = u64::from(self.args.depth).min(count) as usize;
        let mut tally = Tally::new();
        let buffers: Vec<Vec<u8>> = (0..depth)
            .map(|_| {
                let mut buffer = vec![0; size];
                self.random.fill(&mut buffer);
                buffer
            })
            .collect();
        // Nanoseconds since the start, by slot.
        let mut started = vec![0_u64; depth.max(1)];
        let calls_before = client.system_calls();
        let mut pipeline = client.pipeline();
        let mut submitted = 0;
        // What comes out of one read of the socket came at one moment, and what follows it
        // leaves in one write: one look at the clock for both.
        let begin = Instant::now();
        let mut now = 0;
        let end = self.args.seconds().map_or(u64::MAX, nanos);
        for buffer in buffers {
            let id = pipeline.submit(self.command(blocks), Some(buffer))?;
            started[id.slot()] = now;
            submitted += 1;
        }
        while pipeline.wait_for(1) > 0 {
            now = nanos(begin.elapsed());
            if now >= end {
                count = submitted;
            }
            while let Some(done) = pipeline.next_completion() {
                done.result?;
                tally.record(now - started[done.id.slot()]);
                if submitted < count
                    && let Some(buffer) = done.buffer
                {
                    let id = pipeline.submit(self.command(blocks), Some(buffer))?;
                    started[id.slot()] = now;
                    submitted += 1;
                }
            }
        }
        tally.end_run();
        tally.operations = submitted;
        drop(pipeline);
        tally.system_calls = client.system_calls() - calls_before;
        tally.stats = client.session().stats().wire;
        client.disconnect()?;
        Ok(tally)
    }

    fn command(&mut self, blocks: u64) -> Command {
        let offset = self.offset(blocks);
        // It was checked against the longest request.
        let length = self.args.size as u32;
        match self.args.rw {
            Direction::Read => Command::read(offset, length),
            Direction::Write => Command::write(offset, length),
        }
    }

    fn offset(&mut self, blocks: u64) -> u64 {
        let block = match self.args.pattern {
            Pattern::Rand => self.random.below(blocks),
            Pattern::Seq => {
                let block = (self.next * self.workers + self.index) % blocks;
                self.next += 1;
                block
            }
        };
        block * self.args.size
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
