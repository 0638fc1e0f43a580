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
    /// So late it is at least, as a timer has said, should its clock be another one.
    told: Instant,
}

/// A descriptor that is waited for.
struct Socket {
    id: u32,
    direction: Direction,
    watched: Box<dyn Watched>,
}

/// What is to be done next.
type Step = Result<DialStep, ConnectError>;

impl Dialling {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, dial: Dial) -> Self {
        let (sockets, told) = (Vec::new(), Instant::now());
        Self { runtime, dial, lookup: None, sockets, timer: None, told }
    }

    fn now(&self) -> Instant {
        self.told.max(Instant::now())
    }

    fn advance(&mut self) -> Step {
        self.dial.advance(self.now())
    }

    /// Goes on as far as is possible without waiting.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Connection, ConnectError>> {
        let mut step = self.advance();
        loop {
            step = match step {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(DialStep::Connected(connection)) => return Poll::Ready(Ok(connection)),
                // As quick as anything that makes a process can be.
                Ok(DialStep::Spawn(spawn)) => {
                    self.dial.spawned(spawn.start());
                    self.advance()
                }
                Ok(DialStep::Resolve { host, port }) => {
                    let work = move || Ok((host.as_str(), port).to_socket_addrs()?.collect());
                    match unblock(&*self.runtime, work) {
                        Ok(lookup) => self.lookup = Some(lookup),
                        Err(error) => self.dial.resolved(Err(error)),
                    }
                    self.advance()
                }
                Ok(DialStep::Wait) => ready!(self.poll_events(cx)).unwrap_or_else(|error| {
                    let endpoint = self.dial.endpoint().to_string();
                    Err(ConnectError::System { endpoint, error })
                }),
            }
        }
    }

    /// Waits for what the step waits for. Returns the next one.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Step>> {
        if let Some(lookup) = &mut self.lookup
            && let Poll::Ready(answer) = Pin::new(lookup).poll(cx)
        {
            self.lookup = None;
            self.dial.resolved(answer.unwrap_or_else(|gone| Err(io::Error::other(gone))));
            return Poll::Ready(Ok(self.advance()));
        }
        self.watch()?;
        let now = self.now();
        let Self { runtime, dial, sockets, timer, .. } = self;
        for Socket { direction, watched, .. } in sockets.iter_mut() {
            let mut step = None;
            // Whether there was something to wait for is for the dial to say, not for the
            // runtime: an event may be older than the last step.
            let mut advance = |_: BorrowedFd<'_>| match dial.advance(now) {
                Ok(DialStep::Wait) => Err(io::ErrorKind::WouldBlock.into()),
                other => {
                    step = Some(other);
                    Ok(0)
                }
            };
            let poll = if direction.contains(Direction::READ) {
                watched.poll_read_io(cx, &mut advance)
            } else {
                watched.poll_write_io(cx, &mut advance)
            };
            match (step, poll) {
                (Some(step), _) => return Poll::Ready(Ok(step)),
                (None, Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
                (None, Poll::Pending | Poll::Ready(Ok(_))) => {}
            }
        }
        if !watches(dial, sockets) {
            // A step on the way has changed what there is to wait for.
            return Poll::Ready(Ok(Ok(DialStep::Wait)));
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
            Ok(()) => {
                self.told = at;
                Poll::Ready(Ok(self.advance()))
            }
            // Without timers the addresses of a host are tried one by one.
            Err(_) if !sockets.is_empty() => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
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
