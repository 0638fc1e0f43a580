//! How a command fails: one line that says who erred and what to do.

use std::any::Any;
use std::error::Error as _;
use std::fmt::{self, Write as _};
use std::io;

use nbd_client_blocking::Error;
use nbd_client_blocking::proto::{Error as ProtocolError, PeerMisbehaved, RefusalCode};

/// The exit status of a failure.
const FAILED: u8 = 1;
/// That of a program which SIGPIPE has ended, as a shell tells it.
const NO_READER: u8 = 141;

/// A failure, told in one line.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: without_numbers(&message.into()), status: FAILED }
    }

    /// Whoever read standard output has had enough: nothing to tell, and to nobody.
    pub(crate) const fn no_reader() -> Self {
        Self::silent(NO_READER)
    }

    /// Nothing to tell but by the exit status.
    pub(crate) const fn silent(status: u8) -> Self {
        Self { message: String::new(), status }
    }

    /// A signal has ended the work.
    pub(crate) fn interrupted(signal: u8) -> Self {
        Self { message: "interrupted".to_owned(), status: 128_u8.saturating_add(signal) }
    }

    /// What follows from it, added at the end.
    #[must_use]
    pub(crate) fn and(mut self, what: impl fmt::Display) -> Self {
        if !self.is_silent() {
            self.message = format!("{}; {what}", self.message);
        }
        self
    }

    /// Whether there is nothing to tell.
    pub(crate) const fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    /// The exit status it ends the program with.
    pub(crate) const fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever is quoted in it, it stays one line.
        for part in self.message.split(['\n', '\r']).filter(|part| !part.is_empty()).enumerate() {
            match part {
                (0, text) => write_visible(f, text)?,
                (_, text) => {
                    f.write_str("; ")?;
                    write_visible(f, text.trim_start())?;
                }
            }
        }
        Ok(())
    }
}

/// Writes what may quote a server. What a terminal would obey is shown, not sent.
fn write_visible(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c.is_control() {
            true => write!(f, "{}", c.escape_default())?,
            false => f.write_char(c)?,
        }
    }
    Ok(())
}

/// Says what was being done when it failed.
pub(crate) trait Context<T> {
    /// Puts `what` in front of the error.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let failure = Failure::new(format!("{what}: {}", in_words(&error)));
            match is_unknown_export(&error) {
                true => failure.and("`nbd list` shows those it has"),
                false => failure,
            }
        })
    }
}

/// An error as a person is told it.
pub(crate) fn in_words<E: fmt::Display + 'static>(error: &E) -> String {
    if is_closed(error) {
        return "the server closed the connection".to_owned();
    }
    without_numbers(&error.to_string())
}

/// Whether the other end is gone, which may show in several ways and is no broken rule.
fn is_closed(error: &dyn Any) -> bool {
    use PeerMisbehaved::{Closed, ClosedMidMessage};
    let Some(error) = error.downcast_ref::<Error>() else { return false };
    let Some(source) = error.source() else { return false };
    match (source.downcast_ref(), source.downcast_ref::<io::Error>()) {
        (Some(ProtocolError::Misbehaved(Closed | ClosedMidMessage)), _) => true,
        (_, Some(error)) => {
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        }
        _ => false,
    }
}

/// Whether the server has no export of the name that it was asked for.
fn is_unknown_export(error: &dyn Any) -> bool {
    let refusal = error.downcast_ref::<Error>().and_then(Error::refusal);
    refusal.is_some_and(|refusal| refusal.code == RefusalCode::UnknownExport)
}

/// Without the numbers that the standard library puts behind the system's own words.
pub(crate) fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                plain.push_str(rest);
            }
            _ => {
                plain.push_str(" (os error ");
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_come_without_its_numbers() {
        let error = io::Error::from_raw_os_error(2);
        let told = Err::<(), _>(error).context("x").unwrap_err().to_string();
        assert_eq!(told, "x: No such file or directory");
        for text in ["(os error 2", " (os error x)", "plain", ""] {
            assert_eq!(without_numbers(text), text);
        }
        assert_eq!(without_numbers("a (os error 2): b (os error 13)"), "a: b");
        assert_eq!(Failure::new("a (os error 2)").to_string(), "a");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        let told = Failure::new("it has x:\x1b]0;title\x07, y:\u{9b}2J\n z\t\u{e9}").to_string();
        assert_eq!(told, "it has x:\\u{1b}]0;title\\u{7}, y:\\u{9b}2J; z\\t\u{e9}");
    }

    #[test]
    fn a_server_that_is_gone_has_broken_no_rule() {
        let gone: [Error; 4] = [
            ProtocolError::from(PeerMisbehaved::Closed).into(),
            ProtocolError::from(PeerMisbehaved::ClosedMidMessage).into(),
            io::Error::from_raw_os_error(104).into(),
            io::Error::from_raw_os_error(32).into(),
        ];
        for error in gone {
            let told = Err::<(), _>(error).context("x").unwrap_err().to_string();
            assert_eq!(told, "x: the server closed the connection");
        }
        let error = Error::from(ProtocolError::from(PeerMisbehaved::WrongOption));
        let told = Err::<(), _>(error).context("x").unwrap_err().to_string();
        assert!(told.contains("protocol violation"), "{told}");
    }
}
