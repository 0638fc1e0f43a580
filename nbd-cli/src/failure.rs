//! How a command fails: one line that says who erred and what to do.

use std::fmt;

/// A failure, told in one line.
#[derive(Debug)]
pub(crate) struct Failure(String);

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever is quoted in it, it stays one line.
        for part in self.0.split(['\n', '\r']).filter(|part| !part.is_empty()).enumerate() {
            match part {
                (0, text) => f.write_str(text)?,
                (_, text) => write!(f, "; {}", text.trim_start())?,
            }
        }
        Ok(())
    }
}

/// Says what was being done when it failed.
pub(crate) trait Context<T> {
    /// Puts `what` in front of the error.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}
