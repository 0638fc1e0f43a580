//! Commands from other threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use mio::Waker;
use nbd_proto::Command;
use nbd_session::Rejected;

use crate::completion::{Completion, OnDone};

/// A command is in line, and the loop was woken for it.
const COMMAND: u8 = 1;
/// Somebody waits no more, which wakes nobody.
pub(crate) const WITHDRAWAL: u8 = 2;

/// Submits commands to one connection from any thread.
///
/// They wait in line, first come first served, until the connection is ready and has
/// room. The loop's thread sends them, and calls back when they are done.
#[derive(Debug)]
pub struct Submitter<B> {
    pub(crate) line: Sender<Submission<B>>,
    /// What has come since the loop looked last.
    pub(crate) rung: Arc<AtomicU8>,
    /// None for the loop's own thread, which looks by itself.
    pub(crate) waker: Option<Arc<Waker>>,
}

impl<B> Submitter<B> {
    /// Submits a command; a read or write takes a buffer as long as it says. Its limit of
    /// time, if there is one, begins now. `on_done` runs in the loop's thread and must not
    /// block. When the connection is dropped first, `on_done` is dropped uncalled.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`] when the connection has been dropped, and `on_done`
    /// is dropped uncalled. When the loop cannot be woken; the command is in the queue all
    /// the same.
    pub fn submit(
        &self,
        command: Command,
        buffer: Option<B>,
        on_done: impl FnOnce(Result<Completion<B>, Rejected<B>>) + Send + 'static,
    ) -> io::Result<()> {
        let (since, on_done) = (Instant::now(), Box::new(on_done));
        let sent = self.line.send(Submission { since, command, buffer, on_done });
        sent.map_err(|_| io::ErrorKind::NotConnected)?;
        // Whoever came first in line has woken the loop, and it stops only at the end.
        match (self.rung.fetch_or(COMMAND, Ordering::AcqRel) & COMMAND, &self.waker) {
            (0, Some(waker)) => waker.wake(),
            _ => Ok(()),
        }
    }
}

impl<B> Clone for Submitter<B> {
    fn clone(&self) -> Self {
        let Self { line, rung, waker } = self;
        Self { line: line.clone(), rung: Arc::clone(rung), waker: waker.clone() }
    }
}

pub(crate) struct Submission<B> {
    pub(crate) since: Instant,
    pub(crate) command: Command,
    pub(crate) buffer: Option<B>,
    pub(crate) on_done: OnDone<B>,
}
