//! Errors, with the number a user of libnbd expects.

use std::fmt;
use std::io;

use nbd_session::Error;
use rustix::io::Errno;

/// Why a call failed: a text and an error number, which is 0 where none fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    errno: i32,
    text: String,
}

impl Fail {
    /// With a number of the system's.
    #[must_use]
    pub fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self { errno: errno.raw_os_error(), text: text.into() }
    }

    /// With a number that is known as such.
    #[must_use]
    pub fn numbered(errno: i32, text: impl Into<String>) -> Self {
        Self { errno, text: text.into() }
    }

    /// An argument that cannot be meant.
    #[must_use]
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Errno::INVAL, text)
    }

    /// The error number as Linux has it, or 0.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        self.errno
    }
}

impl fmt::Display for Fail {
    /// The text, and what the system calls the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.errno == 0 {
            return Ok(());
        }
        let words = io::Error::from_raw_os_error(self.errno).to_string();
        let words = words.split(" (os error").next().unwrap_or_default();
        write!(f, ": {words}")
    }
}

impl std::error::Error for Fail {}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        // libnbd has no room for one more command when there is no memory for it.
        let errno = if error.is_full() { Errno::NOMEM.raw_os_error() } else { error.errno() };
        Self { errno, text: without_numbers(&error.to_string()) }
    }
}

/// Rust's own way to tell a number of the system's, which C's users have never seen.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    out
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::new(errno, "a system call failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_told_in_words() {
        assert_eq!(Fail::invalid("no").to_string(), "no: Invalid argument");
        assert_eq!(Fail::numbered(0, "only text").to_string(), "only text");
        assert_eq!(without_numbers("a (os error 2); b (os error 3) c"), "a; b c");
    }
}
