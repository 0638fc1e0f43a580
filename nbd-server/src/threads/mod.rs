//! A server in threads: one that takes clients in, one for each client, and some in which
//! requests wait.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the server at work, and how it ends |
//! | `attend` | the thread of one client |
//! | `wait` | how a thread waits |

mod attend;
mod wait;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nbd_transport::Connection;
use nbd_transport::tls::TlsAcceptor;

use crate::clients::Clients;
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::event::Event;
use crate::listener::{Listener, is_passing};
use crate::peer::Peer;
use crate::pool::Pool;
use attend::Attendance;
use wait::Alarm;

/// How much longer than they may clients take to come to an end: on a busy machine their threads
/// are a little late. Only one that is stuck in its export is not waited for.
const LATE: Duration = Duration::from_secs(2);

/// A thread of a client needs little: payload is not kept on the stack.
const STACK: usize = 256 << 10;

/// How long to wait before trying again when the system is short of something.
const SHORTAGE: Duration = Duration::from_millis(100);

/// A server at work, until it is stopped or dropped.
#[derive(Debug)]
pub struct ServerHandle {
    core: Arc<Core>,
    uris: Vec<String>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

/// What all threads of a server know.
#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    clients: Arc<Clients>,
    pool: Arc<Pool>,
    /// Wakes the acceptor.
    alarm: Arc<Alarm>,
    accepting: Mutex<Accepting>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    Goes,
    Stopped,
    Failed,
}

impl ServerHandle {
    pub(crate) fn start(shared: Shared, listeners: Vec<Listener>) -> io::Result<Self> {
        let tls = shared.tls.is_offered();
        let uris =
            listeners.iter().map(|listener| listener.uri("", tls)).collect::<io::Result<_>>()?;
        let core = Arc::new(Core::new(shared)?);
        let acceptor = Acceptor { listeners, core: Arc::clone(&core) };
        let thread = thread::Builder::new().name("accept".to_owned());
        let acceptor = thread.spawn(move || acceptor.run())?;
        Ok(Self { core, uris, acceptor: Mutex::new(Some(acceptor)) })
    }

    /// Where clients on this machine connect to, in the order of the listeners. They lead to the
    /// default export.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// Serves one more client, over a stream socket that is connected already: one end of a pair, or one
    /// that another protocol has given up. It counts as any other.
    ///
    /// # Errors
    /// When it is no stream socket, when there are too many clients, and when the system is short
    /// of threads or descriptors.
    pub fn serve(&self, stream: impl Into<OwnedFd>) -> io::Result<()> {
        let connection = Connection::from_socket(stream.into()).map_err(io::Error::other)?;
        let socket = OwnedFd::from(connection.stream);
        self.core.take_in(socket)
    }

    /// Newcomers get these credentials from now on. Only a server that was started with some
    /// uses them.
    pub fn set_tls(&self, acceptor: TlsAcceptor) {
        self.core.shared.tls.replace(acceptor);
    }

    /// Begins to stop: no more clients are taken in, and the others get the replies to what they
    /// have asked, for as long as [`Limits::stop_timeout`](crate::Limits::stop_timeout) says.
    /// Does not wait for it.
    pub fn shut_down(&self) {
        self.core.stop();
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    /// When the thread that takes clients in has failed, which stops the server.
    pub fn wait(&self) -> io::Result<()> {
        let accepting = self.core.wait_for_acceptor();
        self.core.stop();
        if let Some(acceptor) = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // A panic has been reported by the thread itself.
            let _ = acceptor.join();
        }
        let grace =
            self.core.clients.stop_by().map_or(Duration::ZERO, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
        let _all_left = self.core.clients.wait(grace + LATE);
        match accepting {
            Accepting::Failed => {
                Err(io::Error::other("the thread that takes clients in has failed"))
            }
            Accepting::Goes | Accepting::Stopped => Ok(()),
        }
    }

    /// Stops, and waits for it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn stop(self) -> io::Result<()> {
        self.shut_down();
        self.wait()
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.shut_down();
        let _ = self.wait();
    }
}

