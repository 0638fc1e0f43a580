//! How to connect, and to what.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use nbd_proto::{ClientConfig, TlsPolicy};
use nbd_transport::tls::{TlsConfig, TlsConnector};
use nbd_transport::{Endpoint, NbdUri, TcpKeepAlive, UriPolicy};

use crate::error::Error;
use crate::replay::Reconnect;

/// How long a network, or a server, may be dead before that is noticed, where a limit is on by
/// default.
const DEAD: Duration = Duration::from_secs(30);

/// How to connect, and to what: the same options for every client.
///
/// ```
/// use nbd_session::{ConnectOptions, replay::Reconnect};
/// use std::time::Duration;
///
/// let options: ConnectOptions = "nbd://localhost/disk".parse()?;
/// let options = options
///     .meta_context("base:allocation")
///     .connect_timeout(Duration::from_secs(10))
///     .reconnect(Reconnect::new());
/// # Ok::<(), nbd_session::Error>(())
/// ```
///
/// | limit | runs | default |
/// |---|---|---|
/// | [`connect_timeout`](Self::connect_timeout) | from the start of connecting to the export being ready | none |
/// | [`request_timeout`](Self::request_timeout) | a call, from its submission to its completion, reconnecting included | none |
/// | [`silence`](Self::silence) | while the server owes something and brings nothing | 30 s with [`reconnect`](Self::reconnect), else none |
/// | [`tcp_keep_alive`](Self::tcp_keep_alive) | while the network acknowledges nothing | 30 s with `silence` or `reconnect`, else the system's |
///
/// What runs into one of the last two is a lost connection: with `reconnect` it is made again,
/// without it every call is told so. `None` and no time at all switch a limit off.
#[derive(Clone, Debug)]
#[doc(alias = "nbd_aio_is_created")]
pub struct ConnectOptions {
    pub(crate) endpoints: Vec<Endpoint>,
    /// The first connection is there already.
    pub(crate) given: bool,
    /// It is the caller who connects, whatever endpoints there are.
    pub(crate) dialled: bool,
    pub(crate) uri: Option<Box<NbdUri>>,
    pub(crate) config: ClientConfig,
    pub(crate) tls: Credentials,
    pub(crate) late_credentials: bool,
    pub(crate) uri_policy: UriPolicy,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) request_timeout: Option<Duration>,
    silence: Setting<Duration>,
    tcp_keep_alive: Setting<TcpKeepAlive>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) reconnect: Option<Reconnect>,
    spread: bool,
    busy_poll: Option<Duration>,
    name: Option<String>,
}

/// A limit that has a default of its own.
#[derive(Clone, Copy, Debug)]
enum Setting<T> {
    Default,
    Set(Option<T>),
}

/// What is connected to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Target {
    /// A server that can be found, or started.
    Endpoint(Endpoint),
    /// Whatever the caller's own way of connecting leads to, as often as it is asked for.
    Dialler,
    /// A connection that is there already, and cannot be made again.
    Given,
}

impl fmt::Display for Target {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Dialler => f.write_str("the caller's own way to connect"),
            Self::Given => f.write_str("a connection that was handed over"),
        }
    }
}

/// What TLS is started with.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    None,
    /// Files to be read first.
    Config(Box<TlsConfig>),
    Ready(TlsConnector),
}

