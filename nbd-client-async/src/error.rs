//! What can go wrong, and who erred.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::{ApiMisuse, Command, CommandError, Errno, SubmitError};
use nbd_transport::tls::TlsConfigError;
use nbd_transport::{ConnectError, LinkError, UriError};

/// Why connecting or a command failed.
///
/// ```
/// fn show(error: nbd_client_async::Error) {
///     eprintln!("{error} (error number {})", error.errno());
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller: the URI cannot be understood, or policy forbids it.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The caller: the credentials for TLS cannot be used.
    #[error(transparent)]
    TlsConfig(#[from] TlsConfigError),
    /// Nobody could be connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The transport failed. Every command that was waiting got the same error.
    #[error("connection failed: {0}")]
    Io(#[source] Arc<io::Error>),
    /// The peer broke the protocol, refused, or closed the connection.
    #[error(transparent)]
    Protocol(#[from] nbd_proto::Error),
    /// TLS failed, or another fault between socket and protocol.
    #[error(transparent)]
    Link(Arc<LinkError>),
    /// The task that served the connection is gone, most likely together with its
    /// runtime.
    #[error("the task that served the connection was dropped")]
    Stopped,
    /// The caller: the command was not sent.
    #[error("{} not sent: {error}", describe(command))]
    Submit {
        /// What was asked for.
        command: Command,
        /// Why it was not sent.
        error: SubmitError,
    },
    /// The server failed one command; the connection goes on unless it says
    /// otherwise.
    #[error(transparent)]
    Command(#[from] CommandFailure),
    /// Nothing came from the server for too long.
    #[error("no answer from the server for {:?} while {state}", timeout)]
    TimedOut {
        /// What the connection was waiting for.
        state: &'static str,
        /// How long.
        timeout: Duration,
    },
    /// The caller: a name is too long or contains NUL, or the call does not fit the
    /// state.
    #[error("{0}")]
    Misuse(#[from] ApiMisuse),
}

impl Error {
    /// The error number, as Linux numbers it, that a user of libnbd would see.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Uri(error) => error.errno(),
            Self::Connect(error) => error.errno(),
            Self::Io(error) => error.raw_os_error().unwrap_or_else(|| Errno::NotConn.to_linux()),
            Self::Protocol(error) => error.errno().to_linux(),
            Self::Link(_) | Self::Stopped => Errno::NotConn.to_linux(),
            Self::Submit { error, .. } => error.errno().to_linux(),
            Self::Command(failure) => failure.error.errno().to_linux(),
            Self::TimedOut { .. } => Errno::TimedOut.to_linux(),
            Self::TlsConfig(_) | Self::Misuse(_) => Errno::Inval.to_linux(),
        }
    }
}

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => error.into(),
            LinkError::Protocol(error) => Self::Protocol(error),
            other => Self::Link(Arc::new(other)),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io(inner) => inner.kind(),
            Error::Uri(_) | Error::TlsConfig(_) | Error::Misuse(_) => io::ErrorKind::InvalidInput,
            Error::Connect(_) | Error::Link(_) | Error::Stopped => io::ErrorKind::NotConnected,
            Error::Protocol(inner) => inner.errno().into(),
            Error::Submit { error: inner, .. } => inner.errno().into(),
            Error::Command(failure) => failure.error.errno().into(),
            Error::TimedOut { .. } => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

/// A command that failed, and what the server said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandFailure {
    /// What was asked for.
    pub command: Command,
    /// Why it failed.
    pub error: CommandError,
    /// The server's own words, made safe to show; often empty.
    pub message: String,
    /// Where in the export the error is, in bytes, if the server told.
    pub offset: Option<u64>,
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", describe(&self.command), self.error)?;
        if !self.message.is_empty() {
            write!(f, ": server said \"{}\"", self.message)?;
        }
        if let Some(offset) = self.offset {
            write!(f, " (at offset {offset})")?;
        }
        Ok(())
    }
}

impl std::error::Error for CommandFailure {}

fn describe(command: &Command) -> String {
    match command.kind {
        nbd_proto::CommandType::Flush | nbd_proto::CommandType::Disconnect => {
            String::from(command.kind.name())
        }
        kind => format!("{} of {} bytes at {}", kind.name(), command.length, command.offset),
    }
}

/// Why a connection is over; told to every call that was under way.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// In good order.
    Closed,
    Io(Arc<io::Error>),
    Protocol(nbd_proto::Error),
    Link(Arc<LinkError>),
    Stopped,
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
        }
    }
}
