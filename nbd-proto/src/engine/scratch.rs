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
#[derive(Debug)]
pub(crate) struct Scratch {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        Self { buffer: alloc::vec![0; len], start: 0, end: 0 }
    }

    /// Makes the buffer at least `len` bytes long.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.buffer.len() >= len {
            return;
        }
        // Fresh zeroes cost memory only where they are overwritten, so a connection that
        // has received little stays small.
        let mut buffer = alloc::vec![0; len];
        let filled = self.filled();
        let n = filled.len();
        if let Some(front) = buffer.get_mut(..n) {
            front.copy_from_slice(filled);
        }
        *self = Self { buffer, start: 0, end: n };
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next at most `max` bytes to receive into.
    pub(crate) fn window(&mut self, max: usize) -> &mut [u8] {
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
