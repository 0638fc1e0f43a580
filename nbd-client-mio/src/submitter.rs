//! Commands from other threads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mio::Waker;
use nbd_proto::Command;
use nbd_session::Rejected;

use crate::commands::Completion;

/// What to do with the outcome of a command of another thread.
pub(crate) type OnDone<B> = Box<dyn FnOnce(Result<Completion<B>, Rejected<B>>) + Send>;

/// Submits commands to one connection from any thread.
///
/// They wait in line, first come first served, until the connection is ready and has
/// room. The loop's thread sends them, and calls back when they are done.
pub struct Submitter<B> {
    queue: Arc<Queue<B>>,
    waker: Arc<Waker>,
}

impl<B> Submitter<B> {
    pub(crate) const fn new(queue: Arc<Queue<B>>, waker: Arc<Waker>) -> Self {
        Self { queue, waker }
    }

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
        let submission = Submission { since, command, buffer, on_done };
        let mut line = self.queue.lock();
        if line.closed {
            drop(line);
            return Err(io::ErrorKind::NotConnected.into());
        }
        line.waiting.push_back(submission);
        // Whoever came first in line has woken the loop, and it stops only at the end.
        let first = line.waiting.len() == 1;
        drop(line);
        if first { self.waker.wake() } else { Ok(()) }
    }
}

impl<B> Clone for Submitter<B> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.queue), Arc::clone(&self.waker))
    }
}

impl<B> fmt::Debug for Submitter<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter").field("queue", &self.queue).finish_non_exhaustive()
    }
}

pub(crate) struct Submission<B> {
    pub(crate) since: Instant,
    pub(crate) command: Command,
    pub(crate) buffer: Option<B>,
    pub(crate) on_done: OnDone<B>,
}

/// Commands on their way to the loop's thread.
pub(crate) struct Queue<B>(Mutex<Line<B>>);

struct Line<B> {
    waiting: VecDeque<Submission<B>>,
    /// Nobody takes them any more.
    closed: bool,
}

impl<B> Queue<B> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Line { waiting: VecDeque::new(), closed: false }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    pub(crate) fn pop(&self) -> Option<Submission<B>> {
        self.lock().waiting.pop_front()
    }

    /// There is no connection any more: those in line are dropped, and so is who comes.
    pub(crate) fn close(&self) {
        let mut line = self.lock();
        line.closed = true;
        let waiting = mem::take(&mut line.waiting);
        // What they bring with them is other people's code.
        drop(line);
        drop(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, Line<B>> {
        // Each change is one call: nobody can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> fmt::Debug for Queue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in line", self.lock().waiting.len())
    }
}
