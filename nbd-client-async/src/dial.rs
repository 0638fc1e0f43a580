//! Connecting, as a runtime does it: the steps of a [`Dial`], none of which keeps it waiting.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use nbd_proto::Direction;
use nbd_transport::{ConnectError, Connection, Dial, DialStep};

use crate::runtime::{Runtime, Sleep, Unblocked, Watched, unblock};

/// A connection on its way. Dropping it gives it up.
pub(crate) struct Dialling {
    runtime: Arc<dyn Runtime>,
    dial: Dial,
    lookup: Option<Unblocked<io::Result<Vec<SocketAddr>>>>,
    sockets: Vec<Socket>,
    timer: Option<(Instant, Sleep)>,
}

/// A descriptor that is waited for.
struct Socket {
    id: u32,
    direction: Direction,
    watched: Box<dyn Watched>,
}

/// What a connection on its way came to.
type Outcome = Result<Connection, ConnectError>;

impl Dialling {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, dial: Dial) -> Self {
        Self { runtime, dial, lookup: None, sockets: Vec::new(), timer: None }
    }

    /// What to tell when patience is over.
    pub(crate) fn timed_out(&mut self) -> ConnectError {
        self.dial.timed_out()
    }

    /// Goes on as far as is possible without waiting.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            match self.dial.advance(Instant::now()) {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(DialStep::Connected(connection)) => return Poll::Ready(Ok(connection)),
                // As quick as anything that makes a process can be.
                Ok(DialStep::Spawn(spawn)) => self.dial.spawned(spawn.start()),
                Ok(DialStep::Resolve { host, port }) => {
                    let work = move || Ok((host.as_str(), port).to_socket_addrs()?.collect());
                    match unblock(&*self.runtime, work) {
                        Ok(lookup) => self.lookup = Some(lookup),
                        Err(error) => self.dial.resolved(Err(error)),
                    }
                }
                Ok(DialStep::Wait) => {
                    if let Some(outcome) = ready!(self.poll_events(cx)) {
                        return Poll::Ready(outcome);
                    }
                }
            }
        }
    }

    /// Waits for what the step waits for. `None` when the next one may be worth a try.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        if let Some(lookup) = &mut self.lookup {
            let answer = ready!(Pin::new(lookup).poll(cx));
            self.lookup = None;
            self.dial.resolved(answer.unwrap_or_else(|gone| Err(io::Error::other(gone))));
            return Poll::Ready(None);
        }
        let fault = |dial: &Dial, error| {
            let endpoint = dial.endpoint().to_string();
            Poll::Ready(Some(Err(ConnectError::System { endpoint, error })))
        };
        if let Err(error) = self.watch() {
            return fault(&self.dial, error);
        }
        let Self { runtime, dial, sockets, timer, .. } = self;
        for socket in sockets.iter_mut() {
            let mut step = None;
            // Whether there was something to wait for is for the dial to say, not for the
            // runtime: an event may be older than the last step.
            let mut advance = |_: BorrowedFd<'_>| match dial.advance(Instant::now()) {
                Ok(DialStep::Wait) => Err(io::ErrorKind::WouldBlock.into()),
                other => {
                    step = Some(other);
                    Ok(0)
                }
            };
            let poll = if socket.direction.contains(Direction::READ) {
                socket.watched.poll_read_io(cx, &mut advance)
            } else {
                socket.watched.poll_write_io(cx, &mut advance)
            };
            match (step, poll) {
                (Some(Ok(DialStep::Connected(connection))), _) => {
                    return Poll::Ready(Some(Ok(connection)));
                }
                (Some(Err(error)), _) => return Poll::Ready(Some(Err(error))),
                // Asked for in the beginning only.
                (Some(Ok(DialStep::Resolve { .. } | DialStep::Spawn(_) | DialStep::Wait)), _)
                | (None, Poll::Pending) => {}
                (None, Poll::Ready(Err(error))) => return fault(dial, error),
                (None, Poll::Ready(Ok(_))) => return Poll::Ready(None),
            }
        }
        if !watches(dial, sockets) {
            // A step on the way has changed what there is to wait for.
            return Poll::Ready(None);
        }
        let Some(at) = dial.next_deadline() else {
            *timer = None;
            return Poll::Pending;
        };
        if timer.as_ref().is_none_or(|(set, _)| *set != at) {
            *timer = Some((at, runtime.sleep_until(at)));
        }
        let Some((_, sleep)) = timer else { return Poll::Pending };
        let slept = ready!(sleep.as_mut().poll(cx));
        *timer = None;
        match slept {
            Ok(()) => Poll::Ready(None),
            // Without timers the addresses of a host are tried one by one.
            Err(_) if !sockets.is_empty() => Poll::Pending,
            Err(error) => fault(dial, error),
        }
    }

    /// Watches what is waited for, and nothing else.
    fn watch(&mut self) -> io::Result<()> {
        let Self { runtime, dial, sockets, .. } = self;
        sockets.retain(|socket| dial.fds().any(|waited| waited.id == socket.id));
        for waited in dial.fds() {
            if sockets.iter().any(|socket| socket.id == waited.id) {
                continue;
            }
            let watched = runtime.watch(waited.fd.try_clone_to_owned()?)?;
            sockets.push(Socket { id: waited.id, direction: waited.direction, watched });
        }
        Ok(())
    }
}

/// Whether what is waited for is what is watched.
fn watches(dial: &Dial, sockets: &[Socket]) -> bool {
    dial.fds().count() == sockets.len()
        && dial.fds().all(|waited| sockets.iter().any(|socket| socket.id == waited.id))
}
