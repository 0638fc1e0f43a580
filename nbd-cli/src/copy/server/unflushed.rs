//! What was written over one connection and is not known to be durable.
//!
//! ```text
//!   written ─► acknowledged ─► flush under way ─► durable
//!                    │               │
//!                    └── the connection is lost ──► lost: copied again from the source
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use nbd_client_blocking::proto::RequestId;
use rangemap::RangeSet;

/// Writes of one worker. Connections are counted; which one is in use is said at each call.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    connection: u64,
    /// Over which connection each write in flight was sent.
    in_flight: BTreeMap<RequestId, u64>,
    acknowledged: RangeSet<u64>,
    /// Bytes of these.
    bytes: u64,
    /// The flush under way, its connection, and what was acknowledged before it.
    flush: Option<(RequestId, u64, RangeSet<u64>)>,
    lost: RangeSet<u64>,
    /// How often something was lost since something was durable.
    losses: u32,
}

/// What a flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    Durable,
    /// What was acknowledged before may be lost.
    Lost,
    /// The server would not. Who asked decides what that means.
    Refused,
}

impl Unflushed {
    pub(super) fn new(connection: u64) -> Self {
        Self { connection, ..Self::default() }
    }

    /// A write is sent.
    pub(super) fn sent(&mut self, id: RequestId, connection: u64) {
        self.look(connection);
        self.in_flight.insert(id, connection);
    }

    /// A write is acknowledged. If the connection was lost meanwhile, it may have been over
    /// the one or the other: then it counts as lost.
    pub(super) fn acknowledged(&mut self, id: RequestId, range: Range<u64>, connection: u64) {
        self.look(connection);
        if self.in_flight.remove(&id) == Some(connection) {
            self.bytes += range.end - range.start;
            self.acknowledged.insert(range);
        } else {
            self.lost.insert(range);
        }
    }

    /// A write was refused, and wrote nothing that counts.
    pub(super) fn refused(&mut self, id: RequestId) {
        self.in_flight.remove(&id);
    }

    /// A flush is sent: it vouches for what was acknowledged before.
    pub(super) fn flushing(&mut self, id: RequestId, connection: u64) {
        self.look(connection);
        self.bytes = 0;
        self.flush = Some((id, connection, std::mem::take(&mut self.acknowledged)));
    }

    /// A flush came to this. Returns what is durable by it.
    pub(super) fn flushed(
        &mut self,
        id: RequestId,
        outcome: Flushed,
        connection: u64,
    ) -> RangeSet<u64> {
        self.look(connection);
        let Some((_, sent, ranges)) = self.flush.take_if(|(flush, ..)| *flush == id) else {
            return RangeSet::new();
        };
        match outcome {
            Flushed::Durable if sent == connection => {
                self.losses = 0;
                ranges
            }
            Flushed::Durable | Flushed::Lost => {
                self.lost.extend(ranges);
                RangeSet::new()
            }
            Flushed::Refused => RangeSet::new(),
        }
    }

    /// Bytes that were acknowledged since the last flush was sent.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn is_flushing(&self) -> bool {
        self.flush.is_some()
    }

    /// How often something was lost since something was durable.
    pub(super) const fn losses(&self) -> u32 {
        self.losses
    }

    /// What has to be written again, at the end.
    pub(super) fn take_lost(&mut self) -> RangeSet<u64> {
        std::mem::take(&mut self.lost)
    }

    /// With another connection, what was acknowledged before may be lost.
    fn look(&mut self, connection: u64) {
        if connection == self.connection {
            return;
        }
        self.connection = connection;
        self.losses += 1;
        self.bytes = 0;
        self.lost.extend(std::mem::take(&mut self.acknowledged));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> RequestId {
        RequestId::from_cookie(n)
    }

    /// Starts and ends.
    fn ranges(set: &RangeSet<u64>) -> Vec<(u64, u64)> {
        set.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn a_flush_vouches_for_what_came_before() {
        let mut writes = Unflushed::new(1);
        writes.sent(id(1), 1);
        writes.sent(id(2), 1);
        writes.acknowledged(id(1), 0..10, 1);
        writes.flushing(id(3), 1);
        writes.acknowledged(id(2), 10..20, 1);
        assert_eq!(ranges(&writes.flushed(id(3), Flushed::Durable, 1)), [(0, 10)]);
        writes.flushing(id(4), 1);
        assert_eq!(ranges(&writes.flushed(id(4), Flushed::Durable, 1)), [(10, 20)]);
        assert_eq!(ranges(&writes.take_lost()), []);
    }

    #[test]
    fn another_connection_forgets() {
        let mut writes = Unflushed::new(1);
        for n in 1..=4 {
            writes.sent(id(n), 1);
        }
        writes.acknowledged(id(1), 0..10, 1);
        writes.flushing(id(5), 1);
        writes.acknowledged(id(2), 10..20, 1);
        // Lost and made again: it may have been answered before or after.
        writes.acknowledged(id(3), 20..30, 2);
        assert!(writes.flushed(id(5), Flushed::Durable, 2).is_empty());
        writes.acknowledged(id(4), 40..50, 2);
        writes.sent(id(6), 2);
        writes.acknowledged(id(6), 60..70, 2);
        writes.flushing(id(7), 2);
        assert_eq!(ranges(&writes.flushed(id(7), Flushed::Durable, 2)), [(60, 70)]);
        assert_eq!(ranges(&writes.take_lost()), [(0, 30), (40, 50)]);
    }

    #[test]
    fn a_flush_after_a_loss_vouches_for_nothing() {
        let mut writes = Unflushed::new(1);
        writes.sent(id(1), 1);
        writes.acknowledged(id(1), 0..10, 1);
        writes.flushing(id(2), 1);
        assert!(writes.flushed(id(2), Flushed::Lost, 1).is_empty());
        assert_eq!(ranges(&writes.take_lost()), [(0, 10)]);
    }
}
