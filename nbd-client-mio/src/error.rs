//! What can go wrong, and who erred.

use std::fmt;
use std::io;

use nbd_proto::{ApiMisuse, Command, CommandError, CommandType, Errno, SubmitError};
use nbd_transport::tls::TlsConfigError;
use nbd_transport::{ConnectError, LinkError, UriError};

/// Why a connection or a command failed.
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
    /// The transport failed, or the registry did.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer broke the protocol, refused, or closed the connection.
    #[error(transparent)]
    Protocol(#[from] nbd_proto::Error),
    /// TLS failed, or another fault between socket and protocol.
    #[error(transparent)]
    Link(LinkError),
    /// The caller: the command was not sent.
    #[error("{} not sent: {error}", describe(command))]
    Submit {
        /// What was asked for.
        command: Command,
        /// Why it was not sent.
        error: SubmitError,
    },
    /// The caller: a read or write came with a buffer of another length, or another
    /// command with one.
    #[error("{} not sent: it came with a buffer of {buffer} bytes", describe(command))]
    BufferLength {
        /// What was asked for.
        command: Command,
        /// Length of the buffer in bytes; 0 without one.
        buffer: usize,
    },
    /// The server failed one command; the connection goes on unless it says
    /// otherwise.
    #[error(transparent)]
    Command(#[from] CommandFailure),
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
            Self::Link(_) => Errno::NotConn.to_linux(),
            Self::Submit { error, .. } => error.errno().to_linux(),
            Self::Command(failure) => failure.error.errno().to_linux(),
            Self::TlsConfig(_) | Self::Misuse(_) | Self::BufferLength { .. } => {
                Errno::Inval.to_linux()
            }
        }
    }
}

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => Self::Io(error),
            LinkError::Protocol(error) => Self::Protocol(error),
            other => Self::Link(other),
        }
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
        kind @ (CommandType::Flush | CommandType::Disconnect) => kind.name().to_owned(),
        kind => format!("{} of {} bytes at {}", kind.name(), command.length, command.offset),
    }
}

/// A command that was not sent. Converts into the [`Error`] alone.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct Rejected<B> {
    /// Why.
    pub error: Error,
    /// The buffer it came with.
    pub buffer: Option<B>,
}

impl<B> fmt::Debug for Rejected<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("error", &self.error)
            .field("buffer", &self.buffer.is_some())
            .finish()
    }
}

impl<B> From<Rejected<B>> for Error {
    fn from(rejected: Rejected<B>) -> Self {
        rejected.error
    }
}
