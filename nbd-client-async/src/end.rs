//! Why a connection is over.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::{Command, PeerMisbehaved, SubmitError};
use nbd_session::replay::RecoveryError;
use nbd_session::{LinkError, OldError as Error};

/// Why a connection is over; told to every call that was under way.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// In good order.
    Closed,
    Io(Arc<io::Error>),
    Protocol(nbd_proto::Error),
    Link(Arc<LinkError>),
    Stopped,
    /// There will be no other connection.
    NotReconnected {
        after: Duration,
        cause: Arc<Error>,
    },
    /// There is one, but not everything could be saved.
    Recovery(RecoveryError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => Self::Io(Arc::new(error)),
            LinkError::Protocol(error) => Self::Protocol(error),
            other => Self::Link(Arc::new(other)),
        }
    }
}

impl End {
    /// What a command is told that was not, or cannot be, sent.
    pub(crate) fn not_sent(&self, command: Command) -> Error {
        self.failure().unwrap_or(Error::Submit { command, error: SubmitError::NotConnected })
    }

    /// What a command is told that lost its connection; `None` after an orderly end.
    pub(crate) fn failure(&self) -> Option<Error> {
        match self {
            Self::Closed => None,
            Self::Io(error) => Some(Error::Io(Arc::clone(error))),
            Self::Protocol(error) => Some(Error::Protocol(error.clone())),
            Self::Link(error) => Some(Error::Link(Arc::clone(error))),
            Self::Stopped => Some(Error::Stopped),
            Self::NotReconnected { after, cause } => {
                Some(Error::NotReconnected { after: *after, cause: Arc::clone(cause) })
            }
            Self::Recovery(error) => Some(error.clone().into()),
        }
    }

    /// Why the connection was lost, if another one may do better.
    pub(crate) fn loss(&self) -> Option<Error> {
        // An end in good order that nobody here has asked for is the server's.
        let cause =
            self.failure().unwrap_or_else(|| nbd_proto::Error::from(PeerMisbehaved::Closed).into());
        cause.is_transient().then_some(cause)
    }
}