impl Core {
    fn new(shared: Shared) -> io::Result<Self> {
        Ok(Self {
            clients: Arc::default(),
            pool: Arc::new(Pool::new(shared.limits.max_workers)),
            shared: Arc::new(shared),
            alarm: Arc::new(Alarm::new()?),
            accepting: Mutex::new(Accepting::Goes),
            changed: Condvar::new(),
        })
    }

    fn stop(&self) {
        self.clients.stop(self.shared.limits.stop_timeout);
        Waker::from(Arc::clone(&self.alarm)).wake();
    }

    fn accepting(&self) -> MutexGuard<'_, Accepting> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_acceptor(&self) -> Accepting {
        *self
            .changed
            .wait_while(self.accepting(), |accepting| *accepting == Accepting::Goes)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a client a thread.
    fn take_in(&self, socket: OwnedFd) -> io::Result<()> {
        let peer = Peer::of(&socket);
        let alarm = Arc::new(Alarm::new()?);
        let waker = Waker::from(Arc::clone(&alarm));
        let place = match self.clients.admit(waker, &self.shared.limits) {
            Ok(place) => place,
            Err(connections) => {
                self.shared.tell(&Event::TurnedAway { peer: &peer, connections });
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many clients"));
            }
        };
        self.shared.tell(&Event::Connected { peer: &peer });
        let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
        let attendance = Attendance { socket, peer, shared, pool, place, alarm };
        thread::Builder::new()
            .name("connection".to_owned())
            .stack_size(STACK)
            .spawn(move || drop(attendance.run()))
            .map(drop)
    }
}

/// Serves one client in the thread of the caller.
pub(crate) fn serve_one(shared: Shared, socket: OwnedFd) -> Result<(), ConnectionError> {
    let core = Core::new(shared)?;
    let peer = Peer::of(&socket);
    let alarm = Arc::new(Alarm::new()?);
    let waker = Waker::from(Arc::clone(&alarm));
    let full = |_| io::Error::new(io::ErrorKind::QuotaExceeded, "too many clients");
    let place = core.clients.admit(waker, &core.shared.limits).map_err(full)?;
    let Core { shared, pool, .. } = core;
    Attendance { socket, peer, shared, pool, place, alarm }.run()
}

/// Takes clients in.
struct Acceptor {
    listeners: Vec<Listener>,
    core: Arc<Core>,
}

impl Acceptor {
    fn run(self) {
        let core = Arc::clone(&self.core);
        // However this thread ends, somebody hears of it.
        let mut ended = Ended { core: &core, accepting: Accepting::Failed };
        let stopped = || core.clients.stop_by().is_some();
        while !stopped() {
            if let Err(error) = self.wait_and_take_in() {
                core.shared.tell(&Event::AcceptFailed { error: &error });
                // What the system is short of may be there a little later.
                let _ = core.alarm.wait_for_any(&[] as &[OwnedFd], Some(Instant::now() + SHORTAGE));
            }
        }
        ended.accepting = Accepting::Stopped;
        // The sockets are gone before anybody hears that the server has stopped.
        drop(self.listeners);
    }

    fn wait_and_take_in(&self) -> io::Result<()> {
        let sockets: Vec<_> = self.listeners.iter().flat_map(Listener::sockets).collect();
        self.core.alarm.wait_for_any(&sockets, None)?;
        for socket in sockets {
            let socket = match Listener::accept(socket) {
                Ok(socket) => socket,
                // Those who were there have gone again.
                Err(error) if is_passing(error.kind()) => continue,
                Err(error) => return Err(error),
            };
            match self.core.take_in(socket) {
                // That has been told.
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {}
                taken => taken?,
            }
        }
        Ok(())
    }
}

/// Says that no more clients are taken in, when it is dropped.
struct Ended<'a> {
    core: &'a Core,
    accepting: Accepting,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.core.accepting() = self.accepting;
        self.core.changed.notify_all();
    }
}
