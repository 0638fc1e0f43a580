//! The way to the server, and the stream: what a session asks for, done without waiting.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

use mio::Interest;
use nbd_proto::Direction;
use nbd_session::{Connect, Error, Target};
use nbd_transport::{Connection, Dial, DialStep, Lookup, SocketIo};
use rustix::net::{Shutdown, shutdown};

/// The caller's own way to connect. It runs in the loop's thread and must not wait.
pub(crate) type Dialler = Box<dyn FnMut(&Connect) -> Result<Connection, Error> + Send>;

/// What stands between a session and its server.
#[derive(Debug)]
pub(crate) enum Wire {
    None,
    Dialing(Box<Dialing>),
    Open { generation: u64, connection: Connection },
}

/// A connection on its way.
#[derive(Debug)]
pub(crate) struct Dialing {
    connect: Connect,
    dial: Dial,
    /// A name is being looked up.
    lookup: Option<Lookup>,
}

/// A descriptor to watch. The system uses the numbers of descriptors again; the rest of this is
/// used only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    generation: u64,
    part: Part,
    pub(crate) fd: RawFd,
    pub(crate) interest: Interest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Lookup,
    Dial(u32),
    Stream,
}

impl Watched {
    /// Whether both are the same descriptor, and not only the same number.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.generation, self.part, self.fd) == (other.generation, other.part, other.fd)
    }
}

/// What came of trying to connect.
pub(crate) type Outcome = (u64, Result<(), Error>);

impl Wire {
    /// Starts to connect. The outcome, if it is there at once.
    pub(crate) fn connect(
        &mut self,
        connect: Connect,
        given: &mut Option<Connection>,
        dialler: Option<&mut Dialler>,
    ) -> Option<Outcome> {
        let generation = connect.generation;
        let connection = match (&connect.target, connect.dial(), dialler) {
            (Target::Endpoint(_), Some(dial), _) => {
                *self = Self::Dialing(Box::new(Dialing { connect, dial, lookup: None }));
                return None;
            }
            (Target::Dialler, _, Some(dial)) => dial(&connect),
            (Target::Given, _, _) => given.take().ok_or_else(nobody),
            _ => Err(nobody()),
        };
        Some((generation, connection.and_then(|connection| self.open(&connect, connection))))
    }

    fn open(&mut self, connect: &Connect, connection: Connection) -> Result<(), Error> {
        if let Some(keep_alive) = connect.tcp_keep_alive {
            connection.set_tcp_keep_alive(keep_alive)?;
        }
        *self = Self::Open { generation: connect.generation, connection };
        Ok(())
    }

    /// Takes the next steps towards a connection. The outcome, once there is one.
    pub(crate) fn advance(&mut self, now: Instant) -> Option<Outcome> {
        let Self::Dialing(dialing) = self else { return None };
        let generation = dialing.connect.generation;
        let result = match dialing.advance(now) {
            Ok(None) if dialing.connect.by.is_none_or(|by| now < by) => return None,
            Ok(None) => {
                let Self::Dialing(late) = std::mem::replace(self, Self::None) else { return None };
                Err(late.dial.timed_out().into())
            }
            Ok(Some(connection)) => {
                let connect = dialing.connect.clone();
                self.open(&connect, connection)
            }
            Err(error) => Err(error),
        };
        if result.is_err() {
            *self = Self::None;
        }
        Some((generation, result))
    }

    /// When [`advance`](Self::advance) has something to do, if nothing happens before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let Self::Dialing(dialing) = self else { return None };
        dialing.dial.next_deadline().into_iter().chain(dialing.connect.by).min()
    }

    /// The stream, for a few calls that do not wait.
    pub(crate) fn stream(&self) -> Option<SocketIo<'_>> {
        match self {
            Self::Open { connection, .. } => {
                Some(SocketIo::non_blocking(connection.stream.as_fd()))
            }
            Self::None | Self::Dialing(_) => None,
        }
    }

    pub(crate) fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Open { connection, .. } => Some(connection),
            Self::None | Self::Dialing(_) => None,
        }
    }

    /// Sends nothing more.
    pub(crate) fn shut_down(&self, which: u64) {
        if let Self::Open { generation, connection } = self
            && *generation == which
        {
            // A peer that is gone already is no loss.
            let _ = shutdown(&connection.stream, Shutdown::Write);
        }
    }

    /// Closes what is of no use any more, after a last word that does not wait.
    pub(crate) fn close(&mut self, which: u64, last_word: &[u8]) {
        let generation = match self {
            Self::None => return,
            Self::Dialing(dialing) => dialing.connect.generation,
            Self::Open { generation, .. } => *generation,
        };
        if generation > which {
            return;
        }
        if let Some(mut stream) = self.stream().filter(|_| !last_word.is_empty()) {
            // Whether it arrives changes nothing.
            let _ = stream.write(last_word);
        }
        *self = Self::None;
    }

    /// What to watch: the stream for the direction that the session waits for, or what the way
    /// to it waits for. The end of a connection shows as something to read, always.
    pub(crate) fn watched(&self, direction: Direction, watch: &mut Vec<Watched>) {
        match self {
            Self::None => {}
            Self::Dialing(dialing) => {
                let generation = dialing.connect.generation;
                let entry = |part, fd, interest| Watched { generation, part, fd, interest };
                let lookup = dialing.lookup.as_ref().map(|lookup| lookup.as_fd().as_raw_fd());
                watch.extend(lookup.map(|fd| entry(Part::Lookup, fd, Interest::READABLE)));
                watch.extend(dialing.dial.fds().map(|one| {
                    let interest = match one.direction.contains(Direction::WRITE) {
                        true => Interest::WRITABLE,
                        false => Interest::READABLE,
                    };
                    entry(Part::Dial(one.id), one.fd.as_raw_fd(), interest)
                }));
            }
            Self::Open { generation, connection } => {
                let interest = match direction.contains(Direction::WRITE) {
                    true => Interest::READABLE | Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                let (generation, part) = (*generation, Part::Stream);
                let fd = connection.stream.as_fd().as_raw_fd();
                watch.push(Watched { generation, part, fd, interest });
            }
        }
    }
}

impl Dialing {
    fn advance(&mut self, now: Instant) -> Result<Option<Connection>, Error> {
        if let Some(answer) = self.lookup.as_mut().and_then(Lookup::answer) {
            self.lookup = None;
            self.dial.resolved(answer);
        }
        loop {
            match self.dial.advance(now)? {
                DialStep::Resolve { host, port } => match Lookup::start(host, port) {
                    Ok(lookup) => self.lookup = Some(lookup),
                    Err(error) => self.dial.resolved(Err(error)),
                },
                DialStep::Spawn(spawn) => self.dial.spawned(spawn.start()),
                DialStep::Wait => return Ok(None),
                DialStep::Connected(connection) => return Ok(Some(connection)),
            }
        }
    }
}

/// The connection that was handed over is gone, or there is no dialler.
fn nobody() -> Error {
    io::Error::from(io::ErrorKind::NotConnected).into()
}
