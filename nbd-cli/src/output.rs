//! Standard output, which may be full or closed: that is a failure, not a panic. And the
//! last words on standard error.

use std::io::Write;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::{Context, Result};

/// Prints text as it is, all of it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("standard output")
}

/// How long somebody may take to make room for the last words.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Says on standard error why the command fails. With nowhere to say it, or when nobody
/// reads, the exit status still tells.
pub(crate) fn complain(text: &str) {
    let mut stderr = std::io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    // A pipe that is writable has room for a line.
    if !matches!(poll(&mut fds, Some(&PATIENCE)), Ok(0)) {
        let _ = stderr.write_all(text.as_bytes());
    }
}
