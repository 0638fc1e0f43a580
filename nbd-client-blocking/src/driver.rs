//! Does what a session asks for: connects, sleeps, moves bytes. The only place of this crate
//! that waits for a server.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Command, Direction, Discard, PayloadSink, PayloadSource, RequestId};
use nbd_session::{ConnectOptions, Error, Event, Limit, Request, Session, State, Step};
use nbd_transport::{Connection, SocketIo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Shutdown, shutdown};

use crate::completion::Woken;
use crate::dial::{Dialling, Function, Source};

/// The shortest time that a socket can be told to wait, where none is for ever.
const MOMENT: Duration = Duration::from_micros(1);

/// A session, and what it has to do with the system.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) session: Session,
    /// While there is one.
    pub(crate) connection: Option<Connection>,
    dialling: Option<Dialling>,
    source: Source,
    /// How long a read waits, as the socket was told.
    read_timeout: Option<Duration>,
    pub(crate) system_calls: u64,
    pub(crate) observer: Option<Function<Observer>>,
}

pub(crate) type Observer = dyn Fn(&Event) + Send + Sync;

impl Driver {
    /// Connects, until the export is there or the caller is to choose.
    /// Gives up when `stop` has something to read, or is at its end, before that.
    pub(crate) fn connect(
        options: ConnectOptions,
        source: Source,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Error> {
        let now = Instant::now();
        // Another one for each session.
        let seed = RandomState::new().hash_one(now);
        let mut driver = Self {
            session: Session::new(options, seed, now)?,
            connection: None,
            dialling: None,
            source,
            read_timeout: None,
            system_calls: 0,
            observer: None,
        };
        driver.session.reads_wait(true);
        loop {
            match driver.session.state() {
                State::Ready | State::Choosing => return Ok(driver),
                _ if driver.session.is_over() => return Err(driver.end()),
                _ => {
                    if driver.wait(&mut Discard, stop, None) == Woken::Other {
                        return Err(Error::stopped());
                    }
                }
            }
        }
    }

    /// Why it is over.
    #[cold]
    pub(crate) fn end(&self) -> Error {
        self.session.end().cloned().unwrap_or_else(Error::stopped)
    }

    /// Queues a command whose payload is a slice that will be lent.
    #[inline(always)]
    pub(crate) fn submit(
        &mut self,
        command: Command,
        payload: &[u8],
        limit: Limit,
        clock: impl FnOnce() -> Instant,
    ) -> Result<RequestId, Error> {
        if self.session.keeps_payload(&command) {
            return self.submit_request(Request::new(command).limit(limit), payload, clock());
        }
        self.session.submit_with_clock(command, limit, clock)
    }

    /// Queues a command with all that may go with it.
    #[cold]
    pub(crate) fn submit_request(
        &mut self,
        mut request: Request<'_>,
        payload: &[u8],
        now: Instant,
    ) -> Result<RequestId, Error> {
        let command = *request.command();
        if self.session.keeps_payload(&command) {
            request = request.payload(payload.to_vec().into());
        }
        self.session.submit_request(request, now)
    }

    /// Takes in what has come where commands that were given up hold all the room. Returns
    /// whether they did.
    #[cold]
    pub(crate) fn look_for_room<P: PayloadSink>(&mut self, payload: &mut P) -> bool {
        let crowded = self.session.is_ready() && !self.session.has_room();
        let crowded = crowded && self.session.in_flight() == 0;
        if crowded {
            self.receive(payload, Instant::now());
        }
        crowded
    }

    /// Submits in line what found no room; what was refused for another reason stays so.
    #[cold]
    pub(crate) fn submit_in_line(
        &mut self,
        request: Request<'_>,
        limit: Limit,
        payload: &[u8],
        refused: Error,
    ) -> Result<RequestId, Error> {
        if !self.session.may_wait(&refused) {
            return Err(refused);
        }
        let ticket = self.session.wait_for_room(limit, Instant::now());
        loop {
            // Nobody else is in line.
            if self.session.next_admission().is_some() {
                return self.submit_request(request.ticket(ticket), payload, Instant::now());
            }
            self.turn(&mut Discard, Instant::now());
        }
    }

    /// The payload of a finished command is the caller's again, although it is
    /// [held](nbd_session::Completion::held): the rest of a write whose time was over when it was half sent.
    #[cold]
    pub(crate) fn release(&mut self, id: RequestId, payload: &[u8]) {
        self.session.copy_held(id, payload);
    }

    /// Sends what is due, then waits until something happens, and takes that in. `now` is the
    /// present.
    ///
    /// Sending never waits while there may be something to read, so a server that is stuck
    /// sending while we are stuck sending is no deadlock. When nothing is left to send, the
    /// read itself is what waits: no poll before it.
    #[inline]
    pub(crate) fn turn<P>(&mut self, payload: &mut P, now: Instant)
    where
        P: PayloadSink + PayloadSource,
    {
        if self.attend(now) {
            // It may have finished what is waited for, by its limit of time: then nothing more
            // is to come, and no limit would end the wait.
            return;
        }
        let due = self.session.direction().contains(Direction::WRITE);
        self.send(payload, now);
        if due && self.session.has_completed() {
            // A write whose reply overtook its payload is finished by its last byte: whoever
            // waits for it looks before anything waits for the server.
            return;
        }
        if self.session.direction() != Direction::READ || self.session.needs_drive() {
            self.wait(payload, None, None);
            return;
        }
        self.receive_waiting(payload, now);
    }

    /// Waits until the socket is ready and does what can be done, or until a time has come, an
    /// attempt to connect is through, or another descriptor has something to read.
    #[cold]
    pub(crate) fn wait<P>(
        &mut self,
        payload: &mut P,
        other: Option<BorrowedFd<'_>>,
        until: Option<Instant>,
    ) -> Woken
    where
        P: PayloadSink + PayloadSource,
    {
        let now = Instant::now();
        if self.attend(now) || self.session.is_over() {
            return Woken::Progress;
        }
        let direction = self.session.direction();
        if self.session.needs_drive() && direction.contains(Direction::READ) {
            self.receive(payload, now);
            return Woken::Progress;
        }
        let ready = match self.poll(direction, other, until) {
            Ok(ready) => ready,
            Err(error) => {
                self.session.fail(io::Error::from(error), now);
                return Woken::Progress;
            }
        };
        let now = Instant::now();
        if ready.socket.contains(Direction::WRITE) {
            self.send(payload, now);
        }
        if ready.socket.contains(Direction::READ) {
            self.receive(payload, now);
        }
        let attended = self.attend(now);
        if ready.other {
            Woken::Other
        } else if !ready.any && !attended && until.is_some_and(|until| until <= now) {
            Woken::TimedOut
        } else {
            Woken::Progress
        }
    }

    /// Does what is due besides moving bytes. Returns whether there was anything.
    #[inline]
    pub(crate) fn attend(&mut self, now: Instant) -> bool {
        // Whose time is over tells more of it than the session knows.
        let dialled = self.dialling.is_some() && self.dial(now);
        let late = self.session.next_deadline().is_some_and(|at| at <= now);
        if late {
            self.session.handle_timeout(now);
        }
        let mut attended = late || dialled;
        while let Some(step) = self.session.next_step() {
            self.step(step, now);
            attended = true;
        }
        if let Some(Function(observe)) = &self.observer {
            while let Some(event) = self.session.next_event() {
                observe(&event);
            }
        }
        attended
    }

    #[cold]
    fn step(&mut self, step: Step, now: Instant) {
        match step {
            Step::Credentials(config) => self.session.credentials(config.connector(), now),
            Step::Connect(connect) => {
                self.dialling = Some(Dialling::begin(connect, &mut self.source));
                self.dial(now);
            }
            Step::Shutdown { .. } => {
                if let Some(Connection { stream, .. }) = &self.connection {
                    SocketIo::non_blocking(stream.as_fd()).shut_down();
                }
            }
            Step::Close { last_word, .. } => {
                self.dialling = None;
                if let Some(Connection { stream, .. }) = self.connection.take() {
                    let _ = SocketIo::non_blocking(stream.as_fd()).write(&last_word);
                    // For other owners of the socket too.
                    let _ = shutdown(&stream, Shutdown::Both);
                }
            }
            // Steps for other kinds of adapters.
            _ => {}
        }
    }

    /// Goes on with an attempt to connect. Returns whether it is through.
    #[cold]
    fn dial(&mut self, now: Instant) -> bool {
        let Some(dialling) = &mut self.dialling else { return false };
        let Some(outcome) = dialling.advance(now) else { return false };
        let outcome = outcome.and_then(|connection| {
            self.connection = Some(dialling.connect.prepare(connection)?);
            self.read_timeout = None;
            Ok(IoMode::Vectored)
        });
        self.session.connected(dialling.connect.generation, outcome, now);
        self.dialling = None;
        true
    }

    /// The connection is of no use any more.
    pub(crate) fn fail(&mut self, cause: Error) {
        let now = Instant::now();
        self.session.fail(cause, now);
        self.attend(now);
    }

    /// Sends what is due, as far as there is room.
    #[inline]
    pub(crate) fn send<P: PayloadSource>(&mut self, payload: &mut P, now: Instant) {
        while self.session.direction().contains(Direction::WRITE)
            && let Some(Connection { stream, .. }) = &self.connection
        {
            let mut io = SocketIo::non_blocking(stream.as_fd());
            let progress = self.session.write(&mut io, payload, now);
            self.system_calls += io.calls();
            if progress != Progress::More {
                break;
            }
        }
    }

    /// Takes in what has come. Returns whether anything had.
    pub(crate) fn receive<P: PayloadSink>(&mut self, payload: &mut P, now: Instant) -> bool {
        let Some(Connection { stream, .. }) = &self.connection else { return false };
        let mut io = SocketIo::non_blocking(stream.as_fd());
        self.session.read(&mut io, payload, now);
        self.system_calls += io.calls();
        !io.starved()
    }

    /// Waits for bytes from the server by reading.
    ///
    /// Linux ends a read up to an eighth too late, but poll(2) on time. So the read waits for
    /// the better part, without a call more for those that are answered, and poll for the
    /// rest. Its timeout is lowered when it is too long, and raised only after it was seen to
    /// be too short.
    #[inline]
    fn receive_waiting<P>(&mut self, payload: &mut P, now: Instant)
    where
        P: PayloadSink + PayloadSource,
    {
        let busy_poll = self.session.options().busy_poll_time();
        if busy_poll.is_some_and(|time| self.receive_awake(payload, now, time)) {
            return;
        }
        if let Some(deadline) = self.session.next_deadline() {
            let left = deadline.saturating_duration_since(now);
            if self.read_timeout.is_none_or(|set| left < set) {
                self.set_read_timeout(Some((left - left / 8).max(MOMENT)), now);
            }
        }
        let Some(Connection { stream, .. }) = &self.connection else { return };
        let mut io = SocketIo::blocking_read(stream.as_fd());
        self.session.read(&mut io, payload, now);
        self.system_calls += io.calls();
        if io.starved() {
            self.set_read_timeout(None, now);
            self.wait(payload, None, None);
        }
    }

    #[cold]
    fn set_read_timeout(&mut self, timeout: Option<Duration>, now: Instant) {
        let Some(Connection { stream, .. }) = &self.connection else { return };
        self.system_calls += 1;
        match set_socket_timeout(stream, Timeout::Recv, timeout) {
            Ok(()) => self.read_timeout = timeout,
            Err(error) => self.session.fail(io::Error::from(error), now),
        }
    }

    /// Looks for something to read for so long without going to sleep. Returns whether there
    /// was any.
    #[cold]
    fn receive_awake<P>(&mut self, payload: &mut P, now: Instant, time: Duration) -> bool
    where
        P: PayloadSink,
    {
        loop {
            if self.receive(payload, now) {
                return true;
            }
            if now.elapsed() >= time {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Waits until something is ready, or for a time: the caller's, the session's or that of
    /// the attempt to connect.
    fn poll(
        &mut self,
        direction: Direction,
        other: Option<BorrowedFd<'_>>,
        until: Option<Instant>,
    ) -> Result<Ready, Errno> {
        let dialling = self.dialling.as_ref();
        let limits = [until, self.session.next_deadline(), dialling.and_then(Dialling::next_look)];
        let limit = limits.into_iter().flatten().min();
        let Some(Connection { stream, .. }) =
            self.connection.as_ref().filter(|_| !direction.is_empty())
        else {
            let other = other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let mut fds: Vec<_> = other.into_iter().collect();
            let others = fds.len();
            fds.extend(dialling.into_iter().flat_map(Dialling::fds));
            self.system_calls += poll_until(&mut fds, limit)?;
            let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
            let other = fds.iter().take(others).any(ready);
            let (socket, any) = (Direction::empty(), fds.iter().any(ready));
            return Ok(Ready { socket, other, any });
        };
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, direction.contains(Direction::READ));
        events.set(PollFlags::OUT, direction.contains(Direction::WRITE));
        let socket = stream.as_fd();
        // Without another descriptor the socket stands in for it, and is not looked at twice.
        let mut fds = [
            PollFd::from_borrowed_fd(socket, events),
            PollFd::from_borrowed_fd(other.unwrap_or(socket), PollFlags::IN),
        ];
        let (used, _) = fds.split_at_mut(1 + usize::from(other.is_some()));
        self.system_calls += poll_until(used, limit)?;
        let [seen, other] = fds.map(|fd| fd.revents());
        // Errors and hang-ups show on whichever call comes next.
        let broken = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        let mut socket = Direction::empty();
        socket.set(Direction::READ, seen.intersects(PollFlags::IN | broken));
        socket.set(Direction::WRITE, seen.intersects(PollFlags::OUT | broken));
        Ok(Ready { socket, other: !other.is_empty(), any: !(seen | other).is_empty() })
    }
}

/// What a wait ended with.
struct Ready {
    socket: Direction,
    other: bool,
    /// Any of them, an attempt to connect included.
    any: bool,
}

/// Returns how many system calls it took.
fn poll_until(fds: &mut [PollFd<'_>], limit: Option<Instant>) -> Result<u64, Errno> {
    let mut calls = 0;
    loop {
        let left = limit.map(|at| at.saturating_duration_since(Instant::now()));
        // What is beyond the system's limit is for ever.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        calls += 1;
        match poll(fds, left.as_ref()) {
            Ok(_) => return Ok(calls),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
