//! Connecting in steps, none of which waits.

use super::error::{ConnectError, Step};
use super::greeting::{Ending, Greeting, Heard};
use super::lookup::Lookup;
use super::program::{self, Meeting, Server};
use super::race::{AddressOrder, Outcome, Race};
use super::target::Target;
use crate::command::CommandSpec;
use crate::connection::{Connection, Stream, UNIX_SEND_BUFFER};
use crate::endpoint::Endpoint;
use crate::process::{PeerProcess, Spawn};
use nbd_proto::Direction;
use std::ffi::OsString;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// A connection on its way: says what has to be done, and never waits for it.
///
/// ```text
///   advance(now) ──► Resolve { host, port } ──► look it up ──► resolved(answer) ──► advance
///                ├─► Spawn(spawn) ──► start it ──► spawned(result) ──► advance
///                ├─► Wait ──► until one of `fds` is ready or `next_deadline` ──► advance
///                └─► Connected(connection)
/// ```
///
/// It knows the time only from its caller, starts no thread, and gives up only when nothing is
/// left to try, or at the time that it was [given](Self::until). A caller whose patience is over
/// before tells the outcome by [`timed_out`](Self::timed_out) or just drops it. Dropping it closes
/// its sockets, and ends the program that was started for it.
///
/// A socket that is connected already needs none of this: see [`Connection::from_socket`].
///
/// ```
/// use nbd_transport::{Connection, ConnectError, Dial, DialStep, Endpoint};
/// use std::net::ToSocketAddrs;
/// use std::time::Instant;
///
/// fn connect(endpoint: Endpoint) -> Result<Connection, ConnectError> {
///     let mut dial = Dial::new(endpoint);
///     loop {
///         match dial.advance(Instant::now())? {
///             DialStep::Resolve { host, port } => {
///                 dial.resolved((host, port).to_socket_addrs().map(Iterator::collect));
///             }
///             DialStep::Spawn(spawn) => dial.spawned(spawn.start()),
///             DialStep::Wait => { /* poll what `fds` has, until `next_deadline` */ }
///             DialStep::Connected(connection) => return Ok(connection),
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Dial {
    endpoint: Endpoint,
    order: AddressOrder,
    await_greeting: bool,
    unix_send_buffer: Option<usize>,
    until: Option<Instant>,
    state: State,
}

/// What a [`Dial`] needs next. Each step is asked for once; until it is answered, there is
/// nothing but to [wait](Self::Wait).
#[derive(Debug)]
#[must_use]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
pub enum DialStep {
    /// The addresses of a host, in the order the system prefers: the answer goes to
    /// [`Dial::resolved`]. Looking a name up takes its time; [`Dial::look_up`] does it in a
    /// thread.
    Resolve {
        /// The host's name.
        host: String,
        /// The port that belongs into the addresses.
        port: u16,
    },
    /// A program that has to be started: what comes of it goes to [`Dial::spawned`].
    Spawn(Spawn),
    /// Until one of [`Dial::fds`] is ready, or the time of [`Dial::next_deadline`] has come, or a
    /// step is answered. Advancing sooner does no harm.
    Wait,
    /// There is a connection, and nothing left to do.
    Connected(Connection),
}

/// A descriptor that a [`Dial`] waits for.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DialFd<'a> {
    /// Of what is waited for, each has its own. A descriptor's number is used again for another
    /// socket as soon as it is closed; this is not.
    pub id: u32,
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// Whether it has to become writable, to connect, or readable, to answer or to greet.
    pub direction: Direction,
}

#[derive(Debug)]
enum State {
    Begin,
    /// A name was asked for.
    Resolving {
        host: String,
        lookup: Option<Lookup>,
    },
    Resolved {
        host: String,
        answer: io::Result<Vec<SocketAddr>>,
    },
    /// A program was asked for.
    Spawning {
        program: OsString,
        meeting: Meeting,
    },
    Spawned {
        program: OsString,
        meeting: Meeting,
        result: io::Result<PeerProcess>,
    },
    Racing {
        race: Race,
        /// The program that is to answer, if one was started for this.
        server: Option<Server>,
    },
    Greeting(Greeting),
    Ending(Ending),
    Over,
}

