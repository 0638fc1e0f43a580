//! How to connect, and to what.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nbd_proto::{ClientConfig, Phase, TlsPolicy};
use nbd_session::replay::{Reconnect, RecoveryError};
use nbd_session::{Handshake, Link, OldError as Error};
use nbd_transport::tls::{TlsConfig, TlsConnector};
use nbd_transport::{Connection, Endpoint, NbdUri, SocketIo, TcpKeepAlive, UriPolicy};

use crate::client::Client;
use crate::options::Options;
use crate::origin::Origin;
use crate::pool::Pool;
use crate::pump::{Pump, Readiness};
use crate::recovery::{Dialer, Observer, Plan, ReconnectEvent, Way};
use crate::trace::Trace;

/// Settings of a connection, then the connection itself.
///
/// ```no_run
/// use nbd_client_blocking::Builder;
/// use std::time::Duration;
///
/// let client = Builder::new()
///     .meta_context("base:allocation")
///     .timeout(Duration::from_secs(30))
///     .connect_uri("nbd://localhost/disk")?;
/// println!("{} bytes", client.size());
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    config: ClientConfig,
    policy: UriPolicy,
    timeout: Option<Duration>,
    tls: Option<TlsConnector>,
    tcp_keep_alive: Option<TcpKeepAlive>,
    name: Option<String>,
    /// The URI that the next connection is made from.
    uri: Option<Box<NbdUri>>,
    reconnect: Option<Reconnect>,
    observer: Option<Observer>,
}

impl Builder {
    /// Defaults: no TLS, no meta context, no timeout, and everything the server
    /// offers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces everything that is asked for in the negotiation: which options, which
    /// checks before a command is sent, which limits. [`export`](Self::export),
    /// [`meta_context`](Self::meta_context) and [`tls`](Self::tls) change parts of it.
    ///
    /// ```
    /// use nbd_client_blocking::Builder;
    /// use nbd_client_blocking::proto::{ClientConfig, StrictMode};
    ///
    /// // For a test of a server: no check of alignment, and names told in full.
    /// let config = ClientConfig::new()
    ///     .full_info(true)
    ///     .extended_headers(false)
    ///     .strict(StrictMode::all() - StrictMode::ALIGN);
    /// let builder = Builder::new().config(config);
    /// ```
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

