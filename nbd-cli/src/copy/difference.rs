//! Where two ends of a comparison differ.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rangemap::RangeSet;

/// Differences are told in blocks of this many bytes, but for the first one.
const BLOCK: u64 = 512;
/// No more of them are kept.
const MOST: usize = 100_000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Differences {
    found: Mutex<Found>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The first byte that differs.
    pub(super) first: Option<u64>,
    /// The blocks that do.
    pub(super) ranges: RangeSet<u64>,
    /// There were too many to keep.
    pub(super) more: bool,
}

impl Differences {
    /// Compares what is at an offset; returns the first byte that differs.
    pub(super) fn look(&self, offset: u64, a: &[u8], b: &[u8]) -> Option<u64> {
        if a == b {
            return None;
        }
        let differing = a.iter().zip(b).zip(offset..).filter(|((a, b), _)| a != b);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = None;
        for (_, at) in differing {
            first.get_or_insert(at);
            found.add(at - at % BLOCK..at - at % BLOCK + BLOCK);
        }
        found.first = [found.first, first].into_iter().flatten().min();
        first
    }

    pub(super) fn found(&self) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Found {
    fn add(&mut self, range: Range<u64>) {
        if self.ranges.len() < MOST {
            self.ranges.insert(range);
        } else if !self.ranges.contains(&range.start) {
            self.more = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_differ() {
        let differences = Differences::default();
        let (a, mut b) = (vec![0; 4096], vec![0; 4096]);
        assert_eq!(differences.look(8192, &a, &b), None);
        for at in [5, 6, 511, 512, 3000] {
            b[at] = 1;
        }
        assert_eq!(differences.look(8192, &a, &b), Some(8197));
        assert_eq!(differences.look(0, &[1], &[2]), Some(0));
        let found = differences.found();
        assert_eq!(found.first, Some(0));
        let ranges: Vec<_> = found.ranges.iter().cloned().collect();
        assert_eq!(ranges, [0..512, 8192..9216, 10_752..11_264]);
    }
}
