//! What no connection and no server told.

use super::terms::Changed;
use nbd_proto::Command;
use nbd_proto::Errno;

/// What went wrong in spite of reconnecting, or because of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// Of one flush: the connection was lost after writes had been acknowledged and before
    /// they had been flushed, so they may be lost. Told once, as `fsync` does.
    #[error(
        "the connection was lost after writes that had not been flushed; they may be lost \
         (see keep_unflushed)"
    )]
    UnflushedLost,
    /// Of a write that waited for room among the kept ones: the flush that was to make room
    /// failed. The write was not sent.
    #[error("no room to keep the write, because the flush that makes room failed: {0}")]
    CannotFlush(Errno),
    /// Of everything: a write that had been acknowledged could not be put back. The client
    /// ends, because reads would return what was there before.
    #[error(
        "{} of {} bytes at {}, acknowledged before the connection was lost, \
         could not be repeated: {errno}", command.kind.name(), command.length, command.offset
    )]
    ReplayFailed {
        /// What had been acknowledged.
        command: Command,
        /// What came of it now.
        errno: Errno,
    },
    /// When connecting: the server can neither flush nor write durably, so nothing could be
    /// told to be safe.
    #[error("the server offers neither flush nor FUA: unflushed writes cannot be kept safe")]
    CannotKeep,
    /// When connecting: the connection was handed over, so nobody knows how to make it again.
    #[error("a connection that was handed over cannot be made again; say how to connect instead")]
    NoWayBack,
    /// Of everything: the server that was connected to again serves something else. The
    /// client ends.
    #[error("the export changed while the connection was lost: {0}")]
    Changed(#[from] Changed),
}

impl RecoveryError {
    /// The error number a user of libnbd would see.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::UnflushedLost | Self::ReplayFailed { .. } => Errno::Io,
            Self::CannotFlush(errno) => *errno,
            Self::CannotKeep | Self::NoWayBack => Errno::NotSup,
            Self::Changed(_) => Errno::NotConn,
        }
    }
}
