//! What each block of one connection is to hold.

use std::fmt;

use super::stamp::{Found, Stamp, Told};

/// The most blocks that all connections together write to. Where the export has more, they
/// lie evenly spread over it. It bounds the memory, and the time that the last look at all
/// of them takes.
const MAX_BLOCKS: u64 = 1 << 18;

/// The blocks of one connection: every so many of the export's, none of another
/// connection's.
///
/// A block is lent to one request at a time, so that there is one answer to what it holds.
#[derive(Debug)]
pub(super) struct Blocks {
    run: u64,
    /// Where the first block is, and how far it is to the next, in bytes.
    first: u64,
    step: u64,
    states: Vec<State>,
    lent: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The last generation whose write was acknowledged; 0 if none was.
    acknowledged: u64,
    /// A write of the generation after that failed: it may have been done, in part or not
    /// at all.
    doubtful: bool,
    lent: bool,
}

/// A block that does not hold what it should.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// As the last acknowledged write left it.
    wanted: Stamp,
    /// The next generation would do as well.
    doubtful: bool,
    found: Found,
}

impl Blocks {
    /// The share of connection `index` of so many, in an export of `total` bytes.
    pub(super) fn new(run: u64, size: u64, total: u64, index: u64, connections: u64) -> Self {
        let blocks = total / size;
        let spread = blocks.div_ceil(MAX_BLOCKS).max(1);
        let used = blocks / spread;
        let share = used / connections + u64::from(index < used % connections);
        Self {
            run,

            first: index * spread * size,
            step: connections * spread * size,
            states: vec![State::default(); share as usize],
            lent: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.states.len()
    }

    /// Where a block is, in bytes.
    pub(super) const fn offset(&self, block: usize) -> u64 {
        self.first + block as u64 * self.step
    }

    /// Lends the first block from `start` on that no request is at work on.
    pub(super) fn borrow(&mut self, start: usize) -> Option<usize> {
        let len = self.states.len();
        if self.lent == len {
            return None;
        }
        let block = (start..len).chain(0..start).find(|block| !self.states[*block].lent)?;
        self.states[block].lent = true;
        self.lent += 1;
        Some(block)
    }

    /// Takes a block back.
    pub(super) fn give_back(&mut self, block: usize) {
        self.states[block].lent = false;
        self.lent -= 1;
    }

    /// Whether a write of this block was ever acknowledged, so that there is something to
    /// compare with.
    pub(super) fn is_known(&self, block: usize) -> bool {
        self.states[block].acknowledged > 0
    }

    /// Makes the next generation of a block. One whose write failed is written once more,
    /// so that there are never more than two that the block may hold.
    pub(super) fn fill(&self, block: usize, buffer: &mut [u8]) {
        self.stamp(block, self.states[block].acknowledged + 1).fill(buffer);
    }

    /// Takes note of what became of a write.
    pub(super) fn written(&mut self, block: usize, acknowledged: bool) {
        let state = &mut self.states[block];
        state.acknowledged += u64::from(acknowledged);
        state.doubtful = !acknowledged;
    }

    /// Compares a known block with what was read.
    pub(super) fn check(&self, block: usize, data: &[u8]) -> Result<(), Mismatch> {
        let State { acknowledged, doubtful, .. } = self.states[block];
        let wanted = self.stamp(block, acknowledged);
        let found = Found::in_block(data);
        if found == Found::Block(wanted) || (doubtful && self.is_either(block, data)) {
            return Ok(());
        }
        Err(Mismatch { wanted, doubtful, found })
    }

    /// Whether every byte is from the last generation that was acknowledged or from the one
    /// whose write failed: that may have stopped in the middle.
    fn is_either(&self, block: usize, data: &[u8]) -> bool {
        let acknowledged = self.states[block].acknowledged;
        let [old, new] = [acknowledged, acknowledged + 1].map(|generation| {
            let mut whole = vec![0; data.len()];
            self.stamp(block, generation).fill(&mut whole);
            whole
        });
        data.iter().zip(old.iter().zip(&new)).all(|(byte, (old, new))| byte == old || byte == new)
    }

    fn stamp(&self, block: usize, generation: u64) -> Stamp {
        Stamp { run: self.run, offset: self.offset(block), generation }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, doubtful, found } = *self;
        write!(f, "offset {}: wanted generation {}", wanted.offset, wanted.generation)?;
        if doubtful {
            write!(f, " or {}", wanted.generation + 1)?;
        }
        write!(f, ", found {}", Told { found, wanted })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SIZE: u64 = 64;

    fn blocks() -> Blocks {
        Blocks::new(1, SIZE, 10 * SIZE, 0, 1)
    }

    fn generation(blocks: &Blocks, block: usize, generation: u64) -> Vec<u8> {
        let mut data = vec![0; SIZE as usize];
        blocks.stamp(block, generation).fill(&mut data);
        data
    }

    #[test]
    fn connections_share_no_block_and_stay_inside() {
        for (total, connections) in [(1000, 3), (2, 5), (MAX_BLOCKS * 7 + 3, 4), (1, 1)] {
            let mut seen = BTreeSet::new();
            for index in 0..connections {
                let blocks = Blocks::new(1, SIZE, total * SIZE + 63, index, connections);
                for block in 0..blocks.len() {
                    let offset = blocks.offset(block);
                    assert!(offset.is_multiple_of(SIZE) && offset + SIZE <= total * SIZE);
                    assert!(seen.insert(offset), "{offset} twice");
                }
            }
            assert!(seen.len() as u64 <= MAX_BLOCKS);
            assert!(seen.len() as u64 >= total.min(MAX_BLOCKS / 2), "{} of {total}", seen.len());
        }
    }

    #[test]
    fn a_block_is_lent_once() {
        let mut blocks = blocks();
        let lent: BTreeSet<_> = (0..10).map(|_| blocks.borrow(7).unwrap()).collect();
        assert_eq!(lent.len(), 10);
        assert_eq!(blocks.borrow(0), None);
        blocks.give_back(3);
        assert_eq!(blocks.borrow(9), Some(3));
    }

    #[test]
    fn the_last_acknowledged_generation_is_the_right_one() {
        let mut blocks = blocks();
        assert!(!blocks.is_known(4));
        for _ in 0..3 {
            blocks.written(4, true);
        }
        assert!(blocks.is_known(4));
        assert_eq!(blocks.check(4, &generation(&blocks, 4, 3)), Ok(()));
        let told = |data: &[u8]| blocks.check(4, data).unwrap_err().to_string();
        let stale = told(&generation(&blocks, 4, 2));
        assert_eq!(stale, "offset 256: wanted generation 3, found generation 2");
        let early = told(&generation(&blocks, 4, 4));
        assert_eq!(early, "offset 256: wanted generation 3, found generation 4");
        let misplaced = told(&generation(&blocks, 5, 3));
        assert_eq!(misplaced, "offset 256: wanted generation 3, found generation 3 of offset 320");
        assert!(told(&[0; SIZE as usize]).ends_with("found zeroes"));
    }

    #[test]
    fn a_failed_write_may_have_happened_in_part() {
        let mut blocks = blocks();
        blocks.written(0, true);
        blocks.written(0, false);
        let [old, new, newer] = [1, 2, 3].map(|number| generation(&blocks, 0, number));
        for good in [&old[..], &new, &[&new[..40], &old[40..]].concat()] {
            assert_eq!(blocks.check(0, good), Ok(()));
        }
        let told = blocks.check(0, &newer).unwrap_err().to_string();
        assert_eq!(told, "offset 0: wanted generation 1 or 2, found generation 3");
        assert!(blocks.check(0, &[&new[..40], &newer[40..]].concat()).is_err());
        // It is tried again, with the same data.
        let mut again = vec![0; SIZE as usize];
        blocks.fill(0, &mut again);
        assert_eq!(again, new);
        blocks.written(0, true);
        assert!(blocks.check(0, &old).is_err());
        assert_eq!(blocks.check(0, &new), Ok(()));
    }

    #[test]
    fn a_block_whose_first_write_failed_is_not_known() {
        let mut blocks = blocks();
        blocks.written(0, false);
        assert!(!blocks.is_known(0));
    }
}
