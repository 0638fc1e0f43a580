//! What is asked of a connection and what came of it, as plain data that can be compared.

use std::error::Error as _;
use std::fmt;

use nbd_proto::{
    Command, CommandError, CommandFlags, ContextId, Errno, Error as ProtocolError, Extent,
    SubmitError,
};
use nbd_session::{Error, ErrorKind, Rejected};

/// What came of a call.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Who erred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The caller: nothing was sent.
    Caller,
    /// Nobody: the server said no.
    Server,
    /// Nobody: the two sides have no common ground.
    Nobody,
    /// The server broke the protocol.
    Peer,
    /// The connection was never made, or is gone.
    Connection,
    /// The time was over.
    Time,
}

/// A call that failed: who erred, the error number as Linux has it, and the words.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) who: Who,
    pub(crate) errno: i32,
    pub(crate) text: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { who: who_erred(&error), errno: error.errno(), text: error.to_string() }
    }
}

impl<B> From<Rejected<B>> for Failure {
    fn from(rejected: Rejected<B>) -> Self {
        rejected.error.into()
    }
}

impl From<ProtocolError> for Failure {
    fn from(error: ProtocolError) -> Self {
        Error::from(error).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, errno, text } = self;
        write!(f, "{text} (errno {errno}, by {who:?})")
    }
}

impl std::error::Error for Failure {}

fn who_erred(error: &Error) -> Who {
    let misbehaved = |error: &ProtocolError| matches!(error, ProtocolError::Incompatible(_));
    match error.kind() {
        ErrorKind::TimedOut => Who::Time,
        ErrorKind::Connect if error.is_timeout() => Who::Time,
        ErrorKind::Connect | ErrorKind::Closed | ErrorKind::Tls | ErrorKind::Stopped => {
            Who::Connection
        }
        ErrorKind::NotSent => match error.submit_error() {
            Some(SubmitError::Disconnecting) => Who::Connection,
            _ => Who::Caller,
        },
        ErrorKind::Usage => Who::Caller,
        ErrorKind::Refused => Who::Server,
        ErrorKind::Command => match error.command_failure().map(|failure| failure.error) {
            Some(CommandError::Server(_)) => Who::Server,
            Some(CommandError::ConnectionLost) => Who::Connection,
            Some(CommandError::NoDestination) => Who::Caller,
            _ => Who::Peer,
        },
        ErrorKind::Protocol => {
            let protocol = error.source().and_then(|source| source.downcast_ref());
            if protocol.is_some_and(misbehaved) { Who::Nobody } else { Who::Peer }
        }
        _ => Who::Peer,
    }
}

/// Makes sure that a call failed, by whom and with which number.
#[track_caller]
pub(crate) fn fails<T>(outcome: Outcome<T>, who: Who, errno: Errno) -> Failure {
    let failure = failed(outcome);
    assert_eq!((failure.who, failure.errno), (who, errno.to_linux()), "{}", failure.text);
    failure
}

/// Makes sure that a call failed.
#[track_caller]
pub(crate) fn failed<T>(outcome: Outcome<T>) -> Failure {
    match outcome {
        Ok(_) => panic!("it succeeded"),
        Err(failure) => failure,
    }
}

/// A command with the data of a write.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) command: Command,
    pub(crate) data: Option<Vec<u8>>,
}

impl Op {
    pub(crate) fn read(offset: u64, length: usize) -> Self {
        Self { command: Command::read(offset, length as u32), data: None }
    }

    pub(crate) fn write(offset: u64, data: Vec<u8>) -> Self {
        Self { command: Command::write(offset, data.len() as u32), data: Some(data) }
    }

    pub(crate) const fn run(command: Command) -> Self {
        Self { command, data: None }
    }

    pub(crate) const fn with(mut self, flags: CommandFlags) -> Self {
        self.command = self.command.with(flags);
        self
    }
}

/// What a command that succeeded brought.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// What was read.
    pub(crate) data: Vec<u8>,
    /// What a block status said.
    pub(crate) extents: Vec<(ContextId, Extent)>,
    /// How many commands of the same batch had finished before.
    pub(crate) place: usize,
}
