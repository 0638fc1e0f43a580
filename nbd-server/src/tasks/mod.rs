//! A server in tasks of tokio: one for each listening socket, and one for each client.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the server at work, and how it ends |
//! | `client` | the task of one client |
//! | `execute` | where requests are carried out |
//! | `wait` | how a task waits |

mod client;
mod execute;
mod wait;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use nbd_proto::Direction;
use nbd_transport::Connection;
use nbd_transport::tls::TlsAcceptor;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clients::{Clients, check_gone};
use crate::config::Shared;
use crate::connection::handshake::{Established, Handshake};
use crate::event::Event;
use crate::exports::{Opened, check_size};
use crate::listener::{Listener, is_short_of_descriptors, is_transient};
use crate::peer::Peer;
use crate::pool::{Pool, Request};
use client::ClientTask;
use execute::{Executor, ExportsQuery};
use wait::{TaskWaker, register};

/// How much longer than they may clients take to come to an end.
const LATE: Duration = Duration::from_secs(2);

/// How long to wait before trying again when the system is short of something.
const SHORTAGE: Duration = Duration::from_millis(100);

/// A server at work in tasks, until it is stopped. When it is dropped its clients get the
/// replies to what they have asked, in tasks that nobody waits for.
#[derive(Debug)]
pub struct AsyncServerHandle {
    core: Arc<Core>,
    uris: Vec<String>,
    acceptors: Vec<JoinHandle<()>>,
    /// Ends when every task of a client has, and of a request.
    ended: mpsc::Receiver<()>,
}

/// What all tasks of a server know.
#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    clients: Arc<Clients>,
    pool: Arc<Pool<Request>>,
    /// Clients that wait for what the exports say.
    exports_queries: Arc<Pool<ExportsQuery>>,
    runtime: Handle,
    /// Wake the acceptors.
    task_wakers: Vec<Arc<TaskWaker>>,
    /// Held by each task of a client, and of a request.
    present: std::sync::Mutex<Option<mpsc::Sender<()>>>,
}

impl AsyncServerHandle {
    pub(crate) fn spawn(shared: Shared, listeners: Vec<Listener>) -> io::Result<Self> {
        let tls = shared.tls.is_offered();
        let uris =
            listeners.iter().map(|listener| listener.uri("", tls)).collect::<io::Result<_>>()?;
        let runtime = Handle::current();
        let pool = Arc::new(Pool::new(shared.limits.max_workers));
        let exports_queries = Arc::new(Pool::new(shared.limits.max_workers));
        let (present, ended) = mpsc::channel(1);
        let mut sockets = Vec::new();
        for listener in listeners {
            let listener = Arc::new(listener);
            for socket in listener.sockets() {
                sockets.push((register(socket.try_clone()?)?, Arc::clone(&listener)));
            }
        }
        let core = Arc::new(Core {
            shared: Arc::new(shared),
            clients: Arc::default(),
            pool,
            exports_queries,
            runtime,
            task_wakers: sockets.iter().map(|_| Arc::default()).collect(),
            present: std::sync::Mutex::new(Some(present)),
        });
        let acceptors = sockets
            .into_iter()
            .zip(core.task_wakers.clone())
            .map(|((socket, listener), task_waker)| {
                tokio::spawn(accept(socket, listener, task_waker, Arc::clone(&core)))
            })
            .collect();
        Ok(Self { core, uris, acceptors, ended })
    }

    /// Where clients on this machine connect to, in the order of the listeners. They lead to the
    /// default export.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// Serves one more client, over a stream socket that is connected already. It counts as any
    /// other.
    ///
    /// # Errors
    /// When it is no stream socket, when the server has stopped, and when the system is short of
    /// descriptors.
    pub fn serve(&self, stream: impl Into<OwnedFd>) -> io::Result<()> {
        let connection = Connection::from_socket(stream.into()).map_err(io::Error::other)?;
        let socket = OwnedFd::from(connection.stream);
        let peer = Peer::of(&socket);
        self.core.take_in(socket, peer)
    }

    /// Serves one more client that has negotiated already, as
    /// [`ServerHandle::serve_negotiated`](crate::ServerHandle::serve_negotiated) does.
    ///
    /// # Errors
    /// As that has.
    pub fn serve_negotiated(
        &self,
        stream: impl Into<OwnedFd>,
        negotiated: nbd_proto::Server,
        export: Opened,
    ) -> io::Result<()> {
        let connection = Connection::from_socket(stream.into()).map_err(io::Error::other)?;
        check_size(export.export.size())?;
        let present = self.core.going()?;
        let socket = OwnedFd::from(connection.stream);
        let (peer, task_waker) = (Peer::of(&socket), Arc::new(TaskWaker::default()));
        let most = self.core.shared.limits.max_connections;
        let place = self
            .core
            .clients
            .admit_settled(Waker::from(Arc::clone(&task_waker)), most)
            .map_err(|connections| self.core.shared.too_many_connections(&peer, connections))?;
        let client = self.core.attend(register(socket)?, task_waker, present);
        self.core.shared.tell(&Event::Connected { peer: &peer });
        let established = Established::elsewhere(negotiated, export, peer);
        self.core.runtime.spawn(async move {
            client.run(established, &place).await;
        });
        Ok(())
    }

