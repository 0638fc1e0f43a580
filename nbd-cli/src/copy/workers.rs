//! How a copy is shared out among several connections.
//!
//! ```text
//!   regions:  | 0 | 1 | 2 | 3 | 4 | 5 | ...      each goes to the worker that is free next
//!
//!   worker 0    source connection ── pieces ──► destination connection
//!   worker 1    source connection ── pieces ──► destination connection
//! ```
//!
//! A worker is a copy of its own. No two workers have a byte in common, so none waits for
//! another. The first worker begins at once; each other one connects in a thread of its own,
//! beside the work, and is not missed if it never comes.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::{ClientConfig, Negotiated};

use crate::failure::{Failure, Result};
use crate::target::Server;

/// A worker with less to do, in bytes, would not be worth its connection.
const WORTHWHILE: u64 = 16 << 20;
/// Regions are shorter when there is less to share out, down to this many bytes.
const SHORTEST: u64 = 4 << 20;
/// Longer ones would save no question about holes.
const LONGEST: u64 = 4 << 30;
/// Regions for each worker, so that all workers end at about the same time.
const EACH: u64 = 32;

/// How many workers have something to do, of those that are wanted.
pub(super) fn worthwhile(size: u64, wanted: usize) -> usize {
    usize::try_from(size.div_ceil(WORTHWHILE)).map_or(wanted, |workers| wanted.min(workers).max(1))
}

/// The parts of the source that no worker has taken.
#[derive(Debug)]
pub(super) struct Regions {
    /// In order.
    ranges: Vec<Range<u64>>,
    length: u64,
    /// Which of the ranges is next, and from where.
    next: Mutex<(usize, u64)>,
}

impl Regions {
    /// Parts of a source, in order, for so many workers. Regions are multiples of `request` bytes
    /// long, a power of two, but for the last one of each part.
    pub(super) fn new(
        ranges: impl IntoIterator<Item = Range<u64>>,
        workers: usize,
        request: u64,
    ) -> Self {
        let ranges: Vec<_> = ranges.into_iter().collect();
        let size: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let length = match workers {
            // One worker loses nothing by taking all of it.
            0 | 1 => u64::MAX,
            _ => {
                (size / (workers as u64 * EACH)).clamp(SHORTEST, LONGEST).next_multiple_of(request)
            }
        };
        Self { ranges, length, next: Mutex::default() }
    }

    /// Takes the next one.
    pub(super) fn take(&self) -> Option<Range<u64>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (index, from) = *next;
            let range = self.ranges.get(index)?;
            let start = range.start.max(from);
            let end = start.saturating_add(self.length).min(range.end);
            *next = if end == range.end { (index + 1, 0) } else { (index, end) };
            if start < end {
                return Some(start..end);
            }
        }
    }
}

/// How many connections an export can be used over at once, of those that are wanted.
pub(super) fn connections(client: &Client, is_command: bool, wanted: usize) -> usize {
    let safe = client.negotiated().is_safe_beside(client.negotiated());
    if safe && !is_command { wanted } else { 1 }
}

/// Connects once more to an export, if it can be used beside the first connection.
pub(super) fn beside(
    server: &Server,
    config: ClientConfig,
    limit: Option<Duration>,
    first: &Negotiated,
) -> Result<Client> {
    let client = server.connect(config, limit)?;
    if !client.negotiated().is_safe_beside(first) {
        return Err(Failure::new(format!("{}: it is another export", server.name)));
    }
    Ok(client)
}

/// Who works, and what became of it. Workers may come late, or never.
#[derive(Debug)]
pub(super) struct Team {
    members: Mutex<Members>,
    left: Condvar,
}

#[derive(Debug)]
struct Members {
    open: bool,
    working: usize,
    result: Result<()>,
}

impl Team {
    /// One worker works from the start.
    pub(super) fn new() -> Self {
        let members = Members { open: true, working: 1, result: Ok(()) };
        Self { members: Mutex::new(members), left: Condvar::new() }
    }

    /// One more worker begins to work; false when there is nothing left to do.
    pub(super) fn enter(&self) -> bool {
        let mut members = self.lock();
        members.working += usize::from(members.open);
        members.open
    }

    /// A worker has ended like this.
    pub(super) fn leave(&self, result: Result<()>) {
        let mut members = self.lock();
        members.working -= 1;
        // The first failure is the one to tell.
        if members.result.is_ok() {
            members.result = result;
        }
        self.left.notify_all();
    }

    /// Lets nobody in any more, and waits for those who work.
    pub(super) fn end(&self) -> Result<()> {
        let mut members = self.lock();
        members.open = false;
        while members.working > 0 {
            members = self.left.wait(members).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::replace(&mut members.result, Ok(()))
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;

    fn all(regions: &Regions) -> Vec<Range<u64>> {
        std::iter::from_fn(|| regions.take()).collect()
    }

    #[test]
    fn regions_make_up_the_source() {
        for size in [0, 1, SHORTEST, SHORTEST + 1, 1 << 30, (1 << 42) + 512] {
            for workers in [1, 2, 7] {
                let mut end = 0;
                for region in all(&Regions::new(once(0..size), workers, 256 << 10)) {
                    assert_eq!(region.start, end);
                    assert!(region.start < region.end && region.start % (256 << 10) == 0);
                    end = region.end;
                }
                assert_eq!(end, size, "{workers} workers");
            }
        }
    }

    #[test]
    fn a_small_source_needs_one_worker() {
        let worth = [0, 1, WORTHWHILE, WORTHWHILE + 1, 1 << 30].map(|size| worthwhile(size, 4));
        assert_eq!(worth, [1, 1, 1, 2, 4]);
    }

    #[test]
    fn one_worker_has_one_region() {
        let regions = Regions::new(once(0..1 << 40), 1, 512);
        assert_eq!((regions.take(), regions.take()), (Some(0..1 << 40), None));
    }

    #[test]
    fn parts_are_taken_in_order() {
        let parts = vec![5..5, 512..1024, 4096..4096 + SHORTEST + 512];
        let regions = Regions::new(parts, 4, 512);
        let expected = [512..1024, 4096..4096 + SHORTEST, 4096 + SHORTEST..4608 + SHORTEST];
        assert_eq!(all(&regions), expected);
        assert_eq!(all(&Regions::new(Vec::new(), 2, 512)), []);
    }

    #[test]
    fn a_worker_that_comes_late_has_nothing_to_do() {
        let team = Team::new();
        assert!(team.enter());
        team.leave(Err(Failure::new("one")));
        team.leave(Err(Failure::new("two")));
        assert_eq!(team.end().unwrap_err().to_string(), "one");
        assert!(!team.enter());
    }
}
