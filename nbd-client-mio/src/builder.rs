//! How to connect, and to what.

use std::time::Duration;

use nbd_proto::{ClientConfig, TlsPolicy};
use nbd_session::{Handshake, OldError as Error};
use nbd_transport::tls::{TlsConfig, TlsConnector};
use nbd_transport::{Endpoint, NbdUri, TcpKeepAlive, UriPolicy};

use crate::clock::Clock;
use crate::connection::Connection;
use crate::dial::Dial;
use crate::stage::Stage;

/// Settings of a connection, then the connection itself.
///
/// ```no_run
/// use nbd_client_mio::{Builder, Connection};
///
/// let disk: Connection<Vec<u8>> = Builder::new()
///     .meta_context("base:allocation")
///     .connect_uri("nbd://localhost/disk")?;
/// # Ok::<(), nbd_client_mio::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    config: ClientConfig,
    policy: UriPolicy,
    tls: Option<TlsConnector>,
    connect_timeout: Duration,
    timeout: Option<Duration>,
    keep_alive: Option<Duration>,
    tcp_keep_alive: Option<TcpKeepAlive>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            config: ClientConfig::default(),
            policy: UriPolicy::default(),
            tls: None,
            connect_timeout: Duration::from_secs(60),
            timeout: None,
            keep_alive: None,
            tcp_keep_alive: None,
        }
    }
}

impl Builder {
    /// Defaults: no TLS, no meta context, and everything the server offers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces everything that is asked for in the negotiation. With
    /// [`ClientConfig::option_mode`] the connection stops in
    /// [`State::Choosing`](crate::State::Choosing).
    #[must_use]
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Name of the export; a URI's own name takes its place.
    #[must_use]
    pub fn export(mut self, name: impl Into<String>) -> Self {
        self.config = self.config.export(name);
        self
    }

    /// Adds a meta context to ask for, such as `base:allocation`.
    #[must_use]
    pub fn meta_context(mut self, name: impl Into<String>) -> Self {
        self.config = self.config.meta_context(name);
        self
    }

    /// What URIs may make this program do.
    #[must_use]
    pub fn uri_policy(mut self, policy: UriPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Whether TLS is used, and with what. A URI that asks for TLS makes
    /// [`TlsPolicy::Require`] of any policy, and needs no connector.
    ///
    /// ```
    /// use nbd_client_mio::Builder;
    /// use nbd_client_mio::proto::TlsPolicy;
    /// use nbd_client_mio::transport::tls::{TlsConfig, TlsConfigError};
    ///
    /// # fn example() -> Result<Builder, TlsConfigError> {
    /// let connector = TlsConfig::new().directory("/etc/pki/disk").connector()?;
    /// Ok(Builder::new().tls(TlsPolicy::Require, connector))
    /// # }
    /// ```
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy, connector: TlsConnector) -> Self {
        self.config = self.config.tls(policy);
        self.tls = Some(connector);
        self
    }

    /// Longest time for connecting and negotiating together, and afterwards for each
    /// command (default: none). The loop has to do its part: see
    /// [`Connection::next_deadline`] and [`Connection::handle_timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads the first block of the export when no request has been sent for nearly this
    /// long, for servers that drop idle clients; and ends the connection when the answer
    /// takes as long (default: neither). The loop does it by
    /// [`Connection::handle_timeout`]. See [`KeepAlive`](nbd_session::KeepAlive).
    #[must_use]
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = Some(time);
        self
    }

    /// Has the system notice when the other end of a TCP connection has vanished (default:
    /// as the system is set, which is after hours).
    #[must_use]
    pub fn tcp_keep_alive(mut self, keep_alive: TcpKeepAlive) -> Self {
        self.tcp_keep_alive = Some(keep_alive);
        self
    }

    /// How long a helper thread may try to connect (default: a minute).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Starts connecting to a URI, such as `nbd://host/export` or
    /// `nbd+unix:///export?socket=/path`. For TLS without a
    /// [connector](Self::tls), the files that the URI names are read here and now.
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, its files cannot be used, and as
    /// [`connect`](Self::connect).
    pub fn connect_uri<B>(&self, uri: &str) -> Result<Connection<B>, Error> {
        let uri: NbdUri = uri.parse()?;
        self.policy.check(&uri)?;
        let mut builder = self.clone().export(uri.export_name());
        if uri.tls_required() {
            builder.config = builder.config.tls(TlsPolicy::Require);
            if builder.tls.is_none() {
                builder.tls = Some(TlsConfig::from_uri(&uri).connector()?);
            }
        }
        builder.connect(&uri.endpoint())
    }

    /// Starts connecting to an endpoint.
    ///
    /// IP addresses and Unix sockets are connected to here and now, without waiting.
    /// All others take a helper thread: the system's resolver knows no other way, and
    /// programs have to start.
    ///
    /// # Errors
    /// When connecting fails at once, or a name is too long or contains NUL.
    pub fn connect<B>(&self, endpoint: &Endpoint) -> Result<Connection<B>, Error> {
        let host = match endpoint {
            Endpoint::Tcp { host, .. } => Some(host.clone()),
            Endpoint::Address(address) => Some(address.ip().to_string()),
            _ => None,
        };
        let handshake = self.handshake(host.as_deref())?;
        let dial = Dial::start(endpoint, self.connect_timeout)?;
        let tcp_keep_alive = self.tcp_keep_alive;
        Ok(Connection::new(Stage::Dialing { dial, handshake, tcp_keep_alive }, self.clock()))
    }

    /// Takes over a connection that is there already.
    ///
    /// # Errors
    /// When a name is too long or contains NUL.
    pub fn connect_over<B>(
        &self,
        connection: nbd_transport::Connection,
    ) -> Result<Connection<B>, Error> {
        let handshake = self.handshake(None)?;
        Ok(Connection::new(Stage::Negotiating { handshake, connection }, self.clock()))
    }

    fn clock(&self) -> Clock {
        Clock::new(self.timeout, self.keep_alive)
    }

    fn handshake(&self, host: Option<&str>) -> Result<Handshake, Error> {
        let config = self.config.clone();
        Ok(match &self.tls {
            Some(connector) => Handshake::with_tls(config, connector.clone(), host)?,
            None => Handshake::new(config)?,
        })
    }
}
