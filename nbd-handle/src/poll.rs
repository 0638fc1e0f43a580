//! Waiting, in the caller's thread.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nbd_proto::{Direction, Disconnect};
use nbd_session::Limit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::fail::Fail;
use crate::handle::{Handle, Memory, not_connected};
use crate::request::{Request, Shutdown};

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
pub enum Woken {
    /// Something has happened on the connection.
    Progress,
    /// The other descriptor has something to read.
    Other,
    /// The time is over.
    TimedOut,
}

impl<B: Memory> Handle<B> {
    /// Does a command and waits for it.
    ///
    /// # Errors
    /// When it could not be sent, failed, or the connection ended.
    pub fn perform(&mut self, request: Request<B>) -> Result<(), Fail> {
        let cookie = self.submit(request)?;
        loop {
            if let Some(outcome) = self.commands.retire(cookie) {
                self.cause = None;
                return outcome;
            }
            if self.state.is_over() {
                return Err(not_connected());
            }
            // What ends the connection has ended the command, too.
            let _ = self.turn();
        }
    }

    /// Asks for the end; nothing can be submitted any more.
    ///
    /// # Errors
    /// When it was asked for before.
    pub fn disconnect(&mut self, how: Shutdown) -> Result<(), Fail> {
        let Some(engine) = &mut self.engine else { return Err(not_connected()) };
        if self.ending {
            return Err(Fail::invalid("the connection is being ended already"));
        }
        self.ending = true;
        let now = Instant::now();
        let when = match how {
            Shutdown::AfterRequests => Disconnect::AfterRequests,
            Shutdown::AbandonPending => Disconnect::AbandonUnsent,
        };
        engine.session.disconnect(when, Limit::Never, now);
        self.send(now);
        Ok(())
    }

    /// Ends the connection, and waits until it is over.
    ///
    /// # Errors
    /// When the end was asked for before, or the connection ended in error.
    pub fn shutdown(&mut self, how: Shutdown) -> Result<(), Fail> {
        self.disconnect(how)?;
        while !self.state.is_over() {
            self.turn()?;
        }
        self.take_cause()
    }

    /// The descriptor to wait for, which may change while connecting.
    ///
    /// # Errors
    /// When there is none.
    pub fn fd(&self) -> Result<RawFd, Fail> {
        let fd = self.engine.as_ref().and_then(|engine| engine.fd());
        let none = || Fail::invalid("there is no connection, and no descriptor");
        fd.map(|fd| fd.as_raw_fd()).ok_or_else(none)
    }

    /// The descriptor can be read from.
    ///
    /// # Errors
    /// When nothing was to be read, and when the connection ended in error.
    pub fn notify_read(&mut self) -> Result<(), Fail> {
        self.notify(Direction::READ)
    }

    /// The descriptor can be written to.
    ///
    /// # Errors
    /// When nothing was to be sent, and when the connection ended in error.
    pub fn notify_write(&mut self) -> Result<(), Fail> {
        self.notify(Direction::WRITE)
    }

    fn notify(&mut self, what: Direction) -> Result<(), Fail> {
        self.polled = false;
        let wanted = self.direction();
        if !wanted.intersects(what) {
            let state = self.state.name();
            return Err(Fail::invalid(format!("not waited for in state {state}")));
        }
        let now = Instant::now();
        if what == Direction::WRITE {
            self.send(now);
        } else if let Some(engine) = &mut self.engine {
            engine.read(&mut self.commands, false, now);
            engine.finish_turn(&mut self.commands, now);
            self.settle(now);
        }
        self.take_cause()
    }

    /// One round: sends what is due, waits for something to happen, and takes that in. No time
    /// is for ever.
    ///
    /// # Errors
    /// When there is nothing to wait for, and when the connection ended in error.
    pub fn poll(
        &mut self,
        timeout: Option<Duration>,
        other: Option<BorrowedFd<'_>>,
    ) -> Result<Woken, Fail> {
        self.polled = true;
        let woken = self.wait(timeout, other)?;
        self.take_cause()?;
        Ok(woken)
    }

    /// Waits, without an end, until something has happened.
    pub(crate) fn turn(&mut self) -> Result<(), Fail> {
        self.wait(None, None)?;
        self.take_cause()
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        other: Option<BorrowedFd<'_>>,
    ) -> Result<Woken, Fail> {
        let before = self.state;
        let completed = self.commands.in_flight();
        if self.direction().contains(Direction::WRITE) {
            self.send(Instant::now());
            if self.state.is_over() || self.commands.in_flight() < completed {
                return Ok(Woken::Progress);
            }
        }
        let nothing = || Fail::invalid(format!("nothing to wait for in state {}", before.name()));
        let Some(engine) = &mut self.engine else { return Err(nothing()) };
        let (direction, deadline) = (engine.direction(), engine.next_deadline());
        if direction.is_empty() && deadline.is_none() {
            return Err(nothing());
        }
        let forever = timeout.is_none() && other.is_none() && deadline.is_none();
        if forever && direction == Direction::READ {
            // The read itself waits: one call less.
            let now = Instant::now();
            engine.read(&mut self.commands, true, now);
            engine.finish_turn(&mut self.commands, now);
            self.settle(now);
            return Ok(Woken::Progress);
        }
        let now = Instant::now();
        let until = timeout.and_then(|time| now.checked_add(time));
        let limit = [until, deadline].into_iter().flatten().min();
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, direction.contains(Direction::READ));
        events.set(PollFlags::OUT, direction.contains(Direction::WRITE));
        let socket = engine.fd().filter(|_| !direction.is_empty());
        let mut fds = Vec::with_capacity(2);
        fds.extend(socket.map(|fd| PollFd::from_borrowed_fd(fd, events)));
        let sockets = fds.len();
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        if let Err(error) = poll_until(&mut fds, limit) {
            if other.is_some() {
                return Err(error.into());
            }
            // Who cannot wait would try for ever.
            drop(fds);
            let now = Instant::now();
            engine.session.fail(std::io::Error::from(error), now);
            engine.finish_turn(&mut self.commands, now);
            self.settle(now);
            return Ok(Woken::Progress);
        }
        let seen: Vec<_> = fds.iter().map(PollFd::revents).collect();
        let (socket, other) = seen.split_at_checked(sockets).unwrap_or_default();
        let socket = socket.first().copied().unwrap_or(PollFlags::empty());
        let other = other.first().copied().unwrap_or(PollFlags::empty());
        drop(fds);
        if other.contains(PollFlags::NVAL) {
            return Err(Fail::new(Errno::BADF, "the other descriptor is not open"));
        }
        let now = Instant::now();
        // Errors show in whichever call comes next.
        let broken = socket.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        if socket.contains(PollFlags::IN) || broken {
            engine.read(&mut self.commands, false, now);
        }
        if socket.contains(PollFlags::OUT) || broken {
            engine.write(&mut self.commands, now);
        }
        engine.finish_turn(&mut self.commands, now);
        self.settle(now);
        Ok(if !socket.is_empty() {
            Woken::Progress
        } else if !other.is_empty() {
            Woken::Other
        } else if until.is_some_and(|until| until <= now) {
            Woken::TimedOut
        } else {
            Woken::Progress
        })
    }
}

fn poll_until(fds: &mut [PollFd<'_>], limit: Option<Instant>) -> Result<(), Errno> {
    loop {
        let left = limit.map(|at| at.saturating_duration_since(Instant::now()));
        // What is beyond the system's limit is for ever.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, left.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