impl ConnectOptions {
    /// Defaults, and nobody to connect to yet: no TLS, no meta context, no limit of time, and
    /// everything that the server offers.
    #[must_use]
    #[doc(alias = "nbd_create")]
    pub fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            given: false,
            dialled: false,
            uri: None,
            config: ClientConfig::new(),
            tls: Credentials::None,
            late_credentials: false,
            uri_policy: UriPolicy::default(),
            connect_timeout: None,
            request_timeout: None,
            silence: Setting::Default,
            tcp_keep_alive: Setting::Default,
            keep_alive: None,
            reconnect: None,
            spread: false,
            busy_poll: None,
            name: None,
        }
    }

    /// The same, to a URI, once all of it is known to be right and the
    /// [policy](Self::uri_policy) allows it. Its export takes the place of the one that was
    /// set; a URI that asks for TLS makes [`TlsPolicy::Require`] of any policy, and brings
    /// credentials unless there are some.
    ///
    /// ```
    /// use nbd_session::ConnectOptions;
    ///
    /// let options = ConnectOptions::new().uri("nbd+unix:///disk?socket=/run/nbd.sock")?;
    /// # Ok::<(), nbd_session::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the URI is malformed or forbidden.
    pub fn uri(self, uri: &str) -> Result<Self, Error> {
        self.nbd_uri(uri.parse()?)
    }

    /// As [`uri`](Self::uri), of one that was parsed.
    ///
    /// # Errors
    /// When it is forbidden.
    pub fn nbd_uri(mut self, uri: NbdUri) -> Result<Self, Error> {
        self.uri_policy.check(&uri)?;
        self.take_uri(uri);
        Ok(self)
    }

    fn take_uri(&mut self, uri: NbdUri) {
        self.config = self.config.clone().export(uri.export_name());
        if uri.tls_required() {
            self.config = self.config.clone().tls(TlsPolicy::Require);
            if matches!(self.tls, Credentials::None) {
                self.tls = Credentials::Config(Box::new(TlsConfig::from_uri(&uri)));
            }
        }
        self.endpoints = vec![uri.endpoint()];
        self.uri = Some(Box::new(uri));
    }

    /// Adds a server to connect to. If there are several, they serve the same data: the first
    /// that can be connected to is used, and after a loss each of them is tried in turn.
    ///
    /// ```
    /// use nbd_session::ConnectOptions;
    /// use nbd_transport::Endpoint;
    ///
    /// let tcp = |host: &str| Endpoint::Tcp { host: host.to_owned(), port: 10809 };
    /// let options = ConnectOptions::new().endpoint(tcp("first")).endpoint(tcp("second"));
    /// ```
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds a server by host, a name or an address, and port. See [`endpoint`](Self::endpoint).
    ///
    /// ```
    /// use nbd_session::ConnectOptions;
    ///
    /// let options = ConnectOptions::new().tcp("localhost", 10809).export("disk");
    /// ```
    #[must_use]
    #[doc(alias("nbd_connect_tcp", "nbd_aio_connect_tcp"))]
    pub fn tcp(self, host: impl Into<String>, port: u16) -> Self {
        self.endpoint(Endpoint::Tcp { host: host.into(), port })
    }

    /// Adds a server by the path of its Unix socket. See [`endpoint`](Self::endpoint).
    #[must_use]
    #[doc(alias("nbd_connect_unix", "nbd_aio_connect_unix"))]
    pub fn unix(self, path: impl Into<PathBuf>) -> Self {
        self.endpoint(Endpoint::Unix(path.into()))
    }

    /// As [`endpoint`](Self::endpoint), of any kind. A connection that is
    /// [there already](Target::Given) is the first, whatever servers there are: those are the way
    /// back when it is lost. Where [the caller](Target::Dialler) connects, no server is connected
    /// to without him: what the options name says only which host a certificate is to be for.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        match target {
            Target::Endpoint(endpoint) => return self.endpoint(endpoint),
            Target::Dialler => self.dialled = true,
            Target::Given => self.given = true,
        }
        self
    }

    /// What URIs may make this program do; to be set before a URI is.
    #[must_use]
    pub fn uri_policy(mut self, policy: UriPolicy) -> Self {
        self.uri_policy = policy;
        self
    }

    /// Replaces everything that is asked for in the negotiation: which options, which
    /// checks before a command is sent, which limits. [`export`](Self::export),
    /// [`meta_context`](Self::meta_context) and [`tls`](Self::tls) change parts of it.
    #[must_use]
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Name of the export; a URI's own name takes its place.
    #[must_use]
    #[doc(alias = "nbd_set_export_name")]
    pub fn export(mut self, name: impl Into<String>) -> Self {
        self.config = self.config.export(name);
        self
    }

    /// Adds a meta context to ask for, such as `base:allocation`.
    #[must_use]
    #[doc(alias = "nbd_add_meta_context")]
    pub fn meta_context(mut self, name: impl Into<String>) -> Self {
        self.config = self.config.meta_context(name);
        self
    }

    /// Whether TLS is used, and with what: files are read when connecting.
    #[must_use]
    #[doc(alias("nbd_set_tls", "nbd_get_tls"))]
    pub fn tls(mut self, policy: TlsPolicy, credentials: TlsConfig) -> Self {
        self.config = self.config.tls(policy);
        self.tls = Credentials::Config(Box::new(credentials));
        self
    }

    /// Whether TLS is used, and with credentials that have been read already.
    #[must_use]
    pub fn tls_connector(mut self, policy: TlsPolicy, connector: TlsConnector) -> Self {
        self.config = self.config.tls(policy);
        self.tls = Credentials::Ready(connector);
        self
    }

    /// Whether files with credentials are read only when a server has agreed to TLS (default:
    /// no, before it is connected to). Then files that are missing are no fault where TLS is not
    /// used, and are noticed later where it is.
    #[must_use]
    pub fn late_credentials(mut self, late: bool) -> Self {
        self.late_credentials = late;
        self
    }

    /// Most commands in flight at once (default 1024, at least 1).
    #[must_use]
    pub fn max_in_flight(mut self, count: u32) -> Self {
        self.config = self.config.max_in_flight(count);
        self
    }

    /// Longest time from the start of connecting to the export being ready, all addresses and
    /// endpoints together; after a loss, of each attempt (default: none; after a loss
    /// [`Reconnect::LONGEST_ATTEMPT`]).
    #[must_use]
    pub fn connect_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.connect_timeout = some_time(limit);
        self
    }

    /// Longest time of a call, from its submission to its completion, reconnecting included
    /// (default: none). Each call may have a limit of its own.
    #[must_use]
    #[doc(alias = "timeout")]
    pub fn request_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.request_timeout = some_time(limit);
        self
    }

    /// Longest silence of the server: how long it may owe a read, a write or a block status
    /// and bring nothing that counts as progress, which is data, an extent further on, or the
    /// end of a command. It does not run while a flush, trim, write of zeroes or cache is in
    /// flight, for a server that works on one of those may answer nothing else.
    #[must_use]
    pub fn silence(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.silence = Setting::Set(some_time(limit));
        self
    }

    /// How the system notices that the other end of a TCP connection has vanished; `None`
    /// leaves it as the system is set, which is after hours.
    #[must_use]
    pub fn tcp_keep_alive(mut self, keep_alive: impl Into<Option<TcpKeepAlive>>) -> Self {
        self.tcp_keep_alive = Setting::Set(keep_alive.into());
        self
    }

    /// Reads the first block of the export when for nearly this long nothing was asked of the
    /// server, for servers that drop idle clients, or nothing came of what was asked, to find
    /// out whether it is still there (default: never). One that then brings nothing within the
    /// limit of [`silence`](Self::silence), or of this where there is none, is a lost
    /// connection, whether or not calls have limits. An export of no bytes is not asked for
    /// anything.
    ///
    /// A server that answers in any order shows so that it is alive however long a command
    /// takes; one that does one thing after the other has to do each within that limit. While
    /// a flush, trim, write of zeroes or cache is in flight, only a server is given up that has
    /// answered other commands before as many of those on this connection; with another it is
    /// left to [`tcp_keep_alive`](Self::tcp_keep_alive).
    #[must_use]
    pub fn keep_alive(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.keep_alive = some_time(time);
        self
    }

    /// Makes a connection again that is lost, and goes on where it was. What is promised, and
    /// what cannot be, is told in [`replay`](crate::replay).
    #[must_use]
    pub fn reconnect(mut self, policy: impl Into<Option<Reconnect>>) -> Self {
        self.reconnect = policy.into();
        self
    }

    /// Whether connections of a pool may be to different [servers](Self::endpoint) at the same
    /// time (default: no, so that a pool has one connection where there are several servers).
    /// Each then begins with another server.
    ///
    /// `NBD_FLAG_CAN_MULTI_CONN` is a server's word about connections to itself: there is no
    /// cache between them, or they share it (proto.md, "Transmission flags"). It says nothing of
    /// another server, even one of the same disk: two that cache, each for itself, may both set
    /// it, and what was written by way of one is then not what is read by way of the other. So
    /// both are needed, the flag of every server, and that somebody who knows the servers says
    /// here that they share what they cache, or cache nothing.
    #[must_use]
    pub const fn spread(mut self, spread: bool) -> Self {
        self.spread = spread;
        self
    }

    /// How long to look for a reply awake before going to sleep (default: not at all): for
    /// those to whom latency with few commands in flight is worth a processor.
    #[must_use]
    pub fn busy_poll(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.busy_poll = some_time(time);
        self
    }

    /// Name of the connection in what is told about it.
    #[must_use]
    #[doc(alias(
        "nbd_set_debug",
        "nbd_get_debug",
        "nbd_set_debug_callback",
        "nbd_clear_debug_callback",
        "nbd_set_handle_name"
    ))]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The servers, in the order in which they are tried.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// How many can be connected to, one after the other.
    pub(crate) fn ways(&self) -> usize {
        if self.dialled { 1 } else { self.endpoints.len() }
    }

    /// The URI that was given, if it was one.
    #[must_use]
    pub fn given_uri(&self) -> Option<&NbdUri> {
        self.uri.as_deref()
    }

    /// What is asked for in the negotiation.
    #[must_use]
    pub const fn negotiation(&self) -> &ClientConfig {
        &self.config
    }

    /// For adapters: how long to look for a reply awake.
    #[must_use]
    pub const fn busy_poll_time(&self) -> Option<Duration> {
        self.busy_poll
    }

    /// For adapters: the name that was given.
    #[must_use]
    pub fn given_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether a lost connection is made again.
    #[must_use]
    pub const fn reconnects(&self) -> bool {
        self.reconnect.is_some()
    }

    /// For those who make pools: the same for the connection of that number, which begins with
    /// another server where they are [spread](Self::spread).
    #[must_use]
    pub fn for_member(&self, number: usize) -> Self {
        let mut options = self.clone();
        if self.spread && !options.endpoints.is_empty() {
            let first = number % options.endpoints.len();
            options.endpoints.rotate_left(first);
        }
        options
    }

    /// Whether connections of a pool may be to [different servers](Self::spread).
    #[must_use]
    pub const fn is_spread(&self) -> bool {
        self.spread
    }

    /// Whether two connections with these options could be to different servers, and nobody has
    /// said that they may be.
    pub(crate) fn could_part(&self) -> bool {
        self.ways() > 1 && !self.spread
    }

    /// Whether acknowledged writes are kept until they are flushed, so that nobody else may
    /// write: there is one connection only then.
    #[must_use]
    pub fn keeps_unflushed(&self) -> bool {
        self.reconnect.is_some_and(|policy| policy.kept_bytes().is_some())
    }

    pub(crate) fn silence_limit(&self) -> Option<Duration> {
        match self.silence {
            Setting::Default => self.reconnect.map(|_| DEAD),
            Setting::Set(limit) => limit,
        }
    }

    pub(crate) fn tcp_probes(&self) -> Option<TcpKeepAlive> {
        match self.tcp_keep_alive {
            Setting::Default => {
                let wanted = self.reconnect.is_some() || self.silence_limit().is_some();
                let probes = TcpKeepAlive::new().idle(DEAD / 2).interval(DEAD / 6).count(3);
                wanted.then_some(probes)
            }
            Setting::Set(probes) => probes,
        }
    }
}

