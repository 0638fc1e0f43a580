//! A server before it starts.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::TlsPolicy;
use nbd_transport::tls::TlsAcceptor;

use crate::config::{Limits, Shared, Tls};
use crate::connection::ConnectionError;
use crate::event::{Event, Observer};
use crate::export::{AsyncExport, Export};
use crate::exports::{ExportList, Exports};
use crate::listener::Listener;
use crate::threads::{ServerHandle, serve_one};

/// A server that is being set up: what it serves, to whom, and where it listens.
///
/// ```
/// use nbd_server::{MemoryExport, Server};
///
/// let server = Server::new(MemoryExport::new(64 << 20)).listen_tcp("127.0.0.1:0")?.start()?;
/// println!("connect to {}", server.uris()[0]);
/// server.stop()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Server {
    exports: Arc<dyn Exports>,
    limits: Limits,
    tls: Tls,
    busy_poll: Option<Duration>,
    observer: Option<Observer>,
    listeners: Vec<Listener>,
}

impl Server {
    /// Serves one export, which clients get that ask for no name.
    #[must_use]
    pub fn new(export: impl Export + 'static) -> Self {
        Self::with_exports(ExportList::new().export("", export))
    }

    /// Serves one export of the asynchronous form, likewise. See [`AsyncExport`] for how its
    /// futures are run.
    #[must_use]
    pub fn new_async(export: impl AsyncExport + 'static) -> Self {
        Self::with_exports(ExportList::new().async_export("", export))
    }

    /// Serves exports by their names.
    #[must_use]
    pub fn with_exports(exports: impl Exports + 'static) -> Self {
        Self {
            exports: Arc::new(exports),
            limits: Limits::default(),
            tls: Tls::default(),
            busy_poll: None,
            observer: None,
            listeners: Vec::new(),
        }
    }

    /// Bounds for what clients can make it hold, and for how long.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Offers TLS with these credentials, or demands it (default: everything goes in clear).
    ///
    /// With [`TlsPolicy::Allow`] it is offered and clients choose; with [`TlsPolicy::Require`]
    /// nobody is served without it; both on every listener, Unix sockets too. For another policy
    /// at another listener start a second server over the same `Arc` of [`Exports`].
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy, acceptor: TlsAcceptor) -> Self {
        self.tls = Tls::new(policy, acceptor);
        self
    }

    /// How long a client's thread looks for the next request awake before it goes to sleep
    /// (default: not at all): for those to whom the latency of one request at a time is worth a
    /// processor for each busy client. It is of use where the client's machine, or another
    /// processor of this one, runs meanwhile. [`spawn`](Self::spawn) takes no notice: a task that
    /// kept its thread would hold up others.
    #[must_use]
    pub fn busy_poll(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.busy_poll = time.into().filter(|time| !time.is_zero());
        self
    }

    /// Is told what happens, in the thread in which it happens: it should be quick.
    ///
    /// ```
    /// use nbd_server::{MemoryExport, Server};
    ///
    /// let server = Server::new(MemoryExport::new(1 << 20)).on_event(|event| eprintln!("{event}"));
    /// ```
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Listens on TCP: `HOST`, `HOST:PORT` or `[IPV6]:PORT`; port 0 is any free one.
    ///
    /// # Errors
    /// When the address is in use, not there, or not allowed.
    #[doc(alias = "bind")]
    pub fn listen_tcp(self, address: &str) -> io::Result<Self> {
        Ok(self.listener(Listener::tcp(address)?))
    }

    /// Listens on a Unix socket, with the mode that the umask leaves; see
    /// [`Listener::unix_with_mode`] for another. One that a server has left behind is replaced.
    ///
    /// # Errors
    /// When the path is in use, or not allowed.
    pub fn listen_unix(self, path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(self.listener(Listener::unix(path)?))
    }

    /// Listens there too.
    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Starts to serve: a thread takes clients in and negotiates with them, each client that has
    /// chosen an export has one of its own, and requests that may wait for their export do so in
    /// up to [`Limits::max_workers`] others, as do clients for what [`Exports`] tell.
    ///
    /// # Errors
    /// When the system is short of threads or descriptors.
    #[doc(alias("serve", "run"))]
    pub fn start(self) -> io::Result<ServerHandle> {
        let (shared, listeners) = self.into_parts();
        ServerHandle::start(shared, listeners)
    }

    /// Starts to serve in tasks of the tokio runtime that this is called in: one for each
    /// listener, one for each client, one for each request of an
    /// [`AsyncExport`]. Requests that may wait for an
    /// [`Export`] do so in up to [`Limits::max_workers`] threads: none of them is waited for in
    /// a task.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// use nbd_server::{MemoryExport, Server};
    ///
    /// let server = Server::new(MemoryExport::new(64 << 20)).listen_tcp("127.0.0.1:0")?.spawn()?;
    /// println!("connect to {}", server.uris()[0]);
    /// server.stop().await
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the system is short of descriptors.
    ///
    /// # Panics
    /// Outside of a runtime, and when its IO or its time is switched off.
    #[cfg(feature = "tokio")]
    pub fn spawn(self) -> io::Result<crate::AsyncServerHandle> {
        let (shared, listeners) = self.into_parts();
        crate::AsyncServerHandle::spawn(shared, listeners)
    }

    /// Serves one client over a stream socket that is connected already, in this thread, and returns when
    /// it has left. It listens nowhere.
    ///
    /// # Errors
    /// Whatever ended the connection before its time.
    pub fn serve_one(self, stream: impl Into<OwnedFd>) -> Result<(), ConnectionError> {
        serve_one(self.into_parts().0, stream.into())
    }

    fn into_parts(self) -> (Shared, Vec<Listener>) {
        let Self { exports, limits, tls, busy_poll, observer, listeners } = self;
        let mut shared = Shared::new(exports, limits, tls, observer);
        shared.busy_poll = busy_poll;
        (shared, listeners)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("limits", &self.limits)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}