/// What a state leads to: at once, or after the caller has had its turn.
type Next = (State, Option<DialStep>);

impl Dial {
    /// Connecting to `endpoint`, of which nothing has happened yet.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            order: AddressOrder::Race,
            await_greeting: false,
            unix_send_buffer: Some(UNIX_SEND_BUFFER),
            until: None,
            state: State::Begin,
        }
    }

    /// In which order several addresses of a host are tried (default:
    /// [`AddressOrder::Race`]).
    #[must_use]
    pub const fn address_order(mut self, order: AddressOrder) -> Self {
        self.order = order;
        self
    }

    /// Whether a program that was started counts as connected only when its first byte has
    /// arrived, so that one which fails to start is an error here, with its exit status and what
    /// it wrote (default: no; it counts as soon as there is a socket).
    #[must_use]
    pub const fn await_greeting(mut self, wait: bool) -> Self {
        self.await_greeting = wait;
        self
    }

    /// How many bytes a Unix socket is asked to hold on its way out; `None` leaves it as the
    /// system is set (default: 2 MiB, so that a large request does not cost a switch of
    /// processes for every piece).
    #[must_use]
    pub const fn unix_send_buffer(mut self, bytes: Option<usize>) -> Self {
        self.unix_send_buffer = bytes;
        self
    }

    /// When to give up, with [what is known](Self::timed_out) by then (default: never).
    #[must_use]
    pub const fn until(mut self, at: Option<Instant>) -> Self {
        self.until = at;
        self
    }

    /// What is connected to.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What is waited for now, all of it at once. Empty while a step is to be answered by the
    /// caller, or when only time is waited for.
    pub fn fds(&self) -> impl Iterator<Item = DialFd<'_>> {
        let (lookup, race, greeting) = match &self.state {
            State::Resolving { lookup, .. } => (lookup.as_ref(), None, None),
            State::Racing { race, .. } => (None, Some(race), None),
            State::Greeting(greeting) => (None, None, Some(greeting)),
            State::Begin
            | State::Resolved { .. }
            | State::Spawning { .. }
            | State::Spawned { .. }
            | State::Ending(_)
            | State::Over => (None, None, None),
        };
        // The others count from 0.
        let lookup = lookup.map(|lookup| DialFd {
            id: u32::MAX,
            fd: lookup.as_fd(),
            direction: Direction::READ,
        });
        let connecting = race.into_iter().flat_map(Race::connecting);
        let connecting = connecting.map(|(id, fd)| DialFd { id, fd, direction: Direction::WRITE });
        let greeting = greeting.into_iter().map(|Greeting { id, stream, .. }| DialFd {
            id: *id,
            fd: stream.as_fd(),
            direction: Direction::READ,
        });
        lookup.into_iter().chain(connecting).chain(greeting)
    }

    /// When to [advance](Self::advance) at the latest, if nothing happens before. It may have
    /// passed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let next = match &self.state {
            State::Racing { race, .. } => race.next_deadline(),
            State::Ending(ending) => Some(ending.next_look()),
            State::Begin
            | State::Resolving { .. }
            | State::Resolved { .. }
            | State::Spawning { .. }
            | State::Spawned { .. }
            | State::Greeting(_)
            | State::Over => None,
        };
        next.into_iter().chain(self.until).min()
    }

    /// Answers [`DialStep::Resolve`]; [advance](Self::advance) afterwards. An answer that was
    /// not asked for is ignored.
    pub fn resolved(&mut self, answer: io::Result<Vec<SocketAddr>>) {
        if let State::Resolving { host, .. } = &mut self.state {
            let host = mem::take(host);
            self.state = State::Resolved { host, answer };
        }
    }

    /// Answers [`DialStep::Resolve`] by a thread of its own, for callers who cannot wait: the
    /// system's resolver knows no other way. Its descriptor is one of [`fds`](Self::fds) until
    /// there is an answer. The thread ends when the resolver does; a dial that is dropped before
    /// leaves it to itself.
    pub fn look_up(&mut self, host: String, port: u16) {
        match (Lookup::start(host, port), &mut self.state) {
            (Ok(started), State::Resolving { lookup, .. }) => *lookup = Some(started),
            (Ok(_), _) => {}
            (Err(error), _) => self.resolved(Err(error)),
        }
    }

    /// Answers [`DialStep::Spawn`]; [advance](Self::advance) afterwards. A program that was not
    /// asked for is dropped, which ends it.
    pub fn spawned(&mut self, result: io::Result<PeerProcess>) {
        self.state = match mem::replace(&mut self.state, State::Over) {
            State::Spawning { program, meeting } => State::Spawned { program, meeting, result },
            other => other,
        };
    }

    /// Does all that can be done without waiting, and says what comes next. `now` is the
    /// present, which never goes backwards.
    ///
    /// # Errors
    ///
    /// When nothing is left to try, or time is over. After an error, or a connection, it is of no
    /// further use: advancing then is an error too.
    pub fn advance(&mut self, now: Instant) -> Result<DialStep, ConnectError> {
        loop {
            let state = mem::replace(&mut self.state, State::Over);
            let (state, step) = self.next(state, now)?;
            self.state = state;
            match step {
                Some(DialStep::Wait) if self.until.is_some_and(|until| until <= now) => {
                    return Err(self.timed_out());
                }
                Some(step) => return Ok(step),
                None => {}
            }
        }
    }

    /// As [`advance`](Self::advance), and answers what is asked for on the way: names are
    /// looked up [in a thread](Self::look_up), programs started at once. `None` while there is
    /// something to wait for.
    ///
    /// # Errors
    ///
    /// As [`advance`](Self::advance).
    pub fn proceed(&mut self, now: Instant) -> Result<Option<Connection>, ConnectError> {
        loop {
            match self.advance(now)? {
                DialStep::Resolve { host, port } => self.look_up(host, port),
                DialStep::Spawn(spawn) => self.spawned(spawn.start()),
                DialStep::Wait => return Ok(None),
                DialStep::Connected(connection) => return Ok(Some(connection)),
            }
        }
    }

    /// What to tell when the caller's patience is over. It is of no further use then.
    #[must_use]
    pub fn timed_out(&mut self) -> ConnectError {
        let mut attempts = Vec::new();
        let step = match mem::replace(&mut self.state, State::Over) {
            State::Begin | State::Over => Step::Connect,
            State::Resolving { .. } | State::Resolved { .. } => Step::Resolve,
            State::Spawning { .. } | State::Spawned { .. } => Step::Spawn,
            State::Racing { race, .. } => {
                attempts = race.into_failed();
                Step::Connect
            }
            State::Greeting(_) => Step::Greeting,
            State::Ending(ending) => return ending.into_error(),
        };
        ConnectError::TimedOut { endpoint: self.endpoint.to_string(), step, attempts }
    }

    fn next(&self, state: State, now: Instant) -> Result<Next, ConnectError> {
        Ok(match state {
            State::Begin => self.begin()?,
            State::Resolved { host, answer } => {
                let addresses = answer.map_err(|error| ConnectError::Resolve { host, error })?;
                self.race(addresses.into_iter().map(Target::tcp), None)
            }
            State::Spawned { program, meeting, result } => match result {
                Ok(peer) => self.meet(meeting, Server { program, peer })?,
                Err(error) => return Err(ConnectError::Spawn { program, error }),
            },
            State::Racing { mut race, server } => match race.advance(now) {
                Outcome::Pending => (State::Racing { race, server }, Some(DialStep::Wait)),
                Outcome::Connected(socket) => {
                    let stream = Stream::new(socket, self.unix_send_buffer);
                    let stream = stream.map_err(|error| self.system(error))?;
                    match server {
                        None => connected(stream, None),
                        Some(server) => self.reached(stream, server, race.started()),
                    }
                }
                Outcome::Failed => match server {
                    None => {
                        let (endpoint, attempts) = (self.endpoint.to_string(), race.into_failed());
                        return Err(ConnectError::Failed { endpoint, attempts });
                    }
                    // Where it was to be met went with the program.
                    Some(server) => (State::Ending(Ending::new(server, now)), None),
                },
            },
            State::Greeting(greeting) => match greeting.listen() {
                Heard::Nothing => (State::Greeting(greeting), Some(DialStep::Wait)),
                Heard::Greeting => connected(greeting.stream, Some(greeting.server.peer)),
                Heard::End => (State::Ending(Ending::new(greeting.server, now)), None),
                Heard::Fault(error) => return Err(self.system(error)),
            },
            State::Ending(mut ending) => {
                if ending.look(now).map_err(|error| self.system(error))? {
                    return Err(ending.into_error());
                }
                (State::Ending(ending), Some(DialStep::Wait))
            }
            State::Resolving { host, mut lookup } => {
                match lookup.as_mut().and_then(Lookup::answer) {
                    Some(answer) => (State::Resolved { host, answer }, None),
                    None => (State::Resolving { host, lookup }, Some(DialStep::Wait)),
                }
            }
            asked @ State::Spawning { .. } => (asked, Some(DialStep::Wait)),
            State::Over => return Err(self.system(io::Error::other("this attempt is over"))),
        })
    }

    fn begin(&self) -> Result<Next, ConnectError> {
        let target = match &self.endpoint {
            Endpoint::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(address) => Target::tcp(SocketAddr::new(address, *port)),
                Err(_) => {
                    let (host, port) = (host.clone(), *port);
                    let state = State::Resolving { host: host.clone(), lookup: None };
                    return Ok((state, Some(DialStep::Resolve { host, port })));
                }
            },
            Endpoint::Address(address) => Target::tcp(*address),
            Endpoint::Unix(path) => Target::unix(&self.endpoint, path)?,
            Endpoint::UnixAbstract(name) => Target::unix_abstract(&self.endpoint, name)?,
            Endpoint::Vsock { cid, port } => Target::vsock(&self.endpoint, *cid, *port)?,
            Endpoint::Command(command) => return self.spawn(command),
            Endpoint::Ssh(target) => return self.spawn(&target.command()?),
            Endpoint::SocketActivation(activation) => {
                let (meeting, spawn) = program::by_activation(&self.endpoint, activation)?;
                let program = activation.command().program().to_owned();
                let state = State::Spawning { program, meeting };
                return Ok((state, Some(DialStep::Spawn(spawn))));
            }
        };
        Ok(self.race([target], None))
    }

    fn spawn(&self, command: &CommandSpec) -> Result<Next, ConnectError> {
        let (meeting, spawn) =
            program::on_socket_pair(command).map_err(|error| self.system(error))?;
        let state = State::Spawning { program: command.program().to_owned(), meeting };
        Ok((state, Some(DialStep::Spawn(spawn))))
    }

    fn race(&self, targets: impl IntoIterator<Item = Target>, server: Option<Server>) -> Next {
        (State::Racing { race: Race::new(targets, self.order), server }, None)
    }

    /// The program runs; now there has to be a connection to it.
    fn meet(&self, meeting: Meeting, mut server: Server) -> Result<Next, ConnectError> {
        match meeting {
            Meeting::Pair(socket) => {
                let stream = Stream::new(socket, self.unix_send_buffer);
                let stream = stream.map_err(|error| self.system(error))?;
                Ok(self.reached(stream, server, 0))
            }
            Meeting::Listener { directory, path } => {
                server.peer.keep(directory);
                Ok(self.race([Target::unix(&self.endpoint, &path)?], Some(server)))
            }
        }
    }

    /// `id` is the next one for a descriptor to wait for.
    fn reached(&self, stream: Stream, server: Server, id: u32) -> Next {
        if self.await_greeting {
            (State::Greeting(Greeting { id, stream, server }), None)
        } else {
            connected(stream, Some(server.peer))
        }
    }

    fn system(&self, error: io::Error) -> ConnectError {
        ConnectError::System { endpoint: self.endpoint.to_string(), error }
    }
}

fn connected(stream: Stream, peer: Option<PeerProcess>) -> Next {
    (State::Over, Some(DialStep::Connected(Connection { stream, peer })))
}
