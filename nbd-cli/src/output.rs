//! Standard output, which may be full or closed: that is a failure, not a panic.

use std::io::Write;

use crate::failure::{Context, Result};

/// Prints text as it is, all of it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("standard output")
}
