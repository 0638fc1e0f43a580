//! What a block holds: where it belongs, which writing of it this is, and a checksum.
//!
//! ```text
//!   0     8        16           24                 size - 8     size
//!   ├─ run ┼─ offset ┼─ generation ┼─ noise ... ────────┼─ checksum ─┤
//! ```
//!
//! The noise follows from the first three words, so a block can be made again.

use std::fmt;

use crate::bench::random::{Random, mix};

/// The fewest bytes that hold it all.
pub(in crate::bench) const MIN_SIZE: u64 = 32;

/// One writing of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The run of the program, so that what an earlier one has left is not taken for ours.
    pub(super) run: u64,
    /// Where the block is, in bytes.
    pub(super) offset: u64,
    /// The first is 1.
    pub(super) generation: u64,
}

/// What was read where a block should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole block, of this run or of another.
    Block(Stamp),
    Zeroes,
    /// No checksum fits: a mixture of two blocks, or nothing that was ever written.
    Damaged,
}

impl Stamp {
    /// Makes the block.
    pub(super) fn fill(self, block: &mut [u8]) {
        let (body, checksum) = split(block);
        let (head, noise) = body.split_at_mut(24);
        for (place, word) in head.chunks_mut(8).zip([self.run, self.offset, self.generation]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let seed = mix(mix(self.run ^ self.offset) ^ self.generation);
        Random::seeded(seed).fill(noise);
        checksum.copy_from_slice(&sum(body).to_le_bytes());
    }
}

impl Found {
    /// What a block says of itself.
    pub(super) fn in_block(block: &[u8]) -> Self {
        let (body, checksum) = block.split_at(block.len() - 8);
        let word = |at: usize| body[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        if sum(body).to_le_bytes() == *checksum {
            return Self::Block(Stamp { run: word(0), offset: word(8), generation: word(16) });
        }
        if block.iter().all(|byte| *byte == 0) { Self::Zeroes } else { Self::Damaged }
    }
}

/// What was found, in words, for somebody who wanted this block.
pub(super) struct Told {
    pub(super) found: Found,
    pub(super) wanted: Stamp,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found {
            Found::Zeroes => f.write_str("zeroes"),
            Found::Damaged => f.write_str("a block whose checksum is wrong"),
            Found::Block(stamp) if stamp.run != self.wanted.run => {
                f.write_str("a block of an earlier run")
            }
            Found::Block(stamp) if stamp.offset != self.wanted.offset => {
                write!(f, "generation {} of offset {}", stamp.generation, stamp.offset)
            }
            Found::Block(stamp) => write!(f, "generation {}", stamp.generation),
        }
    }
}

fn split(block: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    let body = block.len() - 8;
    block.split_at_mut(body)
}

/// Not zero for zeroes, and another one when any byte changes or moves.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Each step can be undone, so a change of one word is never lost.
    let step = |sum: u64, word: &[u8; 8]| {
        (sum.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    mix(words.iter().chain([&last]).fold(bytes.len() as u64, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, offset: 1 << 40, generation: 3 };

    fn block(stamp: Stamp, size: usize) -> Vec<u8> {
        let mut block = vec![0; size];
        stamp.fill(&mut block);
        block
    }

    #[test]
    fn a_block_of_any_size_tells_what_it_is() {
        for size in [32, 33, 39, 40, 512, 1000, 4096] {
            assert_eq!(Found::in_block(&block(STAMP, size)), Found::Block(STAMP), "{size}");
        }
    }

    #[test]
    fn any_changed_byte_shows() {
        for size in [32, 45, 512] {
            let good = block(STAMP, size);
            for at in 0..size {
                let mut bad = good.clone();
                bad[at] ^= 0x40;
                assert_eq!(Found::in_block(&bad), Found::Damaged, "byte {at} of {size}");
            }
        }
    }

    #[test]
    fn a_mixture_of_two_writings_shows() {
        let (old, new) = (block(STAMP, 4096), block(Stamp { generation: 4, ..STAMP }, 4096));
        for at in (8..4096).step_by(8).filter(|at| *at > 16) {
            assert_eq!(Found::in_block(&[&new[..at], &old[at..]].concat()), Found::Damaged);
        }
    }

    #[test]
    fn zeroes_are_no_block() {
        assert_eq!(Found::in_block(&[0; 32]), Found::Zeroes);
        assert_eq!(Found::in_block(&[0; 4096]), Found::Zeroes);
    }

    #[test]
    fn every_finding_is_told_apart() {
        let told = |found| Told { found, wanted: STAMP }.to_string();
        assert_eq!(told(Found::Block(STAMP)), "generation 3");
        let elsewhere = Found::Block(Stamp { offset: 512, ..STAMP });
        assert_eq!(told(elsewhere), "generation 3 of offset 512");
        assert_eq!(told(Found::Block(Stamp { run: 8, ..STAMP })), "a block of an earlier run");
        assert_eq!(told(Found::Zeroes), "zeroes");
        assert_eq!(told(Found::Damaged), "a block whose checksum is wrong");
    }
}
