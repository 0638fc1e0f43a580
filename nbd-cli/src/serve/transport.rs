//! The socket of one connection: the only place where its bytes are moved and
//! waited for.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Direction, Discard, Machine, PayloadSink, PayloadSource};
use nbd_session::{Link, LinkError};
use nbd_transport::SocketIo;
use nbd_transport::tls::TlsStage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

/// A connected socket and what lies between it and the machine.
#[derive(Debug)]
pub(super) struct Transport {
    socket: OwnedFd,
    link: Link,
}

/// What a wait came back with. Nothing at all means that its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Woken {
    /// Where the socket can go on.
    pub(super) ready: Direction,
    /// The server is asked to stop.
    pub(super) stop: bool,
}

impl Transport {
    /// A connection in clear, until TLS is started.
    pub(super) const fn plain(socket: OwnedFd) -> Self {
        Self { socket, link: Link::plain() }
    }

    /// From now on everything goes through TLS, its handshake first.
    pub(super) fn start_tls(&mut self, stage: Box<dyn TlsStage>) {
        self.link.start_tls(stage);
    }

    /// Whether TLS was started.
    pub(super) const fn is_tls(&self) -> bool {
        self.link.is_tls()
    }

    /// Whether the handshake of TLS is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.link.is_handshaking()
    }

    /// Reads once, without waiting.
    pub(super) fn read<M, S>(
        &mut self,
        machine: &mut M,
        sink: &mut S,
    ) -> Result<Progress, LinkError>
    where
        M: Machine,
        S: PayloadSink,
    {
        let mut io = SocketIo::non_blocking(self.socket.as_fd());
        let result = self.link.read(machine, &mut io, sink, IoMode::Vectored);
        if let Err(LinkError::Tls(_)) = result {
            // The alert that tells the client why. The error stands whether it
            // arrives or not.
            let _ = self.link.write(machine, &mut io, &Discard, IoMode::Vectored);
        }
        result
    }

    /// Writes once, without waiting: as many replies as one call takes.
    pub(super) fn write<M, P>(&mut self, machine: &mut M, source: &P) -> Result<Progress, LinkError>
    where
        M: Machine,
        P: PayloadSource,
    {
        let mut io = SocketIo::non_blocking(self.socket.as_fd());
        self.link.write(machine, &mut io, source, IoMode::Vectored)
    }

    /// What the machine waits for on the socket.
    pub(super) fn direction<M: Machine>(&self, machine: &M) -> Direction {
        self.link.direction(machine)
    }

    /// Waits until the socket can go on in one of the directions, `stop` is
    /// closed at its other end, or the time is up. What TLS has received
    /// already is there to be read without a wait.
    ///
    /// # Errors
    ///
    /// Those of `poll`: no memory.
    pub(super) fn wait(
        &self,
        interest: Direction,
        stop: Option<&PipeReader>,
        deadline: Option<Instant>,
    ) -> io::Result<Woken> {
        let behind = interest.contains(Direction::READ) && self.link.is_behind();
        let deadline = if behind { Some(Instant::now()) } else { deadline };
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, interest.contains(Direction::READ));
        wanted.set(PollFlags::OUT, interest.contains(Direction::WRITE));
        let socket = PollFd::new(&self.socket, wanted);
        let mut fds = [socket.clone(), socket];
        let mut used = 1;
        if let Some(stop) = stop {
            fds[1] = PollFd::new(stop, PollFlags::IN);
            used = 2;
        }
        wait_for(&mut fds[..used], deadline)?;
        // An error or a hang-up shows on the next call, whichever it is.
        let failed = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        let seen = fds[0].revents();
        let mut ready = Direction::empty();
        ready.set(Direction::READ, behind || seen.intersects(PollFlags::IN | failed));
        ready.set(Direction::WRITE, seen.intersects(PollFlags::OUT | failed));
        Ok(Woken { ready: ready & interest, stop: used == 2 && !fds[1].revents().is_empty() })
    }

    /// Tells the client, under TLS, that nothing more comes; to be called when
    /// all has been sent. In clear the end of the stream says it.
    pub(super) fn close<M: Machine>(&mut self, machine: &mut M) {
        self.link.close();
        // A client that leaves no room for these few bytes does not read them.
        let _ = self.write(machine, &Discard);
    }

    /// Ends a connection of which the client does not know yet. To close a
    /// socket with unread bytes would take back replies that are on their way,
    /// so those bytes are read and thrown away until the client closes too.
    pub(super) fn hang_up(self, deadline: Instant) {
        let mut bytes = [0; 4 << 10];
        if shutdown(&self.socket, Shutdown::Write).is_err() {
            return;
        }
        let mut io = SocketIo::non_blocking(self.socket.as_fd());
        while Instant::now() < deadline {
            match io.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.wait(Direction::READ, None, Some(deadline)).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// Polls until something happens or the time is up.
///
/// # Errors
///
/// Those of `poll` but for interruptions.
pub(super) fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
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
