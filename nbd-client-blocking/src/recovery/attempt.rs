//! An attempt to connect again, which goes on while nobody waits for it.
//!
//! ```text
//!   a call that waits ── begin ──► thread: connect, negotiate
//!   poll(2) ◄─────── end of a pipe ──┘ through       ▲
//!   a later call ◄── finish ── the new connection,   │
//!                              or why there is none  │
//!   nobody ────────── drop ─────── end of a pipe ────┘
//! ```

use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nbd_session::OldError as Error;

use super::Dial;
use crate::builder::Until;
use crate::client::Client;
use crate::trace;

/// One attempt, in a thread of its own: it outlives the call in which it was begun, however
/// short that is. Dropping it waits for nothing, and the thread sees it and ends; one that
/// is in a caller's way to connect when that ends.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The thread has the other end, and closes it when it is through.
    through: PipeReader,
    thread: JoinHandle<Result<Client, Error>>,
    /// The thread polls the other end of another pipe, and so notices when this goes.
    _wanted: PipeWriter,
}

impl Attempt {
    /// Begins to connect; until the last moment of patience at most.
    pub(super) fn begin(dial: &Arc<Dial>, last: Option<Instant>) -> Result<Self, Error> {
        let deadline = dial.limit(last);
        let ((through, end), (wanted, _wanted)) = (pipe()?, pipe()?);
        let dial = Arc::clone(dial);
        let connect = trace::carried(move || {
            let _end = end;
            dial.connect(Until { deadline, stop: Some(wanted.as_fd()) })
        });
        let thread = thread::Builder::new().name("nbd-reconnect".to_owned()).spawn(connect)?;
        Ok(Self { through, thread, _wanted })
    }

    /// What came of it; waits for that. A panic in a caller's way to connect was told of there.
    pub(super) fn finish(self) -> Result<Client, Error> {
        self.thread.join().unwrap_or_else(|_| Err(Error::Stopped))
    }
}

impl AsFd for Attempt {
    /// To be polled for reading: it is at its end once the attempt is through.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.through.as_fd()
    }
}
