//! A disk with a cache that does not survive a crash.

use std::ops::Range;

use crate::rng::Rng;

/// A change that is not flushed.
#[derive(Debug)]
struct Change {
    at: usize,
    data: Vec<u8>,
    /// It was written through.
    durable: bool,
}

/// What a server serves, and what would be left of it.
#[derive(Debug)]
pub(crate) struct VolatileDisk {
    safe: Vec<u8>,
    now: Vec<u8>,
    changes: Vec<Change>,
}

impl VolatileDisk {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { safe: bytes.clone(), now: bytes, changes: Vec::new() }
    }

    pub(crate) fn read(&self, range: Range<usize>) -> &[u8] {
        &self.now[range]
    }

    pub(crate) fn change(&mut self, at: usize, data: Vec<u8>, durable: bool) {
        self.now[at..at + data.len()].copy_from_slice(&data);
        self.changes.push(Change { at, data, durable });
    }

    /// Cuts it off, or adds zeroes.
    pub(crate) fn resize(&mut self, size: usize) {
        self.flush();
        self.safe.resize(size, 0);
        self.now.resize(size, 0);
    }

    pub(crate) fn flush(&mut self) {
        self.safe.clone_from(&self.now);
        self.changes.clear();
    }

    /// Of what was not flushed, any part is gone.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let unlucky = rng.pick(&[1, 2, 4]);
        for change in self.changes.drain(..) {
            if change.durable || !rng.one_in(unlucky) {
                self.safe[change.at..change.at + change.data.len()].copy_from_slice(&change.data);
            }
        }
        self.now.clone_from(&self.safe);
    }
}
