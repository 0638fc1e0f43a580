//! How a thread waits for a socket, for others, and for the time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Wake;
use std::time::{Duration, Instant};

use nbd_proto::Direction;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};

/// Wakes the one thread that waits with it.
#[derive(Debug)]
pub(super) struct Alarm {
    event: OwnedFd,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { event })
    }

    /// Waits until the socket can go on in one of the directions, somebody wakes, or the time is
    /// up. Tells where the socket can go on.
    ///
    /// # Errors
    /// Those of `poll`: no memory.
    pub(super) fn wait(
        &self,
        socket: impl AsFd,
        interest: Direction,
        deadline: Option<Instant>,
    ) -> io::Result<Direction> {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, interest.contains(Direction::READ));
        wanted.set(PollFlags::OUT, interest.contains(Direction::WRITE));
        let mut fds = [PollFd::new(&self.event, PollFlags::IN), PollFd::new(&socket, wanted)];
        // A socket that is not waited for would wake all the same when the client leaves.
        let used = if interest.is_empty() { 1 } else { 2 };
        wait_for(&mut fds[..used], deadline)?;
        if !fds[0].revents().is_empty() {
            self.reset();
        }
        // An error or a hang-up shows on the next call, whichever it is.
        let failed = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        let seen = fds[1].revents();
        let mut ready = Direction::empty();
        ready.set(Direction::READ, seen.intersects(PollFlags::IN | failed));
        ready.set(Direction::WRITE, seen.intersects(PollFlags::OUT | failed));
        Ok(ready & interest)
    }

    /// Until somebody wakes again there is nothing to wake for.
    pub(super) fn reset(&self) {
        // Empty already, if anything.
        let _ = read(&self.event, &mut [0; 8]);
    }
}

/// Readable once somebody wakes.
impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Fails when it would overflow, and is set then.
        let _ = write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// Polls until something happens or the time is up.
fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let timeout = deadline.map(|deadline| {
            match deadline.checked_duration_since(Instant::now()) {
                // Rounded up, so as not to wake early and find time left.
                Some(left) => left + Duration::from_micros(1),
                None => Duration::ZERO,
            }
        });
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(fds, timeout.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
