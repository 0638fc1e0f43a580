//! How far a copy is: counted by whoever writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Copied;

/// Counts what the destination has acknowledged.
#[derive(Debug, Default)]
pub(super) struct Progress {
    data: AtomicU64,
    zeroes: AtomicU64,
    /// Bytes that had to be written once more, after a connection was lost.
    again: AtomicU64,
    /// Connections that were lost and made again.
    lost: AtomicU64,
    /// Something has been asked of the destination, whatever became of it.
    begun: AtomicBool,
}

impl Progress {
    /// From now on the destination is not what it was.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn data(&self, bytes: u64) {
        self.data.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn zeroes(&self, bytes: u64) {
        self.zeroes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was counted is to be written once more.
    pub(super) fn again(&self, bytes: u64) {
        self.again.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A worker has had so many connections, one after the other.
    pub(super) fn connected(&self, connections: u64) {
        self.lost.fetch_add(connections.saturating_sub(1), Ordering::Relaxed);
    }

    pub(super) fn copied(&self) -> Copied {
        Copied {
            data: self.data.load(Ordering::Relaxed),
            zeroes: self.zeroes.load(Ordering::Relaxed),
            again: self.again.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    fn bytes(&self) -> u64 {
        self.copied().bytes()
    }

    /// How far it is, in words.
    pub(super) fn in_words(&self, total: Option<u64>) -> String {
        match total {
            Some(total) => format!("{} of {total} bytes were copied", self.bytes()),
            None => format!("{} bytes were copied", self.bytes()),
        }
    }
}
