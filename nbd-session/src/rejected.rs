//! What was not carried out, and the buffer it came with.

use std::{fmt, io};

use crate::error::Error;

/// A command that was not sent, or a write that failed. Converts into the [`Error`] alone.
#[derive(thiserror::Error)]
#[error("{error}")]
#[expect(clippy::exhaustive_structs, reason = "an error and what comes back with it")]
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

impl<B> From<Rejected<B>> for io::Error {
    fn from(rejected: Rejected<B>) -> Self {
        rejected.error.into()
    }
}
