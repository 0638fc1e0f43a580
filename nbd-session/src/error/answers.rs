//! What can be asked of an error.

use std::io;

use nbd_proto::io::is_gone;
use nbd_proto::{CommandError, CommandFailure, Errno, PeerMisbehaved, Refusal, SubmitError};
use nbd_transport::ConnectError;
use nbd_transport::tls::TlsError;

use super::{Blame, Error, ErrorKind, Fault, Repr};
use crate::replay::RecoveryError;

impl Error {
    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        let Repr::Fault(fault) = &self.0 else { return ErrorKind::NotSent };
        match &**fault {
            Fault::Uri(_) | Fault::TlsConfig(_) | Fault::Misuse(_) => ErrorKind::Usage,
            Fault::Connect(_) | Fault::NoEndpoint(_) => ErrorKind::Connect,
            Fault::Io(error) if error.kind() == io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            Fault::Io(_) | Fault::Closed => ErrorKind::Closed,
            Fault::Protocol(error) => match error {
                nbd_proto::Error::Refused(_) => ErrorKind::Refused,
                nbd_proto::Error::Misuse(_) => ErrorKind::Usage,
                nbd_proto::Error::Misbehaved(
                    PeerMisbehaved::Closed | PeerMisbehaved::ClosedMidMessage,
                ) => ErrorKind::Closed,
                _ => ErrorKind::Protocol,
            },
            Fault::Tls(_) => ErrorKind::Tls,
            Fault::Stopped => ErrorKind::Stopped,
            Fault::NotSent { error: SubmitError::NotConnected, .. } => ErrorKind::Closed,
            Fault::NotSent { .. } | Fault::PayloadLength { .. } => ErrorKind::NotSent,
            Fault::Command(failure) if failure.error == CommandError::ConnectionLost => {
                ErrorKind::Closed
            }
            Fault::Command(_) => ErrorKind::Command,
            Fault::TimedOut { .. }
            | Fault::Late { .. }
            | Fault::NotNegotiated { .. }
            | Fault::Silent { .. } => ErrorKind::TimedOut,
            Fault::NotReconnected { .. } => ErrorKind::Closed,
            Fault::Recovery(_) => ErrorKind::Recovery,
        }
    }

    /// Whether a limit of time was reached: of the call, of connecting, of the server's silence,
    /// or of the system's own.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match &self.0 {
            Repr::Full => false,
            Repr::Fault(fault) => match &**fault {
                Fault::Connect(ConnectError::TimedOut { .. })
                | Fault::TimedOut { .. }
                | Fault::Late { .. }
                | Fault::NotNegotiated { .. }
                | Fault::Silent { .. } => true,
                Fault::NotReconnected { cause, .. } => cause.is_timeout(),
                Fault::NoEndpoint(errors) => errors.iter().any(Self::is_timeout),
                Fault::Io(error) => error.kind() == io::ErrorKind::TimedOut,
                _ => false,
            },
        }
    }

    /// Whether nobody could be connected to.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.kind() == ErrorKind::Connect
    }

    /// Whether the connection is gone: no other call will do better on it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.kind(), ErrorKind::Closed | ErrorKind::Stopped)
    }

    /// Whether the server refused an option, such as the export or TLS. It could be asked for
    /// something else.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.kind() == ErrorKind::Refused
    }

    /// Whether no command more can be in flight: take a completion, then try again.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self.0, Repr::Full)
    }

    /// What the server refused, and its words.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self.fault()? {
            Fault::Protocol(nbd_proto::Error::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    /// The command that failed, why, and the server's words.
    #[must_use]
    pub fn command_failure(&self) -> Option<&CommandFailure> {
        match self.fault()? {
            Fault::Command(failure) => Some(failure),
            _ => None,
        }
    }

    /// Why a command was not sent.
    #[must_use]
    pub fn submit_error(&self) -> Option<SubmitError> {
        match &self.0 {
            Repr::Full => Some(SubmitError::Full),
            Repr::Fault(fault) => match &**fault {
                Fault::NotSent { error, .. } => Some(*error),
                _ => None,
            },
        }
    }

    /// What could not be saved when the connection was made again, or could not be kept.
    #[must_use]
    pub fn recovery(&self) -> Option<&RecoveryError> {
        match self.fault()? {
            Fault::Recovery(error) => Some(error),
            _ => None,
        }
    }

    /// Who has to do something about it.
    #[must_use]
    pub fn blame(&self) -> Blame {
        let Some(fault) = self.fault() else { return Blame::Caller };
        match fault {
            Fault::Uri(_)
            | Fault::TlsConfig(_)
            | Fault::Misuse(_)
            | Fault::PayloadLength { .. }
            | Fault::Protocol(nbd_proto::Error::Misuse(_))
            | Fault::Tls(
                TlsError::NotConfigured | TlsError::ServerName(_) | TlsError::NoServerName,
            )
            | Fault::Stopped => Blame::Caller,
            Fault::NotSent { error: SubmitError::NotConnected, .. } => Blame::Network,
            Fault::NotSent { .. } => Blame::Caller,
            Fault::Connect(
                ConnectError::Spawn { .. }
                | ConnectError::PathTooLong { .. }
                | ConnectError::SshUnsafe { .. }
                | ConnectError::Socket { .. }
                | ConnectError::GivenUp { .. },
            ) => Blame::Caller,
            Fault::Connect(ConnectError::PeerClosed { .. }) => Blame::Server,
            Fault::Connect(_) | Fault::NoEndpoint(_) | Fault::Io(_) | Fault::Closed => {
                Blame::Network
            }
            Fault::Protocol(_)
            | Fault::Tls(_)
            | Fault::NotNegotiated { .. }
            | Fault::Silent { .. } => Blame::Server,
            Fault::TimedOut { .. } | Fault::Late { .. } => Blame::Network,
            Fault::Command(failure) => match failure.error {
                CommandError::ConnectionLost => Blame::Network,
                _ => Blame::Server,
            },
            Fault::NotReconnected { cause, .. } => cause.blame(),
            Fault::Recovery(RecoveryError::NoWayBack) => Blame::Caller,
            Fault::Recovery(_) => Blame::Server,
        }
    }

    /// The error number, as Linux numbers it, that a user of libnbd would see.
    ///
    /// A peer that is gone is `ENOTCONN`, to commands that were under way and to those that
    /// come later (libnbd: `EINVAL`), whether it showed as the end of the stream, a reset or
    /// a broken pipe: that is a matter of chance. Another fault of the transport has the
    /// system's own number.
    #[must_use]
    pub fn errno(&self) -> i32 {
        let Some(fault) = self.fault() else { return SubmitError::Full.errno().to_linux() };
        let errno = match fault {
            Fault::Uri(error) => return error.errno(),
            Fault::Connect(error) => return error.errno(),
            Fault::NoEndpoint(errors) => return errors.first().map_or(0, Self::errno),
            Fault::Io(error) => match error.raw_os_error() {
                Some(number) if !is_gone(error.kind()) => return number,
                None if error.kind() == io::ErrorKind::TimedOut => Errno::TimedOut,
                Some(_) | None => Errno::NotConn,
            },
            Fault::Protocol(error) => error.errno(),
            Fault::Tls(_) | Fault::Stopped | Fault::Closed => Errno::NotConn,
            Fault::NotSent { error, .. } => error.errno(),
            Fault::Command(failure) => failure.error.errno(),
            Fault::TimedOut { .. }
            | Fault::Late { .. }
            | Fault::NotNegotiated { .. }
            | Fault::Silent { .. } => Errno::TimedOut,
            Fault::NotReconnected { cause, .. } => return cause.errno(),
            Fault::Recovery(error) => error.errno(),
            Fault::Misuse(misuse) => misuse.errno(),
            Fault::TlsConfig(_) | Fault::PayloadLength { .. } => Errno::Inval,
        };
        errno.to_linux()
    }

    /// Whether another connection may do better.
    ///
    /// | tried again | not tried again |
    /// |---|---|
    /// | the transport failed, or ended without a reason | the peer broke the protocol |
    /// | nobody could be connected to, and that may pass | and it will not pass |
    /// | time was up | certificates, keys, alerts |
    /// | the server is shutting down | any other refusal |
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.fault() {
            None => false,
            Some(fault) => match fault {
                Fault::Io(_)
                | Fault::TimedOut { .. }
                | Fault::NotNegotiated { .. }
                | Fault::Silent { .. } => true,
                Fault::Connect(error) => error.is_transient(),
                Fault::Protocol(error) => error.is_transient(),
                Fault::Tls(error) => error.is_transient(),
                Fault::NoEndpoint(errors) => errors.iter().any(Self::is_transient),
                Fault::Uri(_)
                | Fault::TlsConfig(_)
                | Fault::Closed
                | Fault::Stopped
                | Fault::NotSent { .. }
                | Fault::PayloadLength { .. }
                | Fault::Command(_)
                | Fault::Late { .. }
                | Fault::NotReconnected { .. }
                | Fault::Recovery(_)
                | Fault::Misuse(_) => false,
            },
        }
    }

    /// Whether it is about the caller's own settings: no other server would change that.
    pub(crate) fn is_callers(&self) -> bool {
        matches!(self.fault(), Some(Fault::Uri(_) | Fault::TlsConfig(_) | Fault::Misuse(_)))
    }

    /// Whether what came is not TLS, or not what was sent.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self.fault(), Some(Fault::Tls(TlsError::Misbehaved { .. })))
    }

    /// Whether bytes could not be moved, or could not be trusted: whatever they were, they are
    /// lost with the connection, and no data with them.
    pub(crate) fn is_of_transport(&self) -> bool {
        matches!(self.fault(), Some(Fault::Io(_) | Fault::Tls(_)))
    }
}
