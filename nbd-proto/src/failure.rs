//! A command that failed, told in words.

use alloc::string::String;
use core::fmt;

use crate::error::CommandError;
use crate::payload::{ErrorReport, escape};
use crate::types::Command;

/// What a server said about an error, made safe to keep and to show.
///
/// A sink gets it with [`PayloadSink::error`](crate::PayloadSink::error), before the
/// command completes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerMessage {
    /// The server's own words, [escaped](escape()); often empty.
    pub message: String,
    /// Where in the export the error is, in bytes, if the server told.
    pub offset: Option<u64>,
}

impl From<ErrorReport<'_>> for ServerMessage {
    fn from(report: ErrorReport<'_>) -> Self {
        Self { message: escape(report.message), offset: report.offset }
    }
}

/// A command that failed, and what the server said about it.
///
/// ```
/// use nbd_proto::{Command, CommandError, CommandFailure, Errno, ErrorReport, ServerMessage};
///
/// let report = ErrorReport { errno: Errno::Io, offset: Some(4096), message: b"bad sector" };
/// let said = ServerMessage::from(report);
/// let error = CommandError::Server(Errno::Io);
/// let failure = CommandFailure::new(Command::read(0, 8192), error, Some(said));
/// assert!(failure.to_string().ends_with("server said \"bad sector\" (at offset 4096)"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandFailure {
    /// What was asked for.
    pub command: Command,
    /// Why it failed.
    pub error: CommandError,
    /// The server's own words, made safe to show; often empty.
    pub message: String,
    /// Where in the export the error is, in bytes, if the server told.
    #[doc(alias = "LIBNBD_READ_ERROR")]
    pub offset: Option<u64>,
}

impl CommandFailure {
    /// A failure, with what the server said about it, if it did.
    #[must_use]
    pub fn new(command: Command, error: CommandError, said: Option<ServerMessage>) -> Self {
        let ServerMessage { message, offset } = said.unwrap_or_default();
        Self { command, error, message, offset }
    }
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.command, self.error)?;
        if !self.message.is_empty() {
            write!(f, ": server said \"{}\"", self.message)?;
        }
        if let Some(offset) = self.offset {
            write!(f, " (at offset {offset})")?;
        }
        Ok(())
    }
}

impl core::error::Error for CommandFailure {}
