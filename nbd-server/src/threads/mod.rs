//! A server in threads: one in which clients come in and negotiate, one for each client that has
//! chosen an export, and some in which requests wait.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the server at work, and how it ends |
//! | `lobby` | where clients come in and negotiate |
//! | `door` | what is put down for it |
//! | `attend` | the thread of one client |
//! | `wait` | how a thread waits |

mod attend;
mod door;
mod lobby;
mod wait;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nbd_transport::Connection;
use nbd_transport::tls::TlsAcceptor;

use crate::clients::{Clients, Place};
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Established, Handshake};
use crate::event::Event;
use crate::listener::Listener;
use crate::peer::Peer;
use crate::pool::{Pool, Request};
use attend::Attendance;
use door::{Asking, Door, News};
use lobby::Lobby;
use wait::Alarm;

/// How much longer than they may clients take to come to an end: on a busy machine their threads
/// are a little late. Only one that is stuck in its export is not waited for.
const LATE: Duration = Duration::from_secs(2);

/// A thread of a client needs little: payload is not kept on the stack.
const STACK: usize = 256 << 10;

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
    pool: Arc<Pool<Request>>,
    /// Clients that wait for what the exports say.
    asking: Pool<Asking>,
    door: Arc<Door>,
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
        let lobby = Lobby::new(Arc::clone(&core), listeners)?;
        let acceptor = thread::Builder::new().name("accept".to_owned()).spawn(|| lobby.run())?;
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
    /// When it is no stream socket, and when the server has stopped.
    pub fn serve(&self, stream: impl Into<OwnedFd>) -> io::Result<()> {
        let connection = Connection::from_socket(stream.into()).map_err(io::Error::other)?;
        if *self.core.accepting() != Accepting::Goes {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the server has stopped"));
        }
        let socket = OwnedFd::from(connection.stream);
        let handshake = self.core.admit(&socket);
        self.core.door.put(News::Arrived(socket, handshake));
        Ok(())
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
            asking: Pool::new(shared.limits.max_workers),
            shared: Arc::new(shared),
            door: Arc::new(Door::new(Arc::new(Alarm::new()?))),
            accepting: Mutex::new(Accepting::Goes),
            changed: Condvar::new(),
        })
    }

    fn stop(&self) {
        self.clients.stop(self.shared.limits.stop_timeout);
        self.door.alarm.wake_by_ref();
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

    /// Takes a client in, to negotiate with it.
    fn admit(&self, socket: &OwnedFd) -> Box<Handshake> {
        self.admit_as(socket, |number| self.door.waker(number))
    }

    fn admit_as(&self, socket: &OwnedFd, waker: impl FnOnce(u64) -> Waker) -> Box<Handshake> {
        let peer = Peer::of(socket);
        let place = self.clients.admit(waker, self.shared.limits.max_handshakes);
        self.shared.tell(&Event::Connected { peer: &peer });
        Box::new(Handshake::new(Arc::clone(&self.shared), peer, place, Instant::now()))
    }

    /// Gives a client a thread.
    fn attend(
        &self,
        socket: OwnedFd,
        established: Established,
        place: Place,
        alarm: Alarm,
    ) -> io::Result<()> {
        let alarm = Arc::new(alarm);
        place.wake_with(Waker::from(Arc::clone(&alarm)));
        let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
        let attendance = Attendance { socket, shared, pool, alarm };
        thread::Builder::new()
            .name("connection".to_owned())
            .stack_size(STACK)
            .spawn(move || drop(attendance.run(established, &place)))
            .map(drop)
    }
}

/// Serves one client in the thread of the caller.
pub(crate) fn serve_one(shared: Shared, socket: OwnedFd) -> Result<(), ConnectionError> {
    let core = Core::new(shared)?;
    let alarm = Arc::new(Alarm::new()?);
    let handshake = core.admit_as(&socket, |_| Waker::from(Arc::clone(&alarm)));
    let Core { shared, pool, .. } = core;
    Attendance { socket, shared, pool, alarm }.negotiate_and_run(*handshake)
}

/// Says that no more clients are taken in, when it is dropped.
struct Ended<'a> {
    core: &'a Core,
    accepting: Accepting,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.core.door.close();
        *self.core.accepting() = self.accepting;
        self.core.changed.notify_all();
    }
}
