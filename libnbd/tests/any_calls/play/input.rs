//! Bytes that decide.

use super::LENT;

/// What is left of them; zeroes follow.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn word(&mut self) -> u32 {
        // Mostly small.
        match self.byte() {
            0 => u32::MAX,
            1 => u32::from(self.byte()) << 24 | u32::from(self.byte()),
            small => u32::from(small) - 2,
        }
    }

    pub(super) fn long(&mut self) -> u64 {
        match self.byte() {
            0 => u64::MAX,
            1 => u64::from(self.word()) << 32 | u64::from(self.word()),
            2..128 => u64::from(self.byte()) * 512,
            _ => u64::from(self.word()),
        }
    }

    /// No longer than what is lent, or so long that no command is.
    pub(super) fn count(&mut self) -> usize {
        match self.byte() {
            0 => usize::MAX,
            1 => (64 << 20) + 1,
            2 => 0,
            more => usize::from(more) * 16 % (LENT + 1),
        }
    }
}
