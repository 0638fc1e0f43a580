//! What happens to a session besides its commands, and how much it has done.

use std::time::Duration;

use nbd_proto::Stats;
use nbd_transport::Endpoint;

use crate::error::Error;

/// What happens to the connection of a session that [reconnects], told by
/// [`Session::next_event`](crate::Session::next_event).
///
/// [reconnects]: crate::ConnectOptions::reconnect
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The connection is lost, and is to be made again.
    Lost {
        /// Why.
        cause: Error,
    },
    /// It could not be made again so far.
    Failed {
        /// Which of the servers was tried; none where it is the caller who connects.
        endpoint: Option<Endpoint>,
        /// How often it was tried since something was last completed.
        attempts: u32,
        /// Why not.
        cause: Error,
    },
    /// There is another one, and what was under way is sent again.
    Reconnected {
        /// How long there was none.
        after: Duration,
    },
    /// It will not be tried any more: the session is over.
    GaveUp {
        /// Why.
        cause: Error,
    },
}

/// What a session has done so far. All of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Connections that were ready to take commands.
    pub connections: u64,
    /// Commands that were sent again after a loss.
    pub sent_again: u64,
    /// Commands that were given up because their time was over.
    pub timed_out: u64,
    /// Reads that were sent for [keep-alive](crate::ConnectOptions::keep_alive).
    pub probes: u64,
    /// Counters of the protocol, of all connections together.
    pub wire: Stats,
}

impl SessionStats {
    /// Connections that were made again after a loss.
    #[must_use]
    pub const fn reconnects(&self) -> u64 {
        self.connections.saturating_sub(1)
    }
}
