//! The ways to a server, once and again.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use nbd_proto::{MetaContext, TlsPolicy};
use nbd_session::replay::RecoveryError;
use nbd_session::{Handshake, OldError as Error};
use nbd_transport::tls::TlsConfig;
use nbd_transport::{Connection, Endpoint, NbdUri};

use super::Builder;
use crate::dial::Dialling;
use crate::options::{Options, Recall};
use crate::redial::{Later, Redial};
use crate::runtime::{Runtime, Socket, unblock};
use crate::shim::until;
use crate::state::{Stream, Wire};

/// A way to a server that can be gone more than once.
#[derive(Clone)]
pub(super) enum Route {
    Endpoint(Endpoint),
    /// The caller knows how.
    Own(Arc<dyn Fn() -> Later<io::Result<Wire>> + Send + Sync>),
}

impl Route {
    pub(super) fn own<F, S>(dial: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: Socket,
    {
        Self::Own(Arc::new(move || {
            let stream = dial();
            Box::pin(async move { Ok(plain(stream.await?)) })
        }))
    }

    /// What the server's certificate is compared with.
    fn host(&self) -> Option<String> {
        match self {
            Self::Endpoint(Endpoint::Tcp { host, .. }) => Some(host.clone()),
            Self::Endpoint(Endpoint::Address(address)) => Some(address.ip().to_string()),
            Self::Endpoint(_) | Self::Own(_) => None,
        }
    }
}

impl<R: Runtime + Clone> Builder<R> {
    pub(super) async fn resolve(mut self, uri: &str) -> Result<(Self, Endpoint), Error> {
        let uri: NbdUri = uri.parse()?;
        self.policy.check(&uri)?;
        self.config = self.config.export(uri.export_name());
        let endpoint = uri.endpoint();
        if uri.tls_required() {
            self.config = self.config.tls(TlsPolicy::Require);
            if self.tls.is_none() {
                let work = move || TlsConfig::from_uri(&uri).connector();
                let connector = unblock(&self.runtime, work)?.await;
                self.tls = Some(connector.map_err(|_| Error::Stopped)??);
            }
        }
        Ok((self, endpoint))
    }

    /// Goes a way, which can be gone again.
    pub(super) async fn open(
        &self,
        route: &Route,
        deadline: Option<Instant>,
        option_mode: bool,
    ) -> Result<Options, Error> {
        let wire = match route {
            Route::Endpoint(endpoint) => {
                let runtime = Arc::new(self.runtime.clone());
                let mut dialling = Dialling::new(runtime, endpoint.clone());
                let work = poll_fn(|cx| dialling.poll(cx));
                let connection = match until(&self.runtime, deadline, work).await? {
                    Some(connection) => connection?,
                    None => return Err(dialling.timed_out().into()),
                };
                if let Some(keep_alive) = self.tcp_keep_alive {
                    connection.set_tcp_keep_alive(keep_alive)?;
                }
                self.adopt(connection)?
            }
            Route::Own(dial) => match until(&self.runtime, deadline, dial()).await? {
                Some(wire) => wire?,
                None => {
                    let timeout = self.timeout.unwrap_or_default();
                    return Err(Error::TimedOut { state: "connecting", timeout });
                }
            },
        };
        self.begin(wire, route.host().as_deref(), deadline, option_mode, self.recall(route)).await
    }

    /// Begins on a stream that was handed over.
    pub(super) async fn take_over(&self, wire: Wire, option_mode: bool) -> Result<Options, Error> {
        if self.reconnect.is_some() {
            return Err(RecoveryError::NoWayBack.into());
        }
        self.begin(wire, None, self.deadline(), option_mode, None).await
    }

    async fn begin(
        &self,
        wire: Wire,
        host: Option<&str>,
        deadline: Option<Instant>,
        option_mode: bool,
        recall: Option<Recall>,
    ) -> Result<Options, Error> {
        let config = self.config.clone().option_mode(option_mode);
        let handshake = match &self.tls {
            Some(connector) => Handshake::with_tls(config, connector.clone(), host)?,
            None => Handshake::new(config)?,
        };
        let runtime = Arc::new(self.runtime.clone());
        let mut options = Options::new(handshake, wire, runtime, self.timeout, recall);
        options.keep_alive = self.keep_alive;
        options.drive(deadline).await?;
        Ok(options)
    }

    /// How to go a way again, for what was agreed on the first time.
    fn recall(&self, route: &Route) -> Option<Recall> {
        let policy = self.reconnect?;
        let mut builder = Self { reconnect: None, ..self.clone() };
        let route = route.clone();
        let redial = move |name: &str, contexts: &[MetaContext]| {
            let config = builder.config.export(name).clear_meta_contexts();
            let config = config.request_meta_contexts(true);
            builder.config =
                contexts.iter().fold(config, |config, context| config.meta_context(&context.name));
            Redial::new(move |deadline| {
                let (mut builder, route) = (builder.clone(), route.clone());
                builder.timeout = Some(deadline.saturating_duration_since(Instant::now()));
                Box::pin(async move { builder.open(&route, Some(deadline), false).await })
            })
        };
        Some(Recall { policy, redial: Box::new(redial) })
    }

    pub(super) fn adopt(&self, connection: Connection) -> Result<Wire, Error> {
        let Connection { stream, peer } = connection;
        Ok(Wire { stream: Stream::Os(self.runtime.watch(stream.into())?), peer })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout?)
    }
}

/// A stream of which nothing is known.
pub(super) fn plain(stream: impl Socket) -> Wire {
    Wire { stream: Stream::Any(Box::new(stream)), peer: None }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Own(_) => f.write_str("the caller's own"),
        }
    }
}
