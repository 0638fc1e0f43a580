//! The buffer that headers and small payloads are parsed from.
//!
//! ```text
//!   0        start         end              len
//!   │ consumed │ to be parsed │ window offered │
//! ```

use alloc::vec::Vec;

/// A linear buffer. It is drained down to a partial header or body after each
/// delivery, so moving what is left to the front is cheap, and it can never be
/// full when it is offered again.
///
/// It grows where more arrives at once than it holds: a server has thousands of connections
/// on which little happens.
#[derive(Debug)]
pub(crate) struct Scratch {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How long it may become.
    most: usize,
    /// The last delivery had more than there was room for, as far as can be known.
    overflowed: bool,
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        Self { buffer: alloc::vec![0; len], start: 0, end: 0, most: len, overflowed: false }
    }

    /// Lets the buffer become `most` bytes long, and makes it at least `least` bytes long.
    pub(crate) fn may_grow(&mut self, least: usize, most: usize) {
        self.most = most;
        if self.buffer.len() < least {
            self.grow(least);
        }
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        let mut buffer = alloc::vec![0; len];
        let filled = self.filled();
        let n = filled.len();
        if let Some(front) = buffer.get_mut(..n) {
            front.copy_from_slice(filled);
        }
        *self = Self { buffer, start: 0, end: n, most: self.most, overflowed: false };
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next at most `max` bytes to receive into.
    pub(crate) fn window(&mut self, max: usize) -> &mut [u8] {
        if self.overflowed && self.buffer.len() < self.most {
            self.grow(self.buffer.len().saturating_mul(2).min(self.most));
        }
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        let limit = self.end.saturating_add(max).min(self.buffer.len());
        self.buffer.get_mut(self.end..limit).unwrap_or_default()
    }

    /// `n` bytes of the window now hold data; `n` must not exceed the window.
    pub(crate) fn commit(&mut self, n: usize) {
        self.end = self.end.saturating_add(n).min(self.buffer.len());
        self.overflowed = self.end == self.buffer.len();
    }

    /// Copies in as much of `bytes` as fits; returns how much that was.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let window = self.window(bytes.len());
        let n = window.len();
        if let Some(bytes) = bytes.get(..n) {
            window.copy_from_slice(bytes);
        }
        self.commit(n);
        n
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_where_more_arrives_at_once() {
        let mut scratch = Scratch::new(4);
        scratch.may_grow(8, 20);
        // What fits leaves it as it is, however much comes one after the other.
        for _ in 0..9 {
            assert_eq!(scratch.window(usize::MAX).len(), 8);
            scratch.commit(7);
            scratch.consume(7);
        }
        let mut lengths = Vec::new();
        for _ in 0..4 {
            let window = scratch.window(usize::MAX).len();
            scratch.commit(window);
            lengths.push(window);
            scratch.consume(window);
        }
        assert_eq!(lengths, [8, 16, 20, 20]);
    }

    #[test]
    fn what_is_held_is_kept_when_it_grows() {
        let mut scratch = Scratch::new(4);
        scratch.may_grow(0, 8);
        assert_eq!(scratch.push(&[1, 2, 3, 4]), 4);
        scratch.consume(1);
        assert_eq!(scratch.push(&[5, 6, 7, 8, 9, 10]), 5);
        assert_eq!(scratch.filled(), [2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
