//! What ends a copy early: a worker that fails, or a signal.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::{Context, Failure, Result};

/// The request to stop. Whoever waits for something waits for its descriptor too, which has
/// something to read from then on.
#[derive(Debug)]
pub(super) struct Stop {
    requested: AtomicBool,
    /// The signal that requested it; 0 for none.
    signal: AtomicU8,
    wake: UnixStream,
    waken: UnixStream,
}

impl Stop {
    pub(super) fn new() -> Result<Self> {
        let (waken, wake) = UnixStream::pair().context("cannot make a pair of sockets")?;
        Ok(Self { requested: AtomicBool::new(false), signal: AtomicU8::new(0), wake, waken })
    }

    /// Ends the copy.
    pub(super) fn stop(&self) {
        self.requested.store(true, Ordering::Relaxed);
        // It is there for good: one byte that nobody reads is enough.
        let _ = (&self.wake).write(&[0]);
    }

    /// Ends the copy because of a signal.
    pub(super) fn interrupt(&self, signal: u8) {
        self.signal.store(signal, Ordering::Relaxed);
        self.stop();
    }

    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// What is told of a copy that a signal has ended.
    pub(super) fn interruption(&self) -> Option<Failure> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| Failure::interrupted(signal))
    }

    /// Waits so long, or until it is requested to stop.
    pub(super) fn sleep(&self, time: Duration) {
        let Ok(limit) = Timespec::try_from(time) else { return };
        if !time.is_zero() {
            // Whatever else ends it, it was only a pause.
            let _ = poll(&mut [PollFd::new(&self.waken, PollFlags::IN)], Some(&limit));
        }
    }

    /// Reads as soon as there is something; nothing when it is requested to stop.
    pub(super) fn read(
        &self,
        stream: &mut (impl Read + AsFd),
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let readable = {
            let mut fds =
                [PollFd::new(stream, PollFlags::IN), PollFd::new(&self.waken, PollFlags::IN)];
            poll(&mut fds, None)?;
            let [_, stop] = &fds;
            stop.revents().is_empty()
        };
        if readable { stream.read(buffer) } else { Ok(0) }
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waken.as_fd()
    }
}
