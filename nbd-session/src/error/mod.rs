//! What can go wrong for a client's user, and who erred; the same for every client.

mod answers;
mod convert;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::{ApiMisuse, Command, CommandFailure, CommandType, PeerMisbehaved, SubmitError};
use nbd_transport::tls::{TlsConfigError, TlsError};
use nbd_transport::{ConnectError, UriError};

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

/// A few words for people, as [`std::io::ErrorKind`] has them.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usage => "wrong use",
            Self::Connect => "nobody could be connected to",
            Self::Closed => "not connected",
            Self::Tls => "TLS failed",
            Self::Protocol => "protocol error",
            Self::Refused => "refused by the server",
            Self::NotSent => "command not sent",
            Self::Command => "failed by the server",
            Self::TimedOut => "timed out",
            Self::Recovery => "not recovered",
            Self::Stopped => "connection task gone",
        })
    }
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
    #[error("the server {} within {}: {}", .overdue.what(), limit(.after), .overdue.hint())]
    NotNegotiated { overdue: Overdue, after: Duration },
    #[error("connection lost, and not made again in {}: {cause}", limit(.after))]
    NotReconnected { after: Duration, cause: Error },
    #[error(transparent)]
    Recovery(RecoveryError),
    #[error("{0}")]
    Misuse(#[source] ApiMisuse),
}

/// What a server has not done in time, before it takes commands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Overdue {
    /// It has said nothing at all.
    Greeting,
    /// What was asked for by itself.
    Negotiation,
    /// An option that the caller asked for.
    Option,
}

impl Overdue {
    const fn what(self) -> &'static str {
        match self {
            Self::Greeting => "did not say anything",
            Self::Negotiation => "did not finish negotiating",
            Self::Option => "did not answer an option",
        }
    }

    /// What may be wrong, and so what to do.
    const fn hint(self) -> &'static str {
        match self {
            Self::Greeting => "it hangs or serves somebody else, or is no NBD server",
            Self::Negotiation | Self::Option => "it hangs, or needs more time",
        }
    }
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

/// What cannot be has come to pass, and nothing is lost by going on: a build with debug
/// assertions stops here.
#[cold]
pub(crate) fn broken(what: &'static str) {
    debug_assert!(false, "{what}");
}

impl Error {
    /// The same, where somebody can be told.
    #[cold]
    pub(crate) fn internal(what: &'static str) -> Self {
        broken(what);
        nbd_proto::Error::Internal(what).into()
    }

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
    pub(crate) fn not_negotiated(overdue: Overdue, after: Duration) -> Self {
        Self::new(Fault::NotNegotiated { overdue, after })
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
            (None, _) => Self::internal("nothing was tried"),
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

    fn fault(&self) -> Option<&Fault> {
        match &self.0 {
            Repr::Full => None,
            Repr::Fault(fault) => Some(fault),
        }
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
            | Fault::NotNegotiated { .. }
            | Fault::Silent { .. } => return None,
        })
    }
}
