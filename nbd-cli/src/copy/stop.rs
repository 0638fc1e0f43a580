//! What ends a copy early: a lane that fails, or a signal.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

use crate::failure::{Context, Failure, Result};

/// The wish to stop. Whoever waits for something waits for its descriptor too, which has
/// something to read from then on.
#[derive(Debug)]
pub(super) struct Stop {
    wished: Arc<AtomicBool>,
    /// The one that arrived; 0 for none.
    signal: Arc<AtomicUsize>,
    wish: UnixStream,
    waken: UnixStream,
}

impl Stop {
    pub(super) fn new() -> Result<Self> {
        let (waken, wish) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let (wished, signal) = (Arc::default(), Arc::default());
        Ok(Self { wished, signal, wish, waken })
    }

    /// Takes the first SIGINT, SIGTERM or SIGHUP for such a wish; the second one ends the
    /// program at once.
    pub(super) fn on_signals(&self) -> Result<()> {
        let register = |signal| -> io::Result<()> {
            // The actions run in this order, so the first signal finds the flag down.
            flag::register_conditional_default(signal, Arc::clone(&self.wished))?;
            flag::register(signal, Arc::clone(&self.wished))?;
            flag::register_usize(signal, Arc::clone(&self.signal), signal as usize)?;
            pipe::register(signal, self.wish.try_clone()?)?;
            Ok(())
        };
        [SIGINT, SIGTERM, SIGHUP].into_iter().try_for_each(register).context("signals")
    }

    /// Ends the copy.
    pub(super) fn stop(&self) {
        self.wished.store(true, Ordering::Relaxed);
        // It is there for good: one byte that nobody reads is enough.
        let _ = (&self.wish).write(&[0]);
    }

    pub(super) fn is_wished(&self) -> bool {
        self.wished.load(Ordering::Relaxed)
    }

    /// What is told of a copy that a signal has ended.
    pub(super) fn interruption(&self) -> Option<Failure> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| Failure::interrupted(signal as u8))
    }

    /// Waits so long, or until it is wished to stop.
    pub(super) fn sleep(&self, time: Duration) {
        let Ok(limit) = Timespec::try_from(time) else { return };
        if !time.is_zero() {
            // Whatever else ends it, it was only a pause.
            let _ = poll(&mut [PollFd::new(&self.waken, PollFlags::IN)], Some(&limit));
        }
    }

    /// Reads as soon as there is something; nothing when it is wished to stop.
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
