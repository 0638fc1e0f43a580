//! What can go wrong for a client's user, and who erred; the same for every adapter.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::io::is_gone;
use nbd_proto::{
    ApiMisuse, Client, Command, CommandError, CommandFailure, CommandType, Errno, Remark,
    SubmitError,
};

use nbd_transport::tls::TlsConfigError;
use nbd_transport::{ConnectError, UriError};

use crate::link::LinkError;
use crate::replay::RecoveryError;

/// Why connecting or a command failed.
///
/// Every adapter tells it in these words. What ended a connection is shared by all the
/// commands that were under way, hence the [`Arc`]s.
///
/// ```
/// fn show(error: nbd_session::OldError) {
///     eprintln!("{error} (error number {})", error.errno());
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OldError {
    /// The caller: the URI cannot be understood, or policy forbids it.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The caller: the credentials for TLS cannot be used.
    #[error(transparent)]
    TlsConfig(#[from] TlsConfigError),
    /// Nobody could be connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The transport failed, or what waits for it.
    #[error("connection failed: {0}")]
    Io(#[source] Arc<io::Error>),
    /// The peer broke the protocol, refused, or closed the connection.
    #[error(transparent)]
    Protocol(#[from] nbd_proto::Error),
    /// TLS failed, or another fault between socket and protocol.
    #[error(transparent)]
    Link(Arc<LinkError>),
    /// The task or thread that served the connection, or was to make it, is gone: most
    /// likely together with its runtime, or by a panic in what the caller gave it to do.
    #[error("what served the connection was dropped, or panicked")]
    Stopped,
    /// The caller: the command was not sent.
    #[error("{command} not sent: {error}")]
    Submit {
        /// What was asked for.
        command: Command,
        /// Why it was not sent.
        error: SubmitError,
    },
    /// The caller: a read or write came with a buffer of another length, or another
    /// command with one.
    #[error("{command} not sent: it came with a buffer of {buffer} bytes")]
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
    /// Nothing came from the server for too long.
    #[error("no answer from the server for {:?} while {state}", timeout)]
    TimedOut {
        /// What the connection was waiting for.
        state: &'static str,
        /// How long.
        timeout: Duration,
    },
    /// The connection was lost, and no other took its place: time was up, or what
    /// happened would happen again. Every command that was waiting got the same error.
    #[error("connection lost, and not made again in {after:?}: {cause}")]
    NotReconnected {
        /// How long it was tried.
        after: Duration,
        /// What became of the last attempt.
        cause: Arc<Self>,
    },
    /// The connection was lost and made again, but not everything could be saved.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The caller: a name is too long or contains NUL, or the call does not fit the
    /// state.
    #[error("{0}")]
    Misuse(#[from] ApiMisuse),
}

impl OldError {
    /// Whether a command has come with the right buffer, by its length in bytes; 0 without
    /// one.
    ///
    /// # Errors
    /// [`OldError::BufferLength`] when it has not.
    #[inline]
    pub fn check_buffer(command: &Command, buffer: usize) -> Result<(), Self> {
        let payload = match command.kind {
            CommandType::Read | CommandType::Write => command.length,
            CommandType::Flush
            | CommandType::Trim
            | CommandType::Cache
            | CommandType::WriteZeroes
            | CommandType::BlockStatus => 0,
        };
        if buffer as u64 == payload {
            return Ok(());
        }
        Err(Self::BufferLength { command: *command, buffer })
    }

    /// Why a command that was submitted did not succeed. What ended the connection, known
    /// to the adapter (`lost`) or to the machine, says more than that it is gone.
    #[must_use]
    pub fn failed(
        core: &Client,
        lost: Option<&Self>,
        command: Command,
        error: CommandError,
        remark: Option<Remark>,
    ) -> Self {
        match Self::end(core, lost) {
            Some(cause) if error == CommandError::ConnectionLost => cause,
            _ => CommandFailure::new(command, error, remark).into(),
        }
    }

    /// Why a command was not submitted. What ended the connection, known to the adapter
    /// (`lost`) or to the machine, says more than that there is none.
    #[must_use]
    pub fn not_sent(
        core: &Client,
        lost: Option<&Self>,
        command: Command,
        error: SubmitError,
    ) -> Self {
        Self::end(core, lost).unwrap_or(Self::Submit { command, error })
    }

    /// What the adapter knows comes first: to the machine, the end of the connection is
    /// always the peer's doing.
    fn end(core: &Client, lost: Option<&Self>) -> Option<Self> {
        if !core.is_closed() {
            return None;
        }
        lost.and_then(Self::again).or_else(|| core.error().cloned().map(Self::from))
    }

    /// The same once more: what ends a connection is told to everybody who waits for it.
    /// `None` for what concerns one call, or the making of a connection.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        Some(match self {
            Self::Io(error) => Self::Io(Arc::clone(error)),
            Self::Protocol(error) => Self::Protocol(error.clone()),
            Self::Link(error) => Self::Link(Arc::clone(error)),
            Self::Stopped => Self::Stopped,
            Self::TimedOut { state, timeout } => Self::TimedOut { state, timeout: *timeout },
            Self::NotReconnected { after, cause } => {
                Self::NotReconnected { after: *after, cause: Arc::clone(cause) }
            }
            Self::Recovery(error) => Self::Recovery(error.clone()),
            Self::Uri(_)
            | Self::TlsConfig(_)
            | Self::Connect(_)
            | Self::Submit { .. }
            | Self::BufferLength { .. }
            | Self::Command(_)
            | Self::Misuse(_) => return None,
        })
    }

    /// The error number, as Linux numbers it, that a user of libnbd would see.
    ///
    /// A peer that is gone is `ENOTCONN`, to commands that were under way and to those that
    /// come later (libnbd: `EINVAL`), whether it showed as the end of the stream, a reset or
    /// a broken pipe: that is a matter of chance. [`OldError::Io`] has the system's own number.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::Uri(error) => return error.errno(),
            Self::Connect(error) => return error.errno(),
            Self::Io(error) => match error.raw_os_error() {
                Some(number) if !is_gone(error.kind()) => return number,
                Some(_) | None => Errno::NotConn,
            },
            Self::Protocol(error) => error.errno(),
            Self::Link(_) | Self::Stopped => Errno::NotConn,
            Self::Submit { error, .. } => error.errno(),
            Self::Command(failure) => failure.error.errno(),
            Self::TimedOut { .. } => Errno::TimedOut,
            Self::NotReconnected { cause, .. } => return cause.errno(),
            Self::Recovery(error) => error.errno(),
            Self::Misuse(misuse) => misuse.errno(),
            Self::TlsConfig(_) | Self::BufferLength { .. } => Errno::Inval,
        };
        errno.to_linux()
    }
}

