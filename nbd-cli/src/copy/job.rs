//! What all workers of one copy share.

use std::iter;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nbd_client_blocking::BufferPool;
use rangemap::RangeSet;

use super::difference::Differences;
use super::distance::Distance;
use super::part::Part;
use super::plan::{Compare, Plan};
use super::progress::Progress;
use super::rate_limit::RateLimit;
use super::record::Record;
use super::stop::Stop;
use super::workers::Regions;
use crate::checksum::Digest;
use crate::failure::Result;

/// One copy, or one pass of it.
pub(super) struct Job {
    pub(super) plan: Plan,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: Arc<Stop>,
    /// Where bytes are on their way.
    pub(super) memory: BufferPool,
    pub(super) regions: Regions,
    pub(super) distance: Distance,
    pub(super) part: Part,
    /// What is left of the source, for `--resume`.
    pub(super) record: Option<Arc<Record>>,
    pub(super) rate_limit: Option<Arc<RateLimit>>,
    /// The checksum of all bytes that pass, which come in order then.
    pub(super) digest: Arc<Mutex<Option<Digest>>>,
    pub(super) sums: bool,
    /// Where the destination is found to differ, if it is only compared.
    pub(super) differences: Arc<Differences>,
    /// Parts of the destination that were written, and may be lost with a connection.
    pub(super) lost: Mutex<RangeSet<u64>>,
    /// Nothing is read from here on: what is wanted to be known is known.
    pub(super) until: AtomicU64,
}

impl Job {
    /// A copy of this part and nothing more, on so many workers.
    pub(super) fn new(plan: Plan, part: Part, wanted: Range<u64>, workers: usize) -> Result<Self> {
        Ok(Self {
            plan,
            progress: Arc::default(),
            stop: Arc::new(Stop::new()?),
            memory: BufferPool::new(),
            regions: Regions::new(iter::once(wanted), workers, plan.request_size as u64),
            distance: Distance::default(),
            part,
            record: None,
            rate_limit: None,
            digest: Arc::default(),
            sums: false,
            differences: Arc::default(),
            lost: Mutex::default(),
            until: AtomicU64::new(u64::MAX),
        })
    }

    /// The next region that nobody has taken, unless it is wished to stop.
    pub(super) fn take(&self) -> Option<Range<u64>> {
        if self.stop.is_requested() {
            return None;
        }
        let until = self.until();
        self.regions.take().filter(|region| region.start < until)
    }

    /// From where on nothing is read.
    pub(super) fn until(&self) -> u64 {
        self.until.load(Ordering::Relaxed)
    }

    /// A byte of the destination is not as it should be.
    pub(super) fn differs(&self, at: u64) {
        if self.plan.compare == Some(Compare::First) {
            // What lies before is still to be looked at.
            let here = self.part.here(&(at..at + 1)).start;
            self.until.fetch_min(here, Ordering::Relaxed);
        }
    }

    /// Lets so many bytes go, when it is time.
    pub(super) fn let_pass(&self, bytes: u64) {
        if let Some(rate_limit) = &self.rate_limit {
            rate_limit.wait(bytes, &self.stop);
        }
    }

    /// Parts of the destination are durable.
    pub(super) fn durable(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        record.add(ranges.into_iter().map(|range| self.part.here(&range)))
    }

    /// Parts of the destination have to be written again.
    pub(super) fn lose(&self, ranges: RangeSet<u64>) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(ranges);
    }

    /// What has to be written again, in bytes of the source.
    pub(super) fn take_lost(&self) -> Vec<Range<u64>> {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        lost.iter().map(|range| self.part.here(range)).collect()
    }
}
