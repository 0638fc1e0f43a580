//! What can go wrong for a client's user, and who erred; the same for every client.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::io::is_gone;
use nbd_proto::{
    ApiMisuse, Command, CommandError, CommandFailure, CommandType, Errno, PeerMisbehaved, Refusal,
    SubmitError,
};
use nbd_transport::tls::{TlsConfigError, TlsError};
use nbd_transport::{ConnectError, UriError};

use crate::link::LinkError;
use crate::replay::RecoveryError;

/// Why connecting, an option or a command failed.
///
/// It is as large as two words and cheap to clone, since what ends a connection is told to
/// every command that was under way. Questions tell what to do about it;
/// [`kind`](Self::kind) sorts all errors, and [`errno`](Self::errno) has the number that a
/// user of libnbd would see. What lies behind it, such as a
/// [`ConnectError`] or a [`CommandFailure`], is its
/// [`source`](std::error::Error::source).
///
/// ```
/// fn show(error: &nbd_session::Error) {
///     eprintln!("{error} (error number {})", error.errno());
///     if error.is_timeout() {
///         eprintln!("try again later");
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Error(Repr);

#[derive(Clone)]
enum Repr {
    /// Told for flow control, so often that it must cost nothing.
    Full,
    Fault(Arc<Fault>),
}

/// What kind of an [`Error`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller: a URI, a name, credentials or a call that does not fit.
    Usage,
    /// Nobody could be connected to.
    Connect,
    /// The connection is gone, or was not made yet.
    Closed,
    /// TLS failed.
    Tls,
    /// The server broke the protocol, or speaks another one.
    Protocol,
    /// The server refused an option, such as the export.
    Refused,
    /// The caller: the command was not sent.
    NotSent,
    /// The server failed one command; the connection goes on.
    Command,
    /// A limit of time was reached.
    TimedOut,
    /// The connection was made again, but not everything could be saved.
    Recovery,
    /// The task or thread that served the connection is gone.
    Stopped,
}

/// Who has to do something about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blame {
    /// Whoever called: the request was wrong, or was not allowed.
    Caller,
    /// The server, or whoever runs it.
    Server,
    /// The network between the two, or this system.
    Network,
}