    /// Serves one more client, over any stream: one that another protocol has given up, or that
    /// is none of the system's. Costs a copy of its bytes, through a pair of sockets.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_stream<S>(&self, mut stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut ours = tokio::net::UnixStream::from_std(ours)?;
        self.core.take_in(theirs.into(), Peer::unknown())?;
        tokio::spawn(async move {
            // How it ends is told by the connection.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut ours).await;
        });
        Ok(())
    }

    /// Newcomers get these credentials from now on. Only a server that was started with some
    /// uses them.
    pub fn set_tls(&self, acceptor: TlsAcceptor) {
        self.core.shared.tls.replace(acceptor);
    }

    /// Begins to stop, as [`ServerHandle::shut_down`](crate::ServerHandle::shut_down) does.
    pub fn shut_down(&self) {
        self.core.stop();
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    /// When a task that takes clients in has failed, which stops the server.
    pub async fn wait(&mut self) -> io::Result<()> {
        let mut failed = false;
        for acceptor in &mut self.acceptors {
            failed |= acceptor.await.is_err();
        }
        self.acceptors.clear();
        if self.core.task_wakers.is_empty() && self.core.clients.stop_by().is_none() {
            // Without listeners only a stop ends it.
            while self.ended.recv().await.is_some() {}
        }
        self.core.stop();
        let deadline = self.core.clients.stop_by().unwrap_or_else(Instant::now) + LATE;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (mut clients, mut requests) = (0, 0);
        if timeout(left(), self.ended.recv()).await.is_err() {
            clients = self.core.clients.wait(Duration::ZERO);
            requests = self.ended.sender_strong_count().saturating_sub(clients);
        }
        let (pool, limit) = (Arc::clone(&self.core.pool), left());
        requests += match pool.wait(Duration::ZERO) {
            0 => 0,
            _ => tokio::task::spawn_blocking(move || pool.wait(limit)).await.unwrap_or(0),
        };
        if failed {
            return Err(io::Error::other("a task that takes clients in has failed"));
        }
        check_gone(clients, requests)
    }

    /// Stops, and waits for it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn stop(mut self) -> io::Result<()> {
        self.shut_down();
        self.wait().await
    }
}

impl Drop for AsyncServerHandle {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Core {
    fn present(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<()>>> {
        self.present.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn stop(&self) {
        self.clients.stop(self.shared.limits.stop_timeout);
        self.present().take();
        for task_waker in &self.task_wakers {
            Waker::from(Arc::clone(task_waker)).wake();
        }
    }

    /// What each task holds, unless the server has stopped.
    fn going(&self) -> io::Result<mpsc::Sender<()>> {
        let stopped = || io::Error::new(io::ErrorKind::NotConnected, "the server has stopped");
        self.present().clone().ok_or_else(stopped)
    }

    fn attend(
        &self,
        socket: AsyncFd<OwnedFd>,
        task_waker: Arc<TaskWaker>,
        present: mpsc::Sender<()>,
    ) -> ClientTask {
        let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
        let (exports_queries, runtime) = (Arc::clone(&self.exports_queries), self.runtime.clone());
        let executor = Executor { pool, exports_queries, runtime, present };
        ClientTask { socket, shared, executor, task_waker }
    }

    /// Gives a client a task.
    fn take_in(&self, socket: OwnedFd, peer: Peer) -> io::Result<()> {
        let present = self.going()?;
        let socket = register(socket)?;
        let task_waker = Arc::new(TaskWaker::default());
        let waker = Waker::from(Arc::clone(&task_waker));
        let place = self.clients.admit(|_| waker, self.shared.limits.max_handshakes);
        self.shared.tell(&Event::Connected { peer: &peer });
        let handshake =
            Box::new(Handshake::new(Arc::clone(&self.shared), peer, place, Instant::now()));
        let client = self.attend(socket, task_waker, present);
        self.runtime.spawn(client.negotiate_and_run(handshake));
        Ok(())
    }
}

/// Takes clients in.
async fn accept(
    socket: AsyncFd<OwnedFd>,
    listener: Arc<Listener>,
    task_waker: Arc<TaskWaker>,
    core: Arc<Core>,
) {
    // However this task ends, nobody waits for clients in vain.
    let _stop = StopOnDrop(Arc::clone(&core));
    while core.clients.stop_by().is_none() {
        let taken = match task_waker.wait(&socket, Direction::READ, None).await {
            Ok(Some(mut ready)) => match Listener::accept(&socket) {
                Ok(client) => {
                    let peer = Peer::of(&client);
                    core.take_in(client, peer)
                }
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        ready.clear_ready();
                    }
                    Err(error)
                }
            },
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match taken {
            // Those who were there have gone again.
            Err(error) if is_transient(error.kind()) => {}
            // Who has not chosen an export gives its descriptor to those who may.
            Err(error) if is_short_of_descriptors(&error) && core.clients.displace_one() => {
                tokio::task::yield_now().await;
            }
            Err(error) => {
                core.shared.tell(&Event::AcceptFailed { error: &error });
                // What the system is short of may be there a little later.
                tokio::time::sleep(SHORTAGE).await;
            }
            Ok(()) => {}
        }
    }
    // The sockets are gone before anybody hears that the server has stopped.
    drop((socket, listener));
}

/// Stops the server when it is dropped.
struct StopOnDrop(Arc<Core>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
