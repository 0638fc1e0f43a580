//! How to connect, and to what.

use std::time::Duration;

use nbd_proto::ClientConfig;
use nbd_transport::{Endpoint, Handshake, NbdUri, UriPolicy};

use crate::connection::Connection;
use crate::dial::Dial;
use crate::error::Error;
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
    connect_timeout: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            config: ClientConfig::default(),
            policy: UriPolicy::default(),
            connect_timeout: Duration::from_secs(60),
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

    /// How long a helper thread may try to connect (default: a minute). Every other
    /// limit is the caller's: see [`Connection::deadline`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Starts connecting to a URI, such as `nbd://host/export` or
    /// `nbd+unix:///export?socket=/path`.
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, and as [`connect`](Self::connect).
    pub fn connect_uri<B>(&self, uri: &str) -> Result<Connection<B>, Error> {
        let uri: NbdUri = uri.parse()?;
        self.policy.check(&uri)?;
        let builder = self.clone().export(uri.export_name());
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
        let handshake = Handshake::new(self.config.clone())?;
        let dial = Dial::start(endpoint, self.connect_timeout)?;
        Ok(Connection::new(Stage::Dialing { dial, handshake }))
    }

    /// Takes over a connection that is there already.
    ///
    /// # Errors
    /// When a name is too long or contains NUL.
    pub fn connect_over<B>(
        &self,
        connection: nbd_transport::Connection,
    ) -> Result<Connection<B>, Error> {
        let handshake = Handshake::new(self.config.clone())?;
        Ok(Connection::new(Stage::Negotiating {
            handshake,
            connection,
        }))
    }
}
