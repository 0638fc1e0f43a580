//! How the same server is reached once more.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use nbd_proto::{ClientConfig, HeaderStyle, Negotiated, TlsPolicy};
use nbd_session::OldError as Error;
use nbd_session::replay::Reconnect;
use nbd_transport::{Connection, Endpoint};

use crate::builder::{Builder, Until};
use crate::client::Client;

/// A caller's way to connect, to be used as often as it takes.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<Dialing>);

type Dialing = dyn Fn(Option<Instant>) -> Result<Connection, Error> + Send + Sync;

impl Dialer {
    pub(crate) fn new(
        dial: impl Fn(Option<Instant>) -> Result<Connection, Error> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(dial))
    }

    pub(crate) fn connect(&self, deadline: Option<Instant>) -> Result<Connection, Error> {
        (self.0)(deadline)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

/// Where connections come from.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Endpoint(Endpoint),
    Dialer(Dialer),
}

/// All that it takes to connect again.
#[derive(Debug)]
pub(super) struct Dial {
    builder: Builder,
    way: Way,
}

impl Dial {
    /// For a connection that was made this way, to come to the same agreement.
    pub(super) fn new(
        builder: Builder,
        way: Way,
        config: ClientConfig,
        export: &str,
        facts: &Negotiated,
    ) -> Self {
        let mut config = config
            .export(export)
            .option_mode(false)
            .structured_replies(facts.headers != HeaderStyle::Simple)
            .extended_headers(facts.headers == HeaderStyle::Extended)
            .clear_meta_contexts()
            .request_meta_contexts(true);
        // By their full names: a query may find others another time.
        for context in &facts.contexts {
            config = config.meta_context(&context.name);
        }
        if facts.tls {
            config = config.tls(TlsPolicy::Require);
        }
        Self { builder: builder.config(config), way }
    }

    /// By when an attempt that begins now has to be done; `last` is the end of patience.
    pub(super) fn limit(&self, last: Option<Instant>) -> Option<Instant> {
        let usual = || Instant::now().checked_add(Reconnect::LONGEST_ATTEMPT);
        last.into_iter().chain(self.builder.deadline().or_else(usual)).min()
    }

    /// Connects and negotiates.
    pub(super) fn connect(&self, until: Until<'_>) -> Result<Client, Error> {
        self.builder.begin_by(&self.way, false, until)?.into_client()
    }
}
