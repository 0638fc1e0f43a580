//! The two engines under every machine, and what they share.
//!
//! ```text
//!   bytes in ──► intake ──► role (client, server, negotiation)
//!                  │            │ slots
//!                  ▼            ▼
//!            PayloadSink     events
//!
//!   bytes out ◄── outbox ◄── role
//!                  ▲
//!            PayloadSource
//! ```
//!
//! Receiving never waits for a half-sent message, nor the other way round: the
//! engines share nothing but the table of slots, and only through the role.

use core::ops::AddAssign;

pub(crate) mod intake;
pub(crate) mod outbox;
pub(crate) mod scratch;
pub(crate) mod slots;

/// Counters of one connection; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Protocol bytes received.
    #[doc(alias = "nbd_stats_bytes_received")]
    pub bytes_received: u64,
    /// Protocol bytes sent.
    #[doc(alias = "nbd_stats_bytes_sent")]
    pub bytes_sent: u64,
    /// Messages received: replies and chunks, or requests.
    #[doc(alias = "nbd_stats_chunks_received")]
    pub messages_received: u64,
    /// Messages sent: requests, or replies and chunks.
    #[doc(alias = "nbd_stats_chunks_sent")]
    pub messages_sent: u64,
    /// Calls that delivered bytes, each one read from the transport.
    pub reads: u64,
    /// Calls that accounted for sent bytes, each one write to the transport.
    pub writes: u64,
    /// Payload bytes that were copied out of the scratch buffer.
    pub bytes_copied: u64,
    /// Payload bytes that the transport wrote straight to their destination.
    pub bytes_placed: u64,
    /// Replies that fitted no command and were skipped.
    pub anomalies: u64,
}

/// What several connections have counted, together.
impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        let Self {
            bytes_received,
            bytes_sent,
            messages_received,
            messages_sent,
            reads,
            writes,
            bytes_copied,
            bytes_placed,
            anomalies,
        } = other;
        for (sum, more) in [
            (&mut self.bytes_received, bytes_received),
            (&mut self.bytes_sent, bytes_sent),
            (&mut self.messages_received, messages_received),
            (&mut self.messages_sent, messages_sent),
            (&mut self.reads, reads),
            (&mut self.writes, writes),
            (&mut self.bytes_copied, bytes_copied),
            (&mut self.bytes_placed, bytes_placed),
            (&mut self.anomalies, anomalies),
        ] {
            *sum = sum.wrapping_add(more);
        }
    }
}
