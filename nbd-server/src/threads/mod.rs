//! A server in threads: one in which clients come in and negotiate, one for each client that has
//! chosen an export, and some in which requests wait.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the server at work, and how it ends |
//! | `acceptor` | where clients come in and negotiate |
//! | `inbox` | what is put down for it |
//! | `client` | the thread of one client |
//! | `wait` | how a thread waits |

mod acceptor;
mod client;
mod inbox;
mod wait;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nbd_transport::Connection;
use nbd_transport::tls::TlsAcceptor;

use crate::clients::{Clients, Place, check_gone};
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Established, Handshake};
use crate::event::Event;
use crate::exports::{Opened, check_size};
use crate::listener::Listener;
use crate::peer::Peer;
use crate::pool::{Pool, Request};
use acceptor::Acceptor;
use client::ClientThread;
use inbox::{ExportsQuery, Inbox, Message};
use wait::ThreadWaker;

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
    exports_queries: Pool<ExportsQuery>,
    inbox: Arc<Inbox>,
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
        let acceptor = Acceptor::new(Arc::clone(&core), listeners)?;
        let acceptor = thread::Builder::new().name("accept".to_owned()).spawn(|| acceptor.run())?;
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
        self.core.check_going()?;
        let socket = OwnedFd::from(connection.stream);
        let handshake = self.core.admit(Peer::of(&socket));
        self.core.inbox.put(Message::Arrived(socket, handshake));
        Ok(())
    }

    /// Serves one more client, over two streams such as standard input and output, or one that is
    /// none of the system's. Costs a copy of its bytes, a pair of sockets, and two threads; the
    /// one that reads ends when its stream does.
    ///
    /// # Errors
    /// When the server has stopped, and when the system is short of threads or descriptors.
    pub fn serve_stream<R, W>(&self, reader: R, writer: W) -> io::Result<()>
    where
        R: Read + Send + 'static,
        W: Write + Send + 'static,
    {
        self.core.check_going()?;
        let (ours, theirs) = UnixStream::pair()?;
        let last = self.core.clients.track();
        bridge(reader, writer, ours, last)?;
        let handshake = self.core.admit(Peer::unknown());
        self.core.inbox.put(Message::Arrived(theirs.into(), handshake));
        Ok(())
    }

    /// Serves one more client that has negotiated already, over a stream socket in clear, such as
    /// the kernel's driver, or one that speaks another protocol first. `negotiated` is what
    /// the negotiation has led to, a [`nbd_proto::Server`] ([`ServerNegotiation::finish`]), `export` what was described to the
    /// client ([`Opened::info`](crate::Opened::info)).
    ///
    /// [`ServerNegotiation::finish`]: nbd_proto::ServerNegotiation::finish
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use std::sync::Arc;
    /// use nbd_server::proto::{Discard, Machine, ServerConfig, ServerNegotiation};
    /// use nbd_server::{MemoryExport, Opened, Server};
    ///
    /// let server = Server::new(MemoryExport::new(1 << 20)).start()?;
    /// // What the kernel is told of a device needs no words on the wire.
    /// let disk = Opened::new("", Arc::new(MemoryExport::new(1 << 20)));
    /// let mut negotiation = ServerNegotiation::oldstyle(ServerConfig::new(), disk.info(32 << 20));
    /// negotiation.drain(&mut Vec::new(), &Discard).expect("a greeting");
    /// let machine = negotiation.finish().expect("nothing to negotiate");
    /// let (kernel, ours) = UnixStream::pair()?;
    /// server.serve_negotiated(ours, machine, disk)?;
    /// # drop(kernel);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// When it is no stream socket, when the export is too large, when as many clients use an export as may, when the server
    /// has stopped, and when the system is short of threads or descriptors.
    pub fn serve_negotiated(
        &self,
        stream: impl Into<OwnedFd>,
        negotiated: nbd_proto::Server,
        export: Opened,
    ) -> io::Result<()> {
        let connection = Connection::from_socket(stream.into()).map_err(io::Error::other)?;
        check_size(export.export.size())?;
        self.core.check_going()?;
        let socket = OwnedFd::from(connection.stream);
        let (peer, thread_waker) = (Peer::of(&socket), ThreadWaker::new()?);
        let most = self.core.shared.limits.max_connections;
        let place = self
            .core
            .clients
            .admit_settled(Waker::noop().clone(), most)
            .map_err(|connections| self.core.shared.too_many_connections(&peer, connections))?;
        self.core.shared.tell(&Event::Connected { peer: &peer });
        self.core.attend(
            socket,
            Established::elsewhere(negotiated, export, peer),
            place,
            thread_waker,
        )
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
        let deadline = self.core.clients.stop_by().unwrap_or_else(Instant::now) + LATE;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (clients, requests) = (self.core.clients.wait(left()), self.core.pool.wait(left()));
        match accepting {
            Accepting::Failed => {
                Err(io::Error::other("the thread that takes clients in has failed"))
            }
            Accepting::Goes | Accepting::Stopped => check_gone(clients, requests),
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
        let acceptor = self.acceptor.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Otherwise it has been waited for, and who has not left will not.
        if acceptor.is_some() {
            self.shut_down();
            let _ = self.wait();
        }
    }
}

