//! Numbers by chance, cheaply.

/// A xorshift generator: what it makes does not compress, and it costs next to nothing.
pub(super) struct Random(u64);

impl Random {
    /// One of many streams of numbers that have nothing in common.
    pub(super) fn stream(index: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (index + 1))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }
}
