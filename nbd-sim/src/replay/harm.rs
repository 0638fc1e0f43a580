//! Changing what a recorded peer sends.

/// A recorded peer whose bytes can be changed.
pub trait Harm {
    /// What the peer sends, burst by burst.
    fn bursts(&mut self) -> impl Iterator<Item = &mut Vec<u8>>;

    /// One byte of it.
    fn byte(&mut self, mut at: usize) -> Option<&mut u8> {
        self.bursts().find_map(|burst| {
            if at < burst.len() {
                return burst.get_mut(at);
            }
            at -= burst.len();
            None
        })
    }

    /// Everything ends after so many bytes.
    fn truncate(&mut self, mut length: usize) {
        for burst in self.bursts() {
            burst.truncate(length);
            length -= burst.len();
        }
    }
}