impl Core {
    fn new(shared: Shared) -> io::Result<Self> {
        Ok(Self {
            clients: Arc::default(),
            pool: Arc::new(Pool::new(shared.limits.max_workers)),
            exports_queries: Pool::new(shared.limits.max_workers),
            shared: Arc::new(shared),
            inbox: Arc::new(Inbox::new(Arc::new(ThreadWaker::new()?))),
            accepting: Mutex::new(Accepting::Goes),
            changed: Condvar::new(),
        })
    }

    fn stop(&self) {
        self.clients.stop(self.shared.limits.stop_timeout);
        self.inbox.thread_waker.wake_by_ref();
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

    fn check_going(&self) -> io::Result<()> {
        match *self.accepting() {
            Accepting::Goes => Ok(()),
            Accepting::Stopped | Accepting::Failed => {
                Err(io::Error::new(io::ErrorKind::NotConnected, "the server has stopped"))
            }
        }
    }

    /// Takes a client in, to negotiate with it.
    fn admit(&self, peer: Peer) -> Box<Handshake> {
        self.admit_as(peer, |number| self.inbox.waker(number))
    }

    fn admit_as(&self, peer: Peer, waker: impl FnOnce(u64) -> Waker) -> Box<Handshake> {
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
        thread_waker: ThreadWaker,
    ) -> io::Result<()> {
        let (socket, thread_waker) = (Arc::new(socket), Arc::new(thread_waker));
        let (shared, pool) = (Arc::clone(&self.shared), Arc::clone(&self.pool));
        let client = ClientThread { socket, shared, pool, thread_waker };
        thread::Builder::new()
            .name("connection".to_owned())
            .stack_size(STACK)
            .spawn(move || drop(client.run(established, &place)))
            .map(drop)
    }
}

/// Serves one client in the thread of the caller.
pub(crate) fn serve_one(shared: Shared, socket: OwnedFd) -> Result<(), ConnectionError> {
    let core = Core::new(shared)?;
    let thread_waker = Arc::new(ThreadWaker::new()?);
    let handshake = core.admit_as(Peer::of(&socket), |_| Waker::from(Arc::clone(&thread_waker)));
    let Core { shared, pool, .. } = core;
    ClientThread { socket: Arc::new(socket), shared, pool, thread_waker }
        .negotiate_and_run(*handshake)
}

/// Copies between two streams and a socket, in two threads. Gives the place back when all has
/// been written.
fn bridge<R, W>(mut reader: R, mut writer: W, socket: UnixStream, last: Place) -> io::Result<()>
where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    let mut incoming = socket.try_clone()?;
    let mut outgoing = socket;
    // How it ends is told by the connection.
    let copy_in = move || {
        let _ = pass_on(&mut reader, &mut incoming);
        let _ = incoming.shutdown(Shutdown::Write);
    };
    let copy_out = move || {
        let _ = pass_on(&mut outgoing, &mut writer);
        let _ = outgoing.shutdown(Shutdown::Both);
        drop((writer, last));
    };
    let thread = |name: &str| thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    thread("copy in").spawn(copy_in)?;
    thread("copy out").spawn(copy_out).map(drop)
}

/// Passes on what comes as soon as it comes. `io::copy` may have the system do that, which
/// waits for more from a socket than there may ever be.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&bytes[..n])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Says that no more clients are taken in, when it is dropped.
struct Ended<'a> {
    core: &'a Core,
    accepting: Accepting,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.core.inbox.close();
        *self.core.accepting() = self.accepting;
        self.core.changed.notify_all();
    }
}