/// No time at all is no limit.
fn some_time(limit: impl Into<Option<Duration>>) -> Option<Duration> {
    limit.into().filter(|limit| !limit.is_zero())
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl FromStr for ConnectOptions {
    type Err = Error;

    /// To a URI, with the default [policy](ConnectOptions::uri_policy).
    fn from_str(uri: &str) -> Result<Self, Error> {
        Self::new().uri(uri)
    }
}

impl TryFrom<&str> for ConnectOptions {
    type Error = Error;

    /// As [`from_str`](Self::from_str).
    fn try_from(uri: &str) -> Result<Self, Error> {
        uri.parse()
    }
}

impl TryFrom<&String> for ConnectOptions {
    type Error = Error;

    /// As [`from_str`](Self::from_str).
    fn try_from(uri: &String) -> Result<Self, Error> {
        uri.parse()
    }
}

impl TryFrom<String> for ConnectOptions {
    type Error = Error;

    /// As [`from_str`](Self::from_str).
    fn try_from(uri: String) -> Result<Self, Error> {
        uri.parse()
    }
}

impl From<&Self> for ConnectOptions {
    fn from(options: &Self) -> Self {
        options.clone()
    }
}

impl From<NbdUri> for ConnectOptions {
    /// To a URI that the caller has made or checked.
    fn from(uri: NbdUri) -> Self {
        let mut options = Self::new();
        options.take_uri(uri);
        options
    }
}
