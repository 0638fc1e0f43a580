//! What was counted, and the mismatches as they are told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::blocks::Mismatch;

/// So many mismatches are told in a line each; the others are counted.
const TOLD: u64 = 20;

/// A connection on which nothing is completed for longer than this is said to stall.
pub(in crate::bench) const STALL: Duration = Duration::from_millis(100);

/// What one connection, or all of them, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Counts {
    /// Commands that succeeded, without the reads at the end.
    pub(in crate::bench) reads: u64,
    pub(in crate::bench) writes: u64,
    pub(in crate::bench) flushes: u64,
    /// Commands that the server failed, and flushes that told of a loss.
    pub(in crate::bench) failed: u64,
    /// Blocks that were read at the end, and those that could not be.
    pub(in crate::bench) looked_at: u64,
    pub(in crate::bench) unread: u64,
    pub(in crate::bench) mismatches: u64,
    /// Connections that were made again, and commands that were sent again.
    pub(in crate::bench) reconnects: u64,
    pub(in crate::bench) sent_again: u64,
    /// How often nothing was completed for longer than [`STALL`].
    pub(in crate::bench) stalls: u64,
    /// The longest time in which nothing was completed.
    pub(in crate::bench) longest: Duration,
    /// How long the load took, without the look at the end.
    pub(in crate::bench) elapsed: Duration,
}

impl Counts {
    /// Takes note of a time in which nothing was completed.
    pub(super) fn stalled(&mut self, time: Duration) {
        self.stalls += u64::from(time > STALL);
        self.longest = self.longest.max(time);
    }

    /// Adds what another connection counted at the same time.
    pub(super) fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.failed += other.failed;
        self.looked_at += other.looked_at;
        self.unread += other.unread;
        self.mismatches += other.mismatches;
        self.reconnects += other.reconnects;
        self.sent_again += other.sent_again;
        self.stalls += other.stalls;
        self.longest = self.longest.max(other.longest);
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// Tells mismatches on standard error, the first of them in full.
#[derive(Debug, Default)]
pub(super) struct Mismatches {
    seen: AtomicU64,
}

impl Mismatches {
    pub(super) fn tell(&self, mismatch: &Mismatch) {
        match self.seen.fetch_add(1, Ordering::Relaxed) {
            0..TOLD => eprintln!("nbd: {mismatch}"),
            TOLD => eprintln!("nbd: more mismatches are counted, but not told"),
            _ => {}
        }
    }
}
