//! What reading and writing go by.

use std::thread;
use std::time::Duration;

use super::destination::Destination;
use super::source::Source;

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) connections: usize,
    pub(super) requests: usize,
    pub(super) request_size: usize,
    /// How much is in flight follows the distance of the source.
    pub(super) adapts: bool,
    /// Shortest run of zeroes in data that is one, in bytes; 0 for none.
    pub(super) sparse: usize,
    /// Pieces start and end on multiples of this many bytes, a power of two.
    pub(super) block: usize,
    pub(super) use_extents: bool,
    pub(super) skip_zeroes: bool,
    pub(super) allocated: bool,
    /// A file is made durable too.
    pub(super) flush: bool,
    /// What is written is read again, and must be the same.
    pub(super) verify: bool,
    /// What a destination holds is kept, but for what is written.
    pub(super) keep: bool,
    /// What is written is made durable every so many bytes.
    pub(super) flush_every: u64,
    /// Nothing is written: the destination is only compared.
    pub(super) compare: Option<Compare>,
    /// Zeroes are written in requests that do not cross multiples of this.
    pub(super) longest_zero: u64,
    /// Longest time to connect, and longest silence.
    pub(super) limit: Option<Duration>,
}

/// Requests in flight on each connection nearby. More would only fill the processor's caches.
pub(super) const REQUESTS: usize = 32;

/// More than there are processors would only take turns.
pub(super) fn connections() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// How far to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    /// Until something is found to differ.
    First,
    All,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            connections: connections(),
            requests: REQUESTS,
            request_size: 256 << 10,
            adapts: false,
            sparse: 4096,
            block: 1,
            use_extents: true,
            skip_zeroes: false,
            allocated: false,
            flush: false,
            verify: false,
            keep: false,
            flush_every: u64::MAX,
            compare: None,
            longest_zero: u64::MAX,
            limit: None,
        }
    }
}

impl Plan {
    /// In whole blocks of both ends. Where nothing is written, no zeroes are looked for.
    pub(super) fn between(mut self, source: &Source, destination: &Destination<'_>) -> Self {
        let block = destination.block();
        self.block = block;
        self.request_size = self.request_size.max(block).max(source.block());
        self.sparse = match destination {
            Destination::Nowhere
            | Destination::Program(..)
            | Destination::Against(_)
            | Destination::AgainstFile { .. } => 0,
            _ if self.sparse > 0 => self.sparse.max(block),
            _ => 0,
        };
        self
    }
}
