//! How to connect, and to what.

mod route;

use std::future::Future;
use std::io;
use std::time::Duration;

use nbd_proto::{ClientConfig, TlsPolicy};
use nbd_session::OldError as Error;
use nbd_session::replay::Reconnect;
use nbd_transport::tls::TlsConnector;
use nbd_transport::{Connection, Endpoint, TcpKeepAlive, UriPolicy};

use crate::client::Client;
use crate::options::Options;
use crate::pool::Pool;
use crate::runtime::{Runtime, Socket};
use route::{Route, plain};

/// Settings of a connection, then the connection itself.
///
/// The runtime is never blocked: connections are made without waiting, and names are looked up
/// and files read where the runtime lets work block.
///
/// ```
/// use nbd_client_async::{Builder, Client, Error, Runtime};
/// use std::time::Duration;
///
/// async fn connect<R: Runtime + Clone>(runtime: R) -> Result<Client, Error> {
///     Builder::on(runtime)
///         .meta_context("base:allocation")
///         .timeout(Duration::from_secs(30))
///         .connect_uri("nbd://localhost/disk")
///         .await
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder<R> {
    runtime: R,
    config: ClientConfig,
    policy: UriPolicy,
    tls: Option<TlsConnector>,
    timeout: Option<Duration>,
    keep_alive: Option<Duration>,
    tcp_keep_alive: Option<TcpKeepAlive>,
    reconnect: Option<Reconnect>,
}

impl<R: Runtime + Clone + Default> Builder<R> {
    /// Defaults: no TLS, no meta context, no timeout, and everything the server
    /// offers.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime};
    /// # fn example<Tokio: Runtime + Clone + Default>() {
    /// let builder = Builder::<Tokio>::new().export("disk");
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::on(R::default())
    }
}

impl<R: Runtime + Clone> Builder<R> {
    /// The same for a given runtime.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime};
    /// # fn example(runtime: impl Runtime + Clone) {
    /// let builder = Builder::on(runtime).export("disk");
    /// # }
    /// ```
    #[must_use]
    pub fn on(runtime: R) -> Self {
        Self {
            runtime,
            config: ClientConfig::default(),
            policy: UriPolicy::default(),
            tls: None,
            timeout: None,
            keep_alive: None,
            tcp_keep_alive: None,
            reconnect: None,
        }
    }

    /// Replaces everything that is asked for in the negotiation.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime, proto::{ClientConfig, Limits}};
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let limits = Limits::default().max_in_flight(64);
    /// let builder = builder.config(ClientConfig::new().limits(limits));
    /// # }
    /// ```
    #[must_use]
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Name of the export; a URI's own name takes its place.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime};
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let builder = builder.export("disk");
    /// # }
    /// ```
    #[must_use]
    pub fn export(mut self, name: impl Into<String>) -> Self {
        self.config = self.config.export(name);
        self
    }

    /// Adds a meta context to ask for, such as `base:allocation`.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime};
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let builder = builder.meta_context("base:allocation");
    /// # }
    /// ```
    #[must_use]
    pub fn meta_context(mut self, name: impl Into<String>) -> Self {
        self.config = self.config.meta_context(name);
        self
    }

    /// What URIs may make this program do.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime, transport::UriPolicy};
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let builder = builder.uri_policy(UriPolicy::default());
    /// # }
    /// ```
    #[must_use]
    pub fn uri_policy(mut self, policy: UriPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether TLS is used, and with what. A URI that asks for TLS makes
    /// [`TlsPolicy::Require`] of any policy, and needs no connector.
    ///
    /// ```
    /// use nbd_client_async::transport::tls::{TlsConfig, TlsConfigError};
    /// # use nbd_client_async::{Builder, Runtime, proto::TlsPolicy};
    /// # fn example<R: Runtime + Clone>(builder: Builder<R>)
    /// # -> Result<Builder<R>, TlsConfigError> {
    /// let connector = TlsConfig::new().directory("/etc/pki/disk").connector()?;
    /// let builder = builder.tls(TlsPolicy::Require, connector);
    /// # Ok(builder) }
    /// ```
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy, connector: TlsConnector) -> Self {
        self.config = self.config.tls(policy);
        self.tls = Some(connector);
        self
    }

