//! A session and its stream, without waiting.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Direction, PayloadSink, PayloadSource};
use nbd_session::{Connect, ConnectOptions, Error, Session, State, Step, Target};
use nbd_transport::{
    AddressOrder, Connection, Dial, DialStep, Endpoint, OnDrop, PeerProcess, SocketIo, Stream,
};

/// A session, and what it has to do with the system.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) session: Session,
    stream: Option<Stream>,
    dial: Option<(Connect, Box<Dial>)>,
    given: Option<Connection>,
    large_buffers: bool,
    /// Whether there has been a stream.
    reached: bool,
    /// What the stream is connected to, as far as that has a name.
    pub(crate) address: Option<Endpoint>,
    /// Last, so that its socket closes before it is waited for.
    pub(crate) process: Option<PeerProcess>,
}

impl Engine {
    /// Begins to connect, and does what can be done without waiting.
    pub(crate) fn start(
        options: ConnectOptions,
        given: Option<Connection>,
        large_buffers: bool,
        now: Instant,
    ) -> Result<Self, Error> {
        let seed = RandomState::new().hash_one(now);
        let mut session = Session::new(options, seed, now)?;
        session.reads_wait(true);
        let mut engine = Self {
            session,
            stream: None,
            dial: None,
            given,
            large_buffers,
            reached: false,
            address: None,
            process: None,
        };
        engine.attend(now);
        Ok(engine)
    }

    /// Does what is due besides moving bytes.
    #[inline]
    pub(crate) fn attend(&mut self, now: Instant) {
        if self.dial.is_some() {
            self.advance(now);
        }
        if self.session.next_deadline().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        while let Some(step) = self.session.next_step() {
            self.step(step, now);
        }
    }

    #[cold]
    fn step(&mut self, step: Step, now: Instant) {
        match step {
            Step::Credentials(config) => self.session.credentials(config.connector(), now),
            Step::Connect(connect) => match self.given.take() {
                Some(connection) => self.connected(&connect, Ok(connection), now),
                None => self.begin(connect, now),
            },
            Step::Shutdown { .. } => {
                if let Some(stream) = &self.stream {
                    SocketIo::non_blocking(stream.as_fd()).shut_down();
                }
            }
            Step::Close { last_word, .. } => {
                self.dial = None;
                if let Some(stream) = self.stream.take() {
                    let _ = SocketIo::non_blocking(stream.as_fd()).write(&last_word);
                }
            }
            // Steps for other kinds of adapters.
            _ => {}
        }
    }

    fn begin(&mut self, connect: Connect, now: Instant) {
        let Target::Endpoint(endpoint) = &connect.target else {
            return self.connected(&connect, Err(Error::stopped()), now);
        };
        let mut dial = Dial::new(endpoint.clone())
            // One descriptor at a time, which is all that a caller can be told of.
            .address_order(AddressOrder::OneByOne)
            .await_greeting(false);
        if !self.large_buffers {
            dial = dial.unix_send_buffer(None);
        }
        self.dial = Some((connect, Box::new(dial)));
        self.advance(now);
    }

    /// Goes on with an attempt to connect.
    #[cold]
    fn advance(&mut self, now: Instant) {
        let Some((connect, mut dial)) = self.dial.take() else { return };
        let outcome = loop {
            match dial.advance(now) {
                Ok(DialStep::Connected(connection)) => break Ok(connection),
                // From this thread: no other is left behind in the caller's process, and one
                // that ends with its parent ends with the caller's thread, as it should.
                Ok(DialStep::Spawn(spawn)) => dial.spawned(spawn.start_from_this_thread()),
                Ok(DialStep::Resolve { host, port }) => {
                    dial.resolved((host, port).to_socket_addrs().map(Iterator::collect));
                }
                Ok(DialStep::Wait) => {
                    self.dial = Some((connect, dial));
                    return;
                }
                Err(error) => break Err(error.into()),
            }
        };
        self.connected(&connect, outcome, now);
    }

    fn connected(&mut self, connect: &Connect, outcome: Result<Connection, Error>, now: Instant) {
        let outcome = outcome.map(|Connection { stream, peer, .. }| {
            self.address = stream.peer();
            self.stream = Some(stream);
            self.process = peer;
            if let Some(process) = &mut self.process {
                process.set_on_drop(match &connect.target {
                    Target::Endpoint(Endpoint::SocketActivation(_)) => OnDrop::TerminateAndWait,
                    // It ends with its connection.
                    _ => OnDrop::Wait,
                });
            }
            self.reached = true;
            IoMode::Vectored
        });
        self.session.connected(connect.generation, outcome, now);
    }

    /// Whether it came to nothing without a server, so that another one can be tried.
    pub(crate) fn found_nobody(&self) -> bool {
        let endpoint = self.session.options().endpoints().first();
        let by_tcp = matches!(endpoint, Some(Endpoint::Tcp { .. } | Endpoint::Address(_)));
        by_tcp && !self.reached && self.session.is_over()
    }

    /// What is waited for.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match (&self.stream, &self.dial) {
            (Some(stream), _) => Some(stream.as_fd()),
            (None, Some((_, dial))) => dial.fds().next().map(|waited| waited.fd),
            (None, None) => None,
        }
    }

    /// In which direction.
    #[inline]
    pub(crate) fn direction(&self) -> Direction {
        match &self.dial {
            None => self.session.direction(),
            Some((_, dial)) => dial.fds().next().map_or(Direction::empty(), |fd| fd.direction),
        }
    }

    /// When something is due even if nothing happens.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let dial = self.dial.as_ref().and_then(|(_, dial)| dial.next_deadline());
        match (self.session.next_deadline(), dial) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Sends what is due, as far as there is room.
    #[inline]
    pub(crate) fn write<P: PayloadSource>(&mut self, payload: &mut P, now: Instant) {
        while self.session.direction().contains(Direction::WRITE)
            && let Some(stream) = &self.stream
        {
            let mut io = SocketIo::non_blocking(stream.as_fd());
            if self.session.write(&mut io, payload, now) != Progress::More {
                break;
            }
        }
    }

    /// Takes in what has come; if `wait`, waits for something first.
    #[inline]
    pub(crate) fn read<P: PayloadSink>(&mut self, payload: &mut P, wait: bool, now: Instant) {
        let Some(stream) = &self.stream else { return };
        let mut io = if wait {
            SocketIo::blocking_read(stream.as_fd())
        } else {
            SocketIo::non_blocking(stream.as_fd())
        };
        self.session.read(&mut io, payload, now);
    }

    /// Goes on as long as there is something to do of which no descriptor tells.
    #[inline]
    pub(crate) fn finish_turn<P>(&mut self, payload: &mut P, now: Instant)
    where
        P: PayloadSink + PayloadSource,
    {
        self.attend(now);
        while self.session.needs_drive() && self.stream.is_some() {
            if self.session.direction().contains(Direction::WRITE) {
                self.write(payload, now);
            }
            if self.session.direction().contains(Direction::READ) {
                self.read(payload, false, now);
            }
            self.attend(now);
            if self.session.direction().is_empty() {
                break;
            }
        }
    }

    /// Whether the server waits for an option to be chosen, and takes some.
    pub(crate) fn is_choosing(&self) -> bool {
        self.session.state() == State::Choosing
    }
}
