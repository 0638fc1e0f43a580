//! How a thread waits for a socket, for others, and for the time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::{Duration, Instant};

use nbd_proto::Direction;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, read, write};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Shutdown, shutdown};

use crate::clients::Place;

/// How long a thread waits in a read, before it waits for more.
const RECENT: Duration = Duration::from_secs(1);

/// Wakes the one thread that waits with it.
#[derive(Debug)]
pub(super) struct ThreadWaker {
    event: OwnedFd,
}

impl ThreadWaker {
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
impl AsFd for ThreadWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Fails when it would overflow, and is set then.
        let _ = write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// A thread that waits in a read, which only its client ends, or the end of the server.
#[derive(Debug)]
pub(super) struct Reader {
    socket: Arc<OwnedFd>,
    thread_waker: Arc<ThreadWaker>,
    /// Reads of the socket do wait.
    waits: bool,
    reading: AtomicBool,
}

impl Reader {
    /// For a socket, whose reads wait no longer than [`RECENT`] from now on.
    ///
    /// # Errors
    /// When it is no socket.
    pub(super) fn new(socket: Arc<OwnedFd>, thread_waker: Arc<ThreadWaker>) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(RECENT))?;
        let waits = !fcntl_getfl(&socket)?.contains(OFlags::NONBLOCK);
        Ok(Self { socket, thread_waker, waits, reading: AtomicBool::new(false) })
    }

    /// Whether the thread may begin to wait in a read.
    pub(super) fn begins(&self, place: &Place) -> bool {
        if self.waits {
            self.reading.store(true, Ordering::SeqCst);
        }
        // In this order, so that a stop is seen here, or ends the read.
        if place.stop_by().is_some() {
            self.ends();
        }
        self.reading.load(Ordering::SeqCst)
    }

    /// It has read, or has not.
    pub(super) fn ends(&self) {
        self.reading.store(false, Ordering::SeqCst);
    }
}

impl Wake for Reader {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// The server stops. Of what a client has begun to ask for it takes in no more.
    fn wake_by_ref(self: &Arc<Self>) {
        if self.reading.load(Ordering::SeqCst) {
            let _ = shutdown(&self.socket, Shutdown::Read);
        }
        self.thread_waker.wake_by_ref();
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
