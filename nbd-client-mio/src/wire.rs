//! The way to the server, and the stream: what a session asks for, done without waiting.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Instant;

use mio::Interest;
use nbd_proto::Direction;
use nbd_proto::io::IoMode;
use nbd_session::{Connect, Error};
use nbd_transport::{Connection, Dial, SocketIo};

/// The caller's own way to connect. It runs in the loop's thread and must not wait.
pub(crate) type Dialler = Box<dyn FnMut(&Connect) -> Result<Connection, Error> + Send>;

/// What stands between a session and its server, if anything does.
#[derive(Debug, Default)]
pub(crate) struct Wire(Option<(Connect, Way)>);

#[derive(Debug)]
enum Way {
    Dialing(Box<Dial>),
    /// The caller's own way to connect has come to this, which was not looked at.
    Made(Option<Result<Connection, Error>>),
    Open(Connection),
}

/// A descriptor to watch. The system uses the numbers of descriptors again; the rest of this is
/// used only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    generation: u64,
    /// Which one on the way to the server; none of those for the stream itself.
    dial: Option<u32>,
    pub(crate) fd: RawFd,
    pub(crate) interest: Interest,
}

impl Watched {
    /// Whether they are one descriptor, whatever it is watched for.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.generation, self.dial, self.fd) == (other.generation, other.dial, other.fd)
    }

    fn new(generation: u64, dial: Option<u32>, fd: BorrowedFd<'_>, direction: Direction) -> Self {
        let read = direction.contains(Direction::READ).then_some(Interest::READABLE);
        let write = direction.contains(Direction::WRITE).then_some(Interest::WRITABLE);
        let both = read.into_iter().chain(write).reduce(Interest::add);
        let interest = both.unwrap_or(Interest::READABLE);
        Self { generation, dial, fd: fd.as_raw_fd(), interest }
    }
}

impl Wire {
    /// Starts to connect.
    pub(crate) fn connect(&mut self, connect: Connect, dialler: Option<&mut Dialler>) {
        let way = match (connect.dial(), dialler) {
            (Some(dial), _) => Way::Dialing(Box::new(dial)),
            (None, Some(dialler)) => Way::Made(Some(dialler(&connect))),
            (None, None) => Way::Made(Some(Err(Error::stopped()))),
        };
        self.0 = Some((connect, way));
    }

    /// Takes the next steps towards a connection. The outcome, once there is one.
    pub(crate) fn advance(&mut self, now: Instant) -> Option<(u64, Result<IoMode, Error>)> {
        let (connect, way) = self.0.as_mut()?;
        let made = match way {
            Way::Open(_) => return None,
            Way::Made(made) => made.take()?,
            Way::Dialing(dial) => dial.proceed(now).transpose()?.map_err(Error::from),
        };
        let generation = connect.generation;
        let result = made.and_then(|connection| {
            *way = Way::Open(connect.prepare(connection)?);
            Ok(IoMode::Vectored)
        });
        if result.is_err() {
            self.0 = None;
        }
        Some((generation, result))
    }

    /// When [`advance`](Self::advance) has something to do, if nothing happens before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match &self.0 {
            Some((_, Way::Dialing(dial))) => dial.next_deadline(),
            _ => None,
        }
    }

    pub(crate) const fn connection(&self) -> Option<&Connection> {
        match &self.0 {
            Some((_, Way::Open(connection))) => Some(connection),
            _ => None,
        }
    }

    /// The stream, for a few calls that do not wait.
    pub(crate) fn stream(&self) -> Option<SocketIo<'_>> {
        Some(SocketIo::non_blocking(self.connection()?.stream.as_fd()))
    }

    /// Sends nothing more.
    pub(crate) fn shut_down(&self, which: u64) {
        if self.0.as_ref().is_some_and(|(connect, _)| connect.generation == which) {
            self.stream().iter_mut().for_each(SocketIo::shut_down);
        }
    }

    /// Closes what is of no use any more, after a last word that does not wait.
    pub(crate) fn close(&mut self, which: u64, last_word: &[u8]) {
        if self.0.as_ref().is_some_and(|(connect, _)| connect.generation <= which) {
            // Whether it arrives changes nothing.
            let _ = self.stream().map(|mut stream| stream.write(last_word));
            self.0 = None;
        }
    }

    /// What to watch: the stream for the direction that the session waits for, or what the way
    /// to it waits for. The end of a connection shows as something to read, always.
    pub(crate) fn watched(&self, direction: Direction, watch: &mut Vec<Watched>) {
        let Some((Connect { generation, .. }, way)) = &self.0 else { return };
        match way {
            Way::Made(_) => {}
            Way::Dialing(dial) => watch.extend(
                dial.fds()
                    .map(|one| Watched::new(*generation, Some(one.id), one.fd, one.direction)),
            ),
            Way::Open(connection) => {
                let fd = connection.stream.as_fd();
                watch.push(Watched::new(*generation, None, fd, direction | Direction::READ));
            }
        }
    }
}
