//! When waiting ends: at a point in time, when nobody wants to wait any more, or never.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// When to give up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline<'a> {
    at: Option<Instant>,
    /// Has something to read, or is at its end, once nobody wants what is waited for.
    stop: Option<BorrowedFd<'a>>,
}

impl From<Option<Instant>> for Deadline<'_> {
    fn from(at: Option<Instant>) -> Self {
        Self { at, stop: None }
    }
}

impl<'a> Deadline<'a> {
    /// The deadline `duration` from now.
    pub(crate) fn after(duration: Duration) -> Self {
        Instant::now().checked_add(duration).into()
    }

    /// The same, or sooner: when `stop` has something to read or is at its end.
    pub(crate) const fn unless(self, stop: BorrowedFd<'a>) -> Self {
        Self { at: self.at, stop: Some(stop) }
    }

    /// The earlier of two.
    pub(crate) fn min(self, other: Self) -> Self {
        Self { at: self.at.into_iter().chain(other.at).min(), stop: self.stop.or(other.stop) }
    }

    /// Whether waiting has no end but that of what is waited for.
    pub(crate) const fn is_never(self) -> bool {
        self.at.is_none() && self.stop.is_none()
    }

    /// The time left; `None` when there is no end to it.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining() == Some(Duration::ZERO) || self.is_stopped()
    }

    /// Whether nobody wants to wait any more.
    pub(crate) fn is_stopped(self) -> bool {
        let at_once = Self { at: Some(Instant::now()), stop: None };
        self.stop.is_some_and(|stop| {
            let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
            at_once.poll(&mut fds).is_ok_and(|ready| ready)
        })
    }

    /// Waits until one of `fds` is ready, and says whether one is.
    pub(crate) fn poll<'f>(self, fds: &mut Vec<PollFd<'f>>) -> io::Result<bool>
    where
        'a: 'f,
    {
        let wanted = fds.len();
        fds.extend(self.stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
        loop {
            // A time too long for the system's type is as good as none.
            let timeout = self.remaining().and_then(|left| Timespec::try_from(left).ok());
            match poll(fds, timeout.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        fds.truncate(wanted);
        Ok(fds.iter().any(|fd| !fd.revents().is_empty()))
    }
}