/// What an error is made of.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Uri(UriError),
    #[error(transparent)]
    TlsConfig(TlsConfigError),
    #[error(transparent)]
    Connect(ConnectError),
    #[error("{}", join(.0))]
    NoEndpoint(Vec<Error>),
    #[error("connection failed: {0}")]
    Io(#[source] io::Error),
    #[error("{}", protocol(.0))]
    Protocol(#[source] nbd_proto::Error),
    #[error(transparent)]
    Tls(TlsError),
    #[error("the connection is closed")]
    Closed,
    #[error("what served the connection was dropped, or panicked")]
    Stopped,
    #[error("{command} not sent: {error}")]
    NotSent { command: Command, error: SubmitError },
    #[error("{command} not sent: it came with a buffer of {given} bytes")]
    PayloadLength { command: Command, given: usize },
    #[error(transparent)]
    Command(CommandFailure),
    #[error("{doing} took longer than {}", limit(.after))]
    TimedOut { doing: &'static str, after: Duration },
    #[error("{command} took longer than {} ({state})", limit(.after))]
    Late { command: Command, state: &'static str, after: Duration },
    #[error("no answer from the server for {}", limit(.after))]
    Silent { after: Duration },
    #[error("connection lost, and not made again in {}: {cause}", limit(.after))]
    NotReconnected { after: Duration, cause: Error },
    #[error(transparent)]
    Recovery(RecoveryError),
    #[error("{0}")]
    Misuse(#[source] ApiMisuse),
}

fn join(errors: &[Error]) -> String {
    errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

/// To whole milliseconds: nobody has set finer limits.
fn limit(time: &Duration) -> String {
    format!("{:?}", Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// A server that is gone broke no rule.
fn protocol(error: &nbd_proto::Error) -> String {
    match error {
        nbd_proto::Error::Misbehaved(PeerMisbehaved::Closed) => {
            "the server closed the connection".to_owned()
        }
        nbd_proto::Error::Misbehaved(PeerMisbehaved::ClosedMidMessage) => {
            "the server closed the connection in the middle of a message".to_owned()
        }
        other => other.to_string(),
    }
}

impl Error {
    pub(crate) const fn full() -> Self {
        Self(Repr::Full)
    }

    fn new(fault: Fault) -> Self {
        Self(Repr::Fault(Arc::new(fault)))
    }

    /// For adapters: a command was not sent.
    #[cold]
    #[must_use]
    pub fn not_sent(command: Command, error: SubmitError) -> Self {
        match error {
            SubmitError::Full => Self::full(),
            error => Self::new(Fault::NotSent { command, error }),
        }
    }

    #[cold]
    pub(crate) fn closed() -> Self {
        Self::new(Fault::Closed)
    }

    /// For adapters: the task or thread that served the connection is gone, most likely
    /// together with its runtime, or by a panic in what the caller gave it to do.
    #[must_use]
    pub fn stopped() -> Self {
        Self::new(Fault::Stopped)
    }

    #[cold]
    pub(crate) fn timed_out(doing: &'static str, after: Duration) -> Self {
        Self::new(Fault::TimedOut { doing, after })
    }

    #[cold]
    pub(crate) fn late(command: Command, state: &'static str, after: Duration) -> Self {
        Self::new(Fault::Late { command, state, after })
    }

    #[cold]
    pub(crate) fn silent(after: Duration) -> Self {
        Self::new(Fault::Silent { after })
    }

    #[cold]
    pub(crate) fn not_reconnected(after: Duration, cause: Self) -> Self {
        Self::new(Fault::NotReconnected { after, cause })
    }

    /// Several endpoints were tried, and each failed.
    pub(crate) fn no_endpoint(mut errors: Vec<Self>) -> Self {
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Self::closed(),
            (Some(only), true) => only,
            (Some(last), false) => {
                errors.push(last);
                Self::new(Fault::NoEndpoint(errors))
            }
        }
    }

    /// Whether a command has come with the right payload, by its length in bytes; 0 without
    /// one.
    ///
    /// # Errors
    /// When it has not: a read or write takes as many bytes as it says, others none.
    #[inline]
    pub fn check_payload(command: &Command, given: usize) -> Result<(), Self> {
        let due = match command.kind {
            CommandType::Read | CommandType::Write => command.length,
            CommandType::Flush
            | CommandType::Trim
            | CommandType::Cache
            | CommandType::WriteZeroes
            | CommandType::BlockStatus => 0,
        };
        if given as u64 == due {
            return Ok(());
        }
        Err(Self::new(Fault::PayloadLength { command: *command, given }))
    }

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
            Fault::TimedOut { .. } | Fault::Late { .. } | Fault::Silent { .. } => {
                ErrorKind::TimedOut
            }
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

    fn fault(&self) -> Option<&Fault> {
        match &self.0 {
            Repr::Full => None,
            Repr::Fault(fault) => Some(fault),
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
            Fault::Protocol(_) | Fault::Tls(_) | Fault::Silent { .. } => Blame::Server,
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
            Fault::TimedOut { .. } | Fault::Late { .. } | Fault::Silent { .. } => Errno::TimedOut,
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
                Fault::Io(_) | Fault::TimedOut { .. } | Fault::Silent { .. } => true,
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Full => SubmitError::Full.fmt(f),
            Repr::Fault(fault) => fault.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Full => f.write_str("Full"),
            Repr::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(match self.fault()? {
            Fault::Uri(error) => error,
            Fault::TlsConfig(error) => error,
            Fault::Connect(error) => error,
            Fault::Io(error) => error,
            Fault::Protocol(error) => error,
            Fault::Tls(error) => error,
            Fault::Command(failure) => failure,
            Fault::NotReconnected { cause, .. } => cause,
            Fault::Recovery(error) => error,
            Fault::Misuse(misuse) => misuse,
            Fault::NoEndpoint(errors) => errors.first()?,
            Fault::Closed
            | Fault::Stopped
            | Fault::NotSent { .. }
            | Fault::PayloadLength { .. }
            | Fault::TimedOut { .. }
            | Fault::Late { .. }
            | Fault::Silent { .. } => return None,
        })
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<UriError> for Error {
    fn from(error: UriError) -> Self {
        Self::new(Fault::Uri(error))
    }
}

impl From<TlsConfigError> for Error {
    fn from(error: TlsConfigError) -> Self {
        Self::new(Fault::TlsConfig(error))
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::new(Fault::Connect(error))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(Fault::Io(error))
    }
}

impl From<nbd_proto::Error> for Error {
    fn from(error: nbd_proto::Error) -> Self {
        Self::new(Fault::Protocol(error))
    }
}

impl From<TlsError> for Error {
    fn from(error: TlsError) -> Self {
        Self::new(Fault::Tls(error))
    }
}

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => error.into(),
            LinkError::Protocol(error) => error.into(),
            LinkError::Tls(error) => error.into(),
        }
    }
}

impl From<CommandFailure> for Error {
    fn from(failure: CommandFailure) -> Self {
        Self::new(Fault::Command(failure))
    }
}

impl From<RecoveryError> for Error {
    fn from(error: RecoveryError) -> Self {
        Self::new(Fault::Recovery(error))
    }
}

impl From<ApiMisuse> for Error {
    fn from(misuse: ApiMisuse) -> Self {
        Self::new(Fault::Misuse(misuse))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.fault() {
            Some(Fault::Io(inner)) => inner.kind(),
            Some(Fault::Protocol(inner)) => inner.errno().into(),
            Some(Fault::Recovery(inner)) => inner.errno().into(),
            Some(Fault::Command(failure)) => failure.error.errno().into(),
            Some(Fault::NotSent { error, .. }) => error.errno().into(),
            None => SubmitError::Full.errno().into(),
            Some(_) => match error.kind() {
                ErrorKind::Usage | ErrorKind::NotSent => io::ErrorKind::InvalidInput,
                ErrorKind::TimedOut => io::ErrorKind::TimedOut,
                _ => io::ErrorKind::NotConnected,
            },
        };
        Self::new(kind, error)
    }
}
