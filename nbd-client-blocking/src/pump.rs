//! Moves bytes until something happens: the only place of this crate that waits for a server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Direction, Machine, PayloadSink, PayloadSource};
use nbd_session::{Link, OldError as Error};
use nbd_transport::{Connection, SocketIo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::trace::Trace;

/// A connection, what carries its bytes, and how long it may be silent.
#[derive(Debug)]
pub(crate) struct Pump {
    pub(crate) link: Link,
    pub(crate) connection: Connection,
    pub(crate) timeout: Option<Duration>,
    pub(crate) system_calls: u64,
    pub(crate) trace: Trace,
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    /// The socket.
    pub(crate) socket: Direction,
    /// The other descriptor has something to read.
    pub(crate) extra: bool,
}

impl Pump {
    /// One round: sends what is due, then waits for bytes from the server and takes
    /// them in.
    ///
    /// Sending never waits while there may be something to read, so a server that
    /// is stuck sending while we are stuck sending is no deadlock. When nothing is
    /// left to send, the read itself is what waits: no poll before it.
    pub(crate) fn round<M, P>(&mut self, machine: &mut M, ports: &mut P) -> Result<(), Error>
    where
        M: Machine,
        P: PayloadSink + PayloadSource,
    {
        let due = self.link.direction(machine).contains(Direction::WRITE);
        self.send(machine, ports)?;
        let direction = self.link.direction(machine);
        if !direction.contains(Direction::READ) {
            return Ok(());
        }
        if due && !direction.contains(Direction::WRITE) && !machine.is_ending() {
            // A write whose reply overtook its payload is finished by its last byte:
            // whoever waits for it looks before anything waits for the server.
            return Ok(());
        }
        if direction.contains(Direction::WRITE) {
            let ready = self.wait(direction, self.deadline(), machine.state_name())?;
            if ready.contains(Direction::READ) {
                self.receive(machine, ports, false)?;
            }
            return Ok(());
        }
        self.receive(machine, ports, true)
    }

    /// Sends what is due, as far as there is room.
    pub(crate) fn send<M, P>(&mut self, machine: &mut M, source: &P) -> Result<(), Error>
    where
        M: Machine,
        P: PayloadSource,
    {
        while self.link.direction(machine).contains(Direction::WRITE) {
            let mut io = SocketIo::non_blocking(self.connection.stream.as_fd());
            let result = self.link.write(machine, &mut io, source, IoMode::Vectored);
            self.system_calls += io.calls();
            if result? != Progress::More {
                break;
            }
        }
        Ok(())
    }

    /// Takes in what has come; waits for it if asked to.
    pub(crate) fn receive<M, P>(
        &mut self,
        machine: &mut M,
        sink: &mut P,
        wait: bool,
    ) -> Result<(), Error>
    where
        M: Machine,
        P: PayloadSink,
    {
        let socket = self.connection.stream.as_fd();
        let deadline = if wait { self.deadline() } else { None };
        let mut io =
            if wait { SocketIo::blocking_read(socket) } else { SocketIo::non_blocking(socket) };
        let result = self.link.read(machine, &mut io, sink, IoMode::Vectored);
        self.system_calls += io.calls();
        result?;
        if wait && io.starved() {
            // The socket's receive timeout has passed, which is short of the deadline.
            self.wait(Direction::READ, deadline, machine.state_name())?;
            return self.receive(machine, sink, false);
        }
        Ok(())
    }

    /// Changes the longest silence of the server.
    ///
    /// Linux ends a read up to an eighth too late, but poll(2) on time. So the read waits
    /// for the better part, without a call more for those that are answered, and poll for
    /// the rest.
    pub(crate) fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let short = timeout.map(|timeout| timeout - timeout / 8);
        set_socket_timeout(&self.connection.stream, Timeout::Recv, short)?;
        self.timeout = timeout;
        Ok(())
    }

    /// Waits until the socket is ready, no longer than the deadline.
    pub(crate) fn wait(
        &mut self,
        direction: Direction,
        deadline: Option<Instant>,
        state: &'static str,
    ) -> Result<Direction, Error> {
        match self.wait_either(direction, None, deadline)? {
            Some(ready) => Ok(ready.socket),
            None => Err(self.timed_out(state)),
        }
    }

    /// Waits until the socket is ready or another descriptor has something to read; `None`
    /// at the deadline.
    pub(crate) fn wait_either(
        &mut self,
        direction: Direction,
        extra: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> Result<Option<Readiness>, Error> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, direction.contains(Direction::READ));
        events.set(PollFlags::OUT, direction.contains(Direction::WRITE));
        let socket = self.connection.stream.as_fd();
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let limit = left.and_then(|left| Timespec::try_from(left).ok());
            // Without another descriptor the socket stands in for it, wanted for nothing.
            let other = extra.map_or(PollFlags::empty(), |_| PollFlags::IN);
            let mut fds = [
                PollFd::from_borrowed_fd(socket, events),
                PollFd::from_borrowed_fd(extra.unwrap_or(socket), other),
            ];
            let (used, _) = fds.split_at_mut(if extra.is_some() { 2 } else { 1 });
            self.system_calls += 1;
            match poll(used, limit.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    let [socket, other] = fds;
                    let mut ready = Direction::empty();
                    // Errors and hang-ups show on whichever call comes next.
                    let broken = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
                    let seen = socket.revents();
                    ready.set(Direction::READ, seen.intersects(PollFlags::IN | broken));
                    ready.set(Direction::WRITE, seen.intersects(PollFlags::OUT | broken));
                    return Ok(Some(Readiness {
                        socket: ready,
                        extra: !other.revents().is_empty(),
                    }));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::from(io::Error::from(error))),
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout?)
    }

    pub(crate) fn timed_out(&self, state: &'static str) -> Error {
        Error::TimedOut { state, timeout: self.timeout.unwrap_or_default() }
    }
}