    /// Longest time for connecting and negotiating together, and afterwards for each
    /// call (default: none). See also [`Client::with_timeout`].
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime};
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let builder = builder.timeout(std::time::Duration::from_secs(30));
    /// # }
    /// ```
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads the first block of the export when no request has been sent for nearly this
    /// long, for servers that drop idle clients; and ends the connection when the answer
    /// takes as long (default: neither). See [`KeepAlive`](nbd_session::KeepAlive).
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime};
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let builder = builder.keep_alive(std::time::Duration::from_secs(60));
    /// # }
    /// ```
    #[must_use]
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = Some(time);
        self
    }

    /// Has the system notice when the other end of a TCP connection has vanished (default:
    /// as the system is set, which is after hours).
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Runtime, transport::TcpKeepAlive};
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let builder = builder.tcp_keep_alive(TcpKeepAlive::new());
    /// # }
    /// ```
    #[must_use]
    pub fn tcp_keep_alive(mut self, keep_alive: TcpKeepAlive) -> Self {
        self.tcp_keep_alive = Some(keep_alive);
        self
    }

    /// Makes a connection again that is lost: connects to the same server, negotiates for
    /// the same export, and repeats what was under way. Calls wait meanwhile; their
    /// timeouts go on. See [`recovery`](nbd_session::replay) for what is promised.
    ///
    /// Losses are a transport that fails or ends, and a server that is shutting down. A
    /// server that breaks the protocol, is not who it was (TLS), or says no is left at
    /// once; so is one whose export has changed.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Reconnect, Runtime};
    /// # use std::time::Duration;
    /// # fn example(builder: Builder<impl Runtime + Clone>) {
    /// let policy = Reconnect::new().give_up_after(Duration::from_secs(300));
    /// let builder = builder.reconnect(policy.keep_unflushed(64 << 20));
    /// # }
    /// ```
    #[must_use]
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.reconnect = Some(policy);
        self
    }

    /// Connects to a URI, such as `nbd://host/export` or
    /// `nbd+unix:///export?socket=/path`.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime};
    /// # async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
    /// let client = builder.connect_uri("nbd://localhost/disk").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, nobody answers, or the server refuses.
    pub async fn connect_uri(&self, uri: &str) -> Result<Client, Error> {
        let (builder, endpoint) = self.clone().resolve(uri).await?;
        builder.connect(&endpoint).await
    }

    /// Connects to an endpoint.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime, transport::Endpoint};
    /// # async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
    /// let endpoint = Endpoint::Unix("/run/nbd.sock".into());
    /// let client = builder.connect(&endpoint).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When nobody answers, or the server refuses.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        let route = Route::Endpoint(endpoint.clone());
        self.open(&route, self.deadline(), false).await?.into_client()
    }

    /// Negotiates over a connection that is there already. It cannot be made again.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime, transport::Connection};
    /// # async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
    /// let socket = std::os::unix::net::UnixStream::connect("/run/nbd.sock")?;
    /// let connection = Connection::from_socket(socket.into())?;
    /// let client = builder.connect_over(connection).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect_over(&self, connection: Connection) -> Result<Client, Error> {
        self.take_over(self.adopt(connection)?, false).await?.into_client()
    }

    /// Negotiates over any stream. It cannot be made again; see
    /// [`connect_with`](Self::connect_with).
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime, Socket};
    /// # async fn example(builder: Builder<impl Runtime + Clone>, stream: impl Socket)
    /// # -> Result<(), Error> {
    /// let client = builder.connect_stream(stream).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub async fn connect_stream(&self, stream: impl Socket) -> Result<Client, Error> {
        self.take_over(plain(stream), false).await?.into_client()
    }

    /// Negotiates over any stream, and asks for another one whenever it is lost, if
    /// [`reconnect`](Self::reconnect) says so.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime, Socket};
    /// # async fn example<S: Socket>(builder: Builder<impl Runtime + Clone>, tunnel: fn() -> S)
    /// # -> Result<(), Error> {
    /// let client = builder.connect_with(move || async move { Ok(tunnel()) }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When there is no stream, it fails, or the server refuses.
    pub async fn connect_with<F, S>(
        &self,
        dial: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Client, Error>
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: Socket,
    {
        let route = Route::own(dial);
        self.open(&route, self.deadline(), false).await?.into_client()
    }

    /// A pool of up to `size` connections to a URI. The first is there when this returns; the
    /// others are made beside the work, as far as the server has room for them. See [`Pool`].
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime};
    /// # async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
    /// let pool = builder.connect_pool("nbd://localhost/disk", 4).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the first cannot be opened.
    pub async fn connect_pool(&self, uri: &str, size: usize) -> Result<Pool, Error> {
        let (builder, endpoint) = self.clone().resolve(uri).await?;
        let first = builder.connect(&endpoint).await?;
        Ok(Pool::growing(first, size, move || {
            let (builder, endpoint) = (builder.clone(), endpoint.clone());
            async move { builder.connect(&endpoint).await }
        }))
    }

    /// Connects to a URI and stops for the caller to ask and choose, if the server
    /// knows how to.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime};
    /// # async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
    /// let mut options = builder.negotiate_uri("nbd://localhost").await?;
    /// println!("{:?}", options.list().await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, nobody answers, or the server refuses.
    pub async fn negotiate_uri(&self, uri: &str) -> Result<Options, Error> {
        let (builder, endpoint) = self.clone().resolve(uri).await?;
        builder.negotiate(&endpoint).await
    }

    /// Connects to an endpoint and stops for the caller to ask and choose.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime, transport::Endpoint};
    /// # async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
    /// let endpoint = Endpoint::Unix("/run/nbd.sock".into());
    /// let options = builder.negotiate(&endpoint).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When nobody answers, or the server refuses.
    pub async fn negotiate(&self, endpoint: &Endpoint) -> Result<Options, Error> {
        self.open(&Route::Endpoint(endpoint.clone()), self.deadline(), true).await
    }

    /// Negotiates over a connection that is there already, and stops for the caller to
    /// ask and choose.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime, transport::Connection};
    /// # async fn example(builder: Builder<impl Runtime + Clone>, connection: Connection)
    /// # -> Result<(), Error> {
    /// let options = builder.negotiate_over(connection).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn negotiate_over(&self, connection: Connection) -> Result<Options, Error> {
        self.take_over(self.adopt(connection)?, true).await
    }

    /// Negotiates over any stream, and stops for the caller to ask and choose.
    ///
    /// ```
    /// # use nbd_client_async::{Builder, Error, Runtime, Socket};
    /// # async fn example(builder: Builder<impl Runtime + Clone>, stream: impl Socket)
    /// # -> Result<(), Error> {
    /// let options = builder.negotiate_stream(stream).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub async fn negotiate_stream(&self, stream: impl Socket) -> Result<Options, Error> {
        self.take_over(plain(stream), true).await
    }
}
