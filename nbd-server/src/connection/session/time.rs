//! Clients that stall, and memory that a client keeps without using it.

use std::time::{Duration, Instant};

use nbd_proto::{Direction, Machine};

use super::Session;
use crate::connection::ConnectionError;
use crate::connection::budget::PATIENCE;

/// A connection that has been idle for this long keeps no unused memory.
const IDLE: Duration = Duration::from_secs(1);

/// A request whose bytes take longer than this keeps memory however steadily they come.
const LONGEST_TRANSFER: Duration = Duration::from_secs(30);

impl Session {
    /// When it has to be looked at again, whatever the stream does.
    pub(super) fn deadline(&self, direction: Direction, now: Instant) -> Option<Instant> {
        let idle = direction == Direction::READ && self.buffers.keeps_any();
        let wants_memory = self.short || self.buffers.is_overdrawn();
        let stalls = self.is_midway().then(|| self.moved.1 + self.shared.limits.stall_timeout);
        [self.stop_by, idle.then(|| now + IDLE), wants_memory.then(|| now + PATIENCE), stalls]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether the client owes something: the rest of a write, or to take a reply.
    fn is_midway(&self) -> bool {
        self.arriving.is_some() || !self.replies.is_empty()
    }

    /// Ends what has taken too long.
    pub(super) fn check_time(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if self.stop_by.is_some_and(|end| end <= now) {
            return Err(ConnectionError::Abandoned);
        }
        if self.account.is_cut() {
            return Err(ConnectionError::MemoryShort);
        }
        let still = now.saturating_duration_since(self.moved.1);
        if !self.is_midway() {
            if still >= IDLE {
                self.buffers.forget_unused();
            }
        } else if still >= self.shared.limits.stall_timeout {
            return Err(ConnectionError::Stalled(self.shared.limits.stall_timeout));
        }
        Ok(())
    }

    /// Notes what has moved, and tells since when the client keeps memory without using it.
    pub(super) fn publish(&mut self, now: Instant) {
        let stats = self.server.stats();
        let moved = stats.bytes_received.wrapping_add(stats.bytes_sent);
        if moved != self.moved.0 || (!self.is_midway() && self.elsewhere > 0) {
            self.moved = (moved, now);
        }
        self.arriving = match (self.buffers.arriving(), self.arriving) {
            (Some(id), Some((known, since))) if id == known => Some((id, since)),
            (Some(id), _) => Some((id, now)),
            (None, _) => None,
        };
        let arriving = self.arriving.map(|(_, since)| since);
        let leaving = self.replies.front().map(|(_, since)| *since);
        let oldest = arriving.into_iter().chain(leaving).min();
        let drips = |since: &Instant| now.saturating_duration_since(*since) >= LONGEST_TRANSFER;
        let since = oldest.map(|since| if drips(&since) { since } else { since.max(self.moved.1) });
        self.account.keeps_since(since);
    }
}
