//! Which bytes of a read have been delivered.
//!
//! proto.md, "NBD_CMD_READ": chunks come in any order, must not overlap, and
//! cover the whole request when there is no error. Counting bytes would take one
//! half sent twice for the whole, so ranges are kept.
//!
//! ```text
//!   0        head      island     island            length
//!   │██████████│        │███│      │██████│            │
//! ```

use alloc::vec::Vec;
use core::ops::Range;

use crate::error::ReplyFault;

/// Delivered ranges, in bytes from the start of the request.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// Everything below is delivered.
    head: u64,
    /// Ranges beyond `head`: sorted, apart from each other and from `head`.
    islands: Vec<Range<u64>>,
    /// How many bytes that is in all.
    covered: u64,
}

impl Coverage {
    pub(crate) fn reset(&mut self) {
        self.head = 0;
        self.islands.clear();
        self.covered = 0;
    }

    pub(crate) fn is_complete(&self, length: u64) -> bool {
        self.head == length
    }

    /// Bytes that are delivered.
    pub(crate) fn covered(&self) -> u64 {
        self.covered
    }

    /// Bytes after the part that is delivered without a gap.
    pub(crate) fn missing_from_head(&self, length: u64) -> u64 {
        length.saturating_sub(self.head)
    }

    /// Marks `range`, which must not be empty, as delivered.
    ///
    /// In-order delivery, the common case, touches `head` only.
    pub(crate) fn add(&mut self, range: Range<u64>, max_islands: usize) -> Result<(), ReplyFault> {
        let length = range.end.saturating_sub(range.start);
        self.mark(range, max_islands)?;
        self.covered = self.covered.saturating_add(length);
        Ok(())
    }

    fn mark(&mut self, range: Range<u64>, max_islands: usize) -> Result<(), ReplyFault> {
        if range.start < self.head {
            return Err(ReplyFault::Overlap);
        }
        let next = self.islands.partition_point(|island| island.start < range.start);
        let before = next.checked_sub(1);
        let touched_before = match before.and_then(|index| self.islands.get(index)) {
            Some(island) if island.end > range.start => return Err(ReplyFault::Overlap),
            Some(island) if island.end == range.start => before,
            Some(_) | None => None,
        };
        let touches_next = match self.islands.get(next) {
            Some(island) if island.start < range.end => return Err(ReplyFault::Overlap),
            Some(island) => island.start == range.end,
            None => false,
        };
        if range.start == self.head {
            self.head = range.end;
            if touches_next {
                self.head = self.islands.remove(next).end;
            }
            return Ok(());
        }
        match (touched_before, touches_next) {
            (Some(index), true) => {
                let end = self.islands.remove(next).end;
                self.extend(index, end);
            }
            (Some(index), false) => self.extend(index, range.end),
            (None, true) => {
                if let Some(island) = self.islands.get_mut(next) {
                    island.start = range.start;
                }
            }
            (None, false) => {
                if self.islands.len() >= max_islands {
                    return Err(ReplyFault::TooScattered);
                }
                self.islands.insert(next, range);
            }
        }
        Ok(())
    }

    fn extend(&mut self, index: usize, end: u64) {
        if let Some(island) = self.islands.get_mut(index) {
            island.end = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_half_twice_is_not_the_whole() {
        let mut coverage = Coverage::default();
        coverage.add(0..512, 9).unwrap();
        assert_eq!(coverage.add(0..512, 9), Err(ReplyFault::Overlap));
        assert!(!coverage.is_complete(1024));
    }

    #[test]
    fn islands_are_bounded() {
        let mut coverage = Coverage::default();
        for i in 1..=4 {
            coverage.add(i * 10..i * 10 + 1, 4).unwrap();
        }
        assert_eq!(coverage.add(90..91, 4), Err(ReplyFault::TooScattered));
        coverage.add(11..12, 4).unwrap();
    }

    proptest! {
        /// Against a bitmap, for any sequence of ranges.
        #[test]
        fn agrees_with_a_bitmap(ranges in prop::collection::vec((0usize..64, 1usize..16), 0..40)) {
            let mut coverage = Coverage::default();
            let mut bitmap = [false; 80];
            for (start, len) in ranges {
                let cells = &mut bitmap[start..start + len];
                let free = cells.iter().all(|cell| !cell);
                let result = coverage.add(start as u64..(start + len) as u64, 1000);
                prop_assert_eq!(result.is_ok(), free);
                if free {
                    cells.fill(true);
                }
                let head = bitmap.iter().take_while(|cell| **cell).count();
                prop_assert!(coverage.is_complete(head as u64));
                let covered = bitmap.iter().filter(|cell| **cell).count();
                prop_assert_eq!(coverage.covered(), covered as u64);
            }
        }
    }
}