impl From<io::Error> for OldError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<LinkError> for OldError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => error.into(),
            LinkError::Protocol(error) => error.into(),
            other => Self::Link(Arc::new(other)),
        }
    }
}

impl From<OldError> for io::Error {
    fn from(error: OldError) -> Self {
        let kind = match &error {
            OldError::Io(inner) => inner.kind(),
            OldError::Uri(_)
            | OldError::TlsConfig(_)
            | OldError::Misuse(_)
            | OldError::BufferLength { .. } => io::ErrorKind::InvalidInput,
            OldError::Connect(_)
            | OldError::Link(_)
            | OldError::Stopped
            | OldError::NotReconnected { .. } => io::ErrorKind::NotConnected,
            OldError::Protocol(inner) => inner.errno().into(),
            OldError::Recovery(inner) => inner.errno().into(),
            OldError::Submit { error: inner, .. } => inner.errno().into(),
            OldError::Command(failure) => failure.error.errno().into(),
            OldError::TimedOut { .. } => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_proto::PeerMisbehaved;

    /// However it shows, it is one thing; what else the system says, it says itself.
    #[test]
    fn a_peer_that_is_gone_has_one_number() {
        use nbd_proto::Error as Protocol;
        const ENOTCONN: i32 = 107;
        let command = Command::flush();
        let lost = CommandFailure::new(command, CommandError::ConnectionLost, None);
        for error in [
            OldError::from(io::Error::from_raw_os_error(32)),
            io::Error::from_raw_os_error(104).into(),
            io::Error::from_raw_os_error(103).into(),
            io::Error::from(io::ErrorKind::BrokenPipe).into(),
            Protocol::from(PeerMisbehaved::Closed).into(),
            Protocol::from(PeerMisbehaved::ClosedMidMessage).into(),
            OldError::Submit { command, error: SubmitError::NotConnected },
            lost.into(),
        ] {
            assert_eq!(error.errno(), ENOTCONN, "{error}");
        }
        for number in [110, 113, 12] {
            assert_eq!(OldError::from(io::Error::from_raw_os_error(number)).errno(), number);
        }
    }
}
