//! Facts a machine reports. They carry ids, never payload.

use crate::error::{Anomaly, CommandError, Error};
use crate::types::{Command, RequestId};

/// What a [`Client`](crate::Client) reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
pub enum Event {
    /// A command is finished; its id is free from now on. Each command that was
    /// submitted and not abandoned is reported exactly once.
    Completed {
        /// The id `submit` returned.
        id: RequestId,
        /// What was asked for.
        command: Command,
        /// How it went.
        result: Result<(), CommandError>,
    },
    /// The peer sent something that fits no command; it was skipped.
    Anomaly(Anomaly),
    /// The connection is over; reported once, after every completion.
    Disconnected {
        /// Why; `None` after an orderly end.
        error: Option<Error>,
    },
}

/// What a [`Server`](crate::Server) reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
pub enum ServerEvent {
    /// A sound request has arrived, with all of its payload: answer it.
    Request {
        /// Names the request in the answer.
        id: RequestId,
        /// What is asked for.
        command: Command,
    },
    /// The last byte of a reply is sent: its payload is no longer needed.
    Replied {
        /// The request that was answered.
        id: RequestId,
    },
    /// The connection is over and every reply has left, or never will.
    Disconnected {
        /// Why; `None` after an orderly end.
        error: Option<Error>,
    },
}
