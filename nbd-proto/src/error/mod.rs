//! Errors, sorted by who erred.
//!
//! | type | who erred |
//! |---|---|
//! | [`InvalidMessage`] | the wire: the bytes form no message |
//! | [`PeerMisbehaved`] | the peer: a sound message at the wrong place |
//! | [`PeerIncompatible`] | nobody: the two sides have no common ground |
//! | [`Refusal`] | nobody: the server said no |
//! | [`ApiMisuse`] | the caller |
//! | [`Error::Internal`] | this library |
//! | [`CommandError`] | any of them, but only one command is lost |

mod caller;
mod peer;

use crate::errno::Errno;
use crate::wire::option::RefusalCode;

pub use caller::{ApiMisuse, CommandError, SubmitError};
pub use peer::{Anomaly, InvalidMessage, PeerIncompatible, PeerMisbehaved, Refusal, ReplyFault};

/// What ends a connection or a negotiation. Once a machine has returned one, it
/// returns the same again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes form no message of the protocol.
    #[error("invalid message from the peer: {0}")]
    Invalid(#[from] InvalidMessage),
    /// The peer broke a rule.
    #[error("protocol violation by the peer: {0}")]
    Misbehaved(#[from] PeerMisbehaved),
    /// The two sides cannot work together.
    #[error("incompatible peer: {0}")]
    Incompatible(#[from] PeerIncompatible),
    /// The server refused what the connection needs.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caller broke the contract of the machine.
    #[error("wrong use of the library: {0}")]
    Misuse(#[from] ApiMisuse),
    /// The library contradicts itself: neither the peer nor the caller is to blame. Nothing
    /// it could say would be certain any more, so the connection ends.
    #[error("a fault of this library, which deserves a report: {0}")]
    Internal(&'static str),
}

/// What cannot be has come to pass. A build with debug assertions stops here; any other ends
/// the connection and says why, rather than go on with a stream it has lost.
#[cold]
pub(crate) fn internal(what: &'static str) -> Error {
    broken(what);
    Error::Internal(what)
}

/// The same where nothing can be returned, and nothing is lost by going on.
#[cold]
pub(crate) fn broken(what: &'static str) {
    debug_assert!(false, "{what}");
}

impl Error {
    /// The error number that commands of a dead connection and failed attempts
    /// to connect are reported with.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Invalid(_) => Errno::Proto,
            Self::Misbehaved(PeerMisbehaved::Closed | PeerMisbehaved::ClosedMidMessage) => {
                Errno::NotConn
            }
            Self::Misbehaved(_) => Errno::Proto,
            Self::Incompatible(_) => Errno::NotSup,
            Self::Refused(refusal) => refusal.code.errno(),
            Self::Misuse(misuse) => misuse.errno(),
            Self::Internal(_) => Errno::Io,
        }
    }

    /// Whether another connection may do better: this one was closed without a reason, or
    /// the server said that it is shutting down. A peer that broke the protocol, or said no,
    /// would do so again.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Misbehaved(fault) => {
                matches!(fault, PeerMisbehaved::Closed | PeerMisbehaved::ClosedMidMessage)
            }
            Self::Refused(refusal) => matches!(refusal.code, RefusalCode::Shutdown),
            Self::Invalid(_) | Self::Incompatible(_) | Self::Misuse(_) | Self::Internal(_) => false,
        }
    }
}

#[cfg(feature = "std")]
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Misbehaved(PeerMisbehaved::Closed | PeerMisbehaved::ClosedMidMessage) => {
                std::io::ErrorKind::UnexpectedEof
            }
            _ => error.errno().into(),
        };
        Self::new(kind, error)
    }
}
