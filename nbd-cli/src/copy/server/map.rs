//! What of an export is to be read.

use std::collections::VecDeque;
use std::ops::Range;

use nbd_client_blocking::proto::{Command, ContextId, Extent};
use nbd_client_blocking::{Client, Error, Pipeline, PooledBuffer};

use super::longest_range;
use crate::copy::job::Job;
use crate::copy::piece::{Piece, PieceSender};
use crate::failure::Result;

/// After so many answers in a row that told of less than [`LITTLE`], all is read: to ask costs
/// more than it saves, and need not come to an end.
const ENOUGH: u32 = 64;
/// An answer about fewer bytes tells little.
const LITTLE: u64 = 4096;

/// What is known of the source's holes, and what is still to be read.
pub(super) struct Map<'a> {
    job: &'a Job,
    allocation: Option<ContextId>,
    /// Everything below is known, as far as the regions taken go.
    mapped: u64,
    /// The length asked about at `mapped`, while the answer is under way.
    asked: Option<u64>,
    /// Where the region that was taken last ends.
    end: u64,
    /// Reads are in whole blocks of this size.
    block: u64,
    longest: u64,
    /// Ranges to read, in order.
    data: VecDeque<Range<u64>>,
    /// Answers in a row that told of less than a request would have read.
    useless: u32,
}

impl<'a> Map<'a> {
    pub(super) fn new(client: &Client, allocation: Option<ContextId>, job: &'a Job) -> Self {
        let block = u64::from(client.export().minimum_block());
        Self {
            job,
            allocation,
            mapped: 0,
            asked: None,
            end: 0,
            block: block.max(job.plan.block as u64),
            longest: longest_range(client),
            data: VecDeque::new(),
            useless: 0,
        }
    }

    /// Asks about what comes next, early enough that reading does not wait for it.
    pub(super) fn ask(
        &mut self,
        pipeline: &mut Pipeline<'_, PooledBuffer>,
    ) -> std::result::Result<(), Error> {
        // The next region is taken late: another worker may be sooner.
        if self.mapped == self.end && self.data.is_empty() {
            let Some(region) = self.job.take() else {
                return Ok(());
            };
            (self.mapped, self.end) = (region.start, region.end);
        }
        if self.allocation.is_none() {
            self.read_on();
        }
        if self.asked.is_some() || self.mapped == self.end || self.data.len() > 64 {
            return Ok(());
        }
        let length = (self.end - self.mapped).min(self.longest);
        pipeline.submit(Command::block_status(self.mapped, length), None)?;
        self.asked = Some(length);
        Ok(())
    }

    /// Takes in an answer: zeroes go straight to the destination.
    pub(super) fn learn(
        &mut self,
        extents: &[(ContextId, Extent)],
        sender: &PieceSender<'_>,
    ) -> Result<()> {
        let asked = self.mapped;
        let end = asked + self.asked.take().unwrap_or(0);
        for (context, extent) in extents {
            let length = extent.length.min(end - self.mapped);
            if Some(*context) != self.allocation || length == 0 {
                continue;
            }
            let start = self.mapped;
            self.mapped += length;
            // Extents need not end on a block; blocks that are zeroes only in part are
            // read.
            let from = start.next_multiple_of(self.block);
            let to = self.mapped - self.mapped % self.block;
            if extent.is_zero() && from < to {
                self.read(start..from);
                sender.send(Piece::Zeroes { offset: from, length: to - from })?;
                self.read(to..self.mapped);
            } else {
                self.read(start..self.mapped);
            }
        }
        let told_little = self.mapped < end && self.mapped - asked < LITTLE;
        self.useless = if told_little { self.useless + 1 } else { 0 };
        if self.useless >= ENOUGH {
            self.give_up();
        }
        Ok(())
    }

    /// Reads all that is not known, and asks no more.
    pub(super) fn give_up(&mut self) {
        self.asked = None;
        self.allocation = None;
        self.read_on();
    }

    fn read_on(&mut self) {
        self.read(self.mapped..self.end);
        self.mapped = self.end;
    }

    fn read(&mut self, range: Range<u64>) {
        match self.data.back_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.data.push_back(range),
        }
    }

    /// The next range to read, no longer than a request and ending on a multiple of it.
    pub(super) fn next(&mut self, request: u64) -> Option<Range<u64>> {
        let range = self.data.front_mut()?;
        let start = range.start;
        let boundary = (start - start % request).saturating_add(request);
        let end = range.end.min(boundary);
        range.start = end;
        if range.is_empty() {
            self.data.pop_front();
        }
        Some(start..end)
    }
}