    /// Whether TLS is used, and with what. A URI that asks for TLS makes
    /// [`TlsPolicy::Require`] of any policy, and needs no connector. With
    /// [`TlsPolicy::Disable`] the connector is for
    /// [`Options::start_tls`](crate::Options::start_tls) alone.
    ///
    /// ```no_run
    /// use nbd_client_blocking::Builder;
    /// use nbd_client_blocking::proto::TlsPolicy;
    /// use nbd_client_blocking::transport::tls::TlsConfig;
    ///
    /// let connector = TlsConfig::new().directory("/etc/pki/disk").connector()?;
    /// let builder = Builder::new().tls(TlsPolicy::Require, connector);
    /// # Ok::<(), nbd_client_blocking::transport::tls::TlsConfigError>(())
    /// ```
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy, connector: TlsConnector) -> Self {
        self.config = self.config.tls(policy);
        self.tls = Some(connector);
        self
    }

    /// Name of the connection in what it tells with feature `tracing` (default: `nbd1`,
    /// `nbd2` and so on).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What URIs may make this program do.
    #[must_use]
    pub fn uri_policy(mut self, policy: UriPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Longest time for connecting and negotiating together, and afterwards longest
    /// silence of the server while a command is waited for (default: none).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Connects again when the connection is lost, and goes on where it was: calls and
    /// pipelines notice nothing but the time it takes. What is promised, and what cannot
    /// be, is told in [`recovery`](crate::session::replay); what is kept of acknowledged
    /// writes is for [`Reconnect::keep_unflushed`] to say.
    ///
    /// A call that waits for longer than the [`timeout`](Self::timeout) ends with
    /// [`Error::TimedOut`] here too, and the next one goes on trying. An attempt is made in a
    /// thread of its own, and goes on between calls: it takes no longer than the timeout
    /// given here ([`Reconnect::LONGEST_ATTEMPT`] without one), and no longer than patience
    /// lasts, but longer than a call if need be.
    /// A client that is dropped meanwhile does not wait for it, and it ends soon after. Once
    /// patience is over, or the server has become another, all calls fail with
    /// [`Error::NotReconnected`] or [`Error::Recovery`]. A program that was started for the
    /// connection is started again.
    ///
    /// ```no_run
    /// use nbd_client_blocking::{Builder, session::replay::Reconnect};
    ///
    /// let mut client = Builder::new()
    ///     .reconnect(Reconnect::new().keep_unflushed(64 << 20))
    ///     .connect_uri("nbd://localhost/disk")?;
    /// client.write_at(0, &[7; 4096])?; // the server may be restarted meanwhile
    /// println!("connected again {} times", client.reconnects());
    /// # Ok::<(), nbd_client_blocking::Error>(())
    /// ```
    #[must_use]
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.reconnect = Some(policy);
        self
    }

    /// Tells when a connection is lost, and what becomes of it. Called in the middle of the
    /// client's calls, on whose thread it is.
    #[must_use]
    pub fn on_reconnect(
        mut self,
        observe: impl Fn(&ReconnectEvent) + Send + Sync + 'static,
    ) -> Self {
        self.observer = Some(Observer::new(observe));
        self
    }

    /// Has the system notice when the other end of a TCP connection has vanished (default:
    /// as the system is set, which is after hours). See also
    /// [`Client::ping`](crate::Client::ping).
    ///
    /// ```
    /// use nbd_client_blocking::Builder;
    /// use nbd_client_blocking::transport::TcpKeepAlive;
    ///
    /// let builder = Builder::new().tcp_keep_alive(TcpKeepAlive::new());
    /// ```
    #[must_use]
    pub fn tcp_keep_alive(mut self, keep_alive: TcpKeepAlive) -> Self {
        self.tcp_keep_alive = Some(keep_alive);
        self
    }

    /// Connects to a URI, such as `nbd://host/export` or
    /// `nbd+unix:///export?socket=/path`.
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, nobody answers, or the server refuses.
    pub fn connect_uri(&self, uri: &str) -> Result<Client, Error> {
        let (builder, endpoint) = self.clone().resolve(uri)?;
        builder.connect(&endpoint)
    }

    /// Connects to an endpoint.
    ///
    /// # Errors
    /// When nobody answers, or the server refuses.
    pub fn connect(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        self.begin_at(endpoint, false)?.into_client()
    }

    /// Connects by `dial`, which is called with the time by which it has to be done, and
    /// once more for each attempt to make the connection again, from a thread that ends with
    /// the attempt. Nothing else than that time ends `dial`; a client that is dropped leaves it
    /// behind.
    ///
    /// # Errors
    /// When `dial` says so, or the server refuses.
    pub fn connect_with(
        &self,
        dial: impl Fn(Option<Instant>) -> Result<Connection, Error> + Send + Sync + 'static,
    ) -> Result<Client, Error> {
        self.begin_by(&Way::Dialer(Dialer::new(dial)), false, self.until())?.into_client()
    }

    /// Negotiates over a connection that is there already.
    ///
    /// # Errors
    /// When the server refuses, or the connection is to be made
    /// [again](Self::reconnect) when it is lost, which nobody would know how to do: see
    /// [`connect_with`](Self::connect_with).
    pub fn connect_over(&self, connection: Connection) -> Result<Client, Error> {
        self.begin_over(connection, false)?.into_client()
    }

    /// A pool of up to `size` connections to a URI, at least one: as many as the server says
    /// are safe, which is one or any number. The first is there when this returns; the
    /// others are made beside the work, as far as the server has room for them. See
    /// [`Pool`].
    ///
    /// # Errors
    /// When the first cannot be opened.
    pub fn connect_pool(&self, uri: &str, size: usize) -> Result<Pool, Error> {
        let (builder, endpoint) = self.clone().resolve(uri)?;
        let first = builder.connect(&endpoint)?;
        let way = Way::Endpoint(endpoint);
        Ok(Pool::growing(first, size, move |until| {
            let until = Until { deadline: builder.deadline(), ..until };
            builder.begin_by(&way, false, until)?.into_client()
        }))
    }

    /// Connects to a URI and stops for the caller to ask and choose, if the server
    /// knows how to.
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, nobody answers, or the server refuses.
    pub fn negotiate_uri(&self, uri: &str) -> Result<Options, Error> {
        let (builder, endpoint) = self.clone().resolve(uri)?;
        builder.negotiate(&endpoint)
    }

    /// Connects to an endpoint and stops for the caller to ask and choose.
    ///
    /// # Errors
    /// When nobody answers, or the server refuses.
    pub fn negotiate(&self, endpoint: &Endpoint) -> Result<Options, Error> {
        self.begin_at(endpoint, true)
    }

    /// Negotiates over a connection that is there already, and stops for the caller to
    /// ask and choose.
    ///
    /// # Errors
    /// As [`connect_over`](Self::connect_over).
    pub fn negotiate_over(&self, connection: Connection) -> Result<Options, Error> {
        self.begin_over(connection, true)
    }

    /// Takes over what a URI says, once all of it is known to be right.
    fn resolve(mut self, uri: &str) -> Result<(Self, Endpoint), Error> {
        let uri: NbdUri = uri.parse()?;
        self.policy.check(&uri)?;
        self.config = self.config.export(uri.export_name());
        if uri.tls_required() {
            self.config = self.config.tls(TlsPolicy::Require);
            if self.tls.is_none() {
                self.tls = Some(TlsConfig::from_uri(&uri).connector()?);
            }
        }
        let endpoint = uri.endpoint();
        self.uri = Some(Box::new(uri));
        Ok((self, endpoint))
    }

    fn begin_at(&self, endpoint: &Endpoint, pause: bool) -> Result<Options, Error> {
        self.begin_by(&Way::Endpoint(endpoint.clone()), pause, self.until())
    }

    fn begin_over(&self, connection: Connection, pause: bool) -> Result<Options, Error> {
        if self.reconnect.is_some() {
            return Err(RecoveryError::NoWayBack.into());
        }
        self.begin(connection, Origin::Given, None, pause, self.until())
    }

    /// Connects and negotiates.
    pub(crate) fn begin_by(
        &self,
        way: &Way,
        pause: bool,
        until: Until<'_>,
    ) -> Result<Options, Error> {
        let endpoint = match way {
            Way::Endpoint(endpoint) => endpoint,
            Way::Dialer(dialer) => {
                let connection = dialer.connect(until.deadline)?;
                let options = self.begin(connection, Origin::Given, None, pause, until)?;
                return Ok(options.planned(self.plan(way)));
            }
        };
        let connection = match until.stop {
            Some(stop) => endpoint.connect_unless(stop, until.deadline)?,
            None => endpoint.connect(until.deadline)?,
        };
        if let Some(keep_alive) = self.tcp_keep_alive {
            connection.set_tcp_keep_alive(keep_alive)?;
        }
        let origin = match &self.uri {
            Some(uri) => Origin::Uri(uri.clone()),
            None => Origin::Endpoint(endpoint.clone()),
        };
        let host = match endpoint {
            Endpoint::Tcp { host, .. } => Some(host.clone()),
            Endpoint::Address(address) => Some(address.ip().to_string()),
            Endpoint::Unix(_)
            | Endpoint::UnixAbstract(_)
            | Endpoint::Vsock { .. }
            | Endpoint::Command(_)
            | Endpoint::SocketActivation(_)
            | Endpoint::Ssh(_) => None,
        };
        let options = self.begin(connection, origin, host.as_deref(), pause, until)?;
        Ok(options.planned(self.plan(way)))
    }

    fn plan(&self, way: &Way) -> Option<Plan> {
        let policy = self.reconnect?;
        let observer = self.observer.clone();
        let builder = Self { reconnect: None, observer: None, ..self.clone() };
        Some(Plan { policy, observer, builder, way: way.clone() })
    }

    fn begin(
        &self,
        connection: Connection,
        origin: Origin,
        host: Option<&str>,
        pause: bool,
        until: Until<'_>,
    ) -> Result<Options, Error> {
        let config = self.config.clone().option_mode(pause);
        let handshake = match &self.tls {
            Some(connector) => Handshake::with_tls(config, connector.clone(), host)?,
            None => Handshake::new(config)?,
        };
        let mut options = Options::new(handshake, self.pump(connection)?, origin);
        options.drive(until)?;
        Ok(options)
    }

    /// By when connecting and negotiating have to be done.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    fn until(&self) -> Until<'static> {
        Until { deadline: self.deadline(), stop: None }
    }

    fn pump(&self, connection: Connection) -> Result<Pump, Error> {
        let mut pump = Pump {
            link: Link::plain(),
            connection,
            timeout: None,
            system_calls: 0,
            trace: Trace::new(self.name.as_deref()),
        };
        pump.set_timeout(self.timeout)?;
        Ok(pump)
    }
}

/// When connecting and negotiating end without success.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until<'a> {
    pub(crate) deadline: Option<Instant>,
    /// Has something to read, or is at its end, once nobody wants the connection any more.
    pub(crate) stop: Option<BorrowedFd<'a>>,
}

/// Drives a handshake until it wants its caller.
pub(crate) fn drive(
    handshake: &mut Handshake,
    pump: &mut Pump,
    until: Until<'_>,
) -> Result<(), Error> {
    loop {
        let mut io = SocketIo::non_blocking(pump.connection.stream.as_fd());
        let result = handshake.drive(&mut io, nbd_proto::io::IoMode::Vectored);
        pump.system_calls += io.calls();
        let direction = result?;
        if direction.is_empty() || handshake.phase() == Phase::Closed {
            return Ok(());
        }
        let state = nbd_proto::Machine::state_name(handshake.negotiation());
        match pump.wait_either(direction, until.stop, until.deadline)? {
            Some(Readiness { extra: false, .. }) => {}
            // Who does not want it any more does not hear of it.
            Some(_) | None => return Err(pump.timed_out(state)),
        }
    }
}
