//! An attempt to connect, which goes on while nobody waits for it.

use std::fmt;
use std::io::{PipeReader, Write, pipe};
use std::mem;
use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nbd_proto::Direction;
use nbd_session::{Connect, Error};
use nbd_transport::{Connection, Dial, DialStep};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::trace;

/// A function of the caller's.
pub(crate) struct Function<T: ?Sized>(pub(crate) Arc<T>);

impl<T: ?Sized> fmt::Debug for Function<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").finish_non_exhaustive()
    }
}

pub(crate) type Dialler = dyn Fn(Option<Instant>) -> Result<Connection, Error> + Send + Sync;

/// Where connections come from that do not lead to an endpoint.
#[derive(Debug)]
pub(crate) enum Source {
    None,
    /// One that was there already: the first.
    Given(Option<Box<Connection>>),
    /// The caller's own way.
    Dialler(Function<Dialler>),
}

/// An attempt. Dropping it waits for nothing.
#[derive(Debug)]
pub(crate) struct Dialling {
    pub(crate) connect: Connect,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Steps(Box<Dial>),
    Thread(Own),
    Known(Result<Connection, Error>),
    Over,
}

impl Dialling {
    pub(crate) fn begin(connect: Connect, source: &mut Source) -> Self {
        let way = match (connect.dial(), source) {
            (Some(dial), _) => Way::Steps(Box::new(dial)),
            (None, Source::Given(given)) => {
                Way::Known(given.take().map(|given| *given).ok_or_else(Error::stopped))
            }
            // Whoever connects for the first time waits for it in any case.
            (None, Source::Dialler(dial)) if connect.generation == 1 => {
                Way::Known((dial.0)(connect.by))
            }
            (None, Source::Dialler(dial)) => match Own::begin(&dial.0, connect.by) {
                Ok(own) => Way::Thread(own),
                Err(error) => Way::Known(Err(error.into())),
            },
            (None, Source::None) => Way::Known(Err(Error::stopped())),
        };
        Self { connect, way }
    }

    /// Goes on as far as that goes without waiting. What it led to, once.
    pub(crate) fn advance(&mut self, now: Instant) -> Option<Result<Connection, Error>> {
        match mem::replace(&mut self.way, Way::Over) {
            Way::Steps(dial) => self.step(dial, now),
            Way::Thread(own) if own.is_through() => Some(own.finish()),
            Way::Known(outcome) => Some(outcome),
            way @ (Way::Thread(_) | Way::Over) => {
                self.way = way;
                None
            }
        }
    }

    fn step(&mut self, mut dial: Box<Dial>, now: Instant) -> Option<Result<Connection, Error>> {
        loop {
            match dial.advance(now) {
                Ok(DialStep::Connected(connection)) => return Some(Ok(connection)),
                Ok(DialStep::Spawn(spawn)) => dial.spawned(spawn.start()),
                // The system's resolver cannot be told when to stop, so it works in a thread
                // where there is a limit.
                Ok(DialStep::Resolve { host, port }) if self.connect.by.is_some() => {
                    dial.look_up(host, port);
                }
                Ok(DialStep::Resolve { host, port }) => {
                    dial.resolved((host, port).to_socket_addrs().map(Iterator::collect));
                }
                Ok(DialStep::Wait) => {
                    self.way = Way::Steps(dial);
                    return None;
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// What to poll before the next look.
    pub(crate) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let (dial, bell) = match &self.way {
            Way::Steps(dial) => (Some(dial), None),
            Way::Thread(own) => (None, Some(own.bell.as_fd())),
            Way::Known(_) | Way::Over => (None, None),
        };
        let bell = bell.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let sockets = dial.into_iter().flat_map(|dial| dial.fds());
        let sockets = sockets.map(|waited| {
            let write = waited.direction.contains(Direction::WRITE);
            let events = if write { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(waited.fd, events)
        });
        bell.into_iter().chain(sockets)
    }

    /// When to look again at the latest.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        match &self.way {
            Way::Steps(dial) => dial.next_deadline(),
            Way::Thread(_) | Way::Known(_) | Way::Over => None,
        }
    }
}

/// A caller's own way to connect, in a thread that ends with the attempt: it outlives the call
/// in which it was begun, however short that is.
#[derive(Debug)]
struct Own {
    /// Has something to read, or is at its end, once the thread is through.
    bell: PipeReader,
    thread: JoinHandle<Result<Connection, Error>>,
}

impl Own {
    fn begin(dialler: &Arc<Dialler>, by: Option<Instant>) -> std::io::Result<Self> {
        let (bell, mut rope) = pipe()?;
        let dialler = Arc::clone(dialler);
        let connect = trace::carried(move || {
            let outcome = dialler(by);
            // Closing it is not enough: a process that was forked meanwhile holds it open.
            let _ = rope.write_all(b"!");
            outcome
        });
        let thread = thread::Builder::new().name("nbd-reconnect".to_owned()).spawn(connect)?;
        Ok(Self { bell, thread })
    }

    fn is_through(&self) -> bool {
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN)];
        !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// A panic in a caller's way to connect was told of there.
    fn finish(self) -> Result<Connection, Error> {
        self.thread.join().unwrap_or_else(|_| Err(Error::stopped()))
    }
}
