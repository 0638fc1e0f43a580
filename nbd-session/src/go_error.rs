//! An export that could not be chosen, and the connection that is left.

use crate::error::Error;

/// The export was not chosen; `O` is the client's connection in option mode. Converts into the
/// [`Error`] alone.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[expect(clippy::exhaustive_structs, reason = "an error and what comes back with it")]
pub struct GoError<O> {
    /// Why.
    #[source]
    pub error: Error,
    /// The connection, when the server merely refused: ask for something else.
    pub options: Option<Box<O>>,
}

impl<O> From<GoError<O>> for Error {
    fn from(failed: GoError<O>) -> Self {
        failed.error
    }
}
