//! Option mode: asking a server before choosing an export.

use std::fmt;
use std::future::poll_fn;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use nbd_proto::{
    ApiMisuse, ClientConfig, Direction, ExportEntry, Machine, MetaContext, Negotiated, Negotiation,
    NegotiationEvent, OptionCode, Phase, Refusal,
};
use nbd_session::replay::Reconnect;
use nbd_session::{Handshake, Link, OldError as Error};
use nbd_transport::tls::TlsInfo;

use crate::client::Client;
use crate::driver::Driver;
use crate::redial::Redial;
use crate::runtime::Runtime;
use crate::shim::{Shim, until};
use crate::state::{Recovery, Shared, Wire};

/// A connection whose export is not chosen yet.
///
/// A future that is dropped leaves its option under way; the next one waits for that
/// first.
///
/// ```
/// # use nbd_client_async::{Builder, Error, Runtime};
/// async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
///     let mut options = builder.negotiate_uri("nbd://localhost").await?;
///     for export in options.list().await? {
///         println!("{} {}", export.name, export.description);
///     }
///     options.set_export_name("disk")?;
///     let client = options.go().await.map_err(|failed| failed.error)?;
///     client.disconnect().await
/// }
/// ```
pub struct Options {
    handshake: Handshake,
    wire: Wire,
    runtime: Arc<dyn Runtime>,
    timeout: Option<Duration>,
    pub(crate) keep_alive: Option<Duration>,
    /// How to do all this again, if that is wanted.
    recall: Option<Recall>,
}

/// How to make a connection again, once it is known what for.
pub(crate) struct Recall {
    pub(crate) policy: Reconnect,
    pub(crate) redial: Box<MakeRedial>,
}

/// Told the export and the meta contexts.
pub(crate) type MakeRedial = dyn FnOnce(&str, &[MetaContext]) -> Redial + Send + Sync;

/// [`Options::go`] failed.
///
/// ```
/// # use nbd_client_async::{Client, GoError, Options};
/// # async fn example(options: Options) -> Result<Client, GoError> {
/// let failed = match options.go().await {
///     Err(failed) => failed,
///     Ok(client) => return Ok(client),
/// };
/// match failed.options {
///     Some(options) => options.go().await,
///     None => Err(GoError { options: None, ..failed }),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct GoError {
    /// Why.
    #[source]
    pub error: Error,
    /// The connection, when the server merely refused: ask for something else.
    pub options: Option<Box<Options>>,
}

impl Options {
    pub(crate) fn new(
        handshake: Handshake,
        wire: Wire,
        runtime: Arc<dyn Runtime>,
        timeout: Option<Duration>,
        recall: Option<Recall>,
    ) -> Self {
        Self { handshake, wire, runtime, timeout, keep_alive: None, recall }
    }

    /// Goes on until the negotiation wants its caller.
    pub(crate) async fn drive(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let (handshake, wire) = (&mut self.handshake, &mut self.wire);
        let work = poll_fn(|cx| {
            loop {
                let mode = wire.stream.mode();
                let mut shim = Shim::new(&mut wire.stream, cx);
                let direction = handshake.drive(&mut shim, mode);
                let (calls, read, write) = (shim.calls, shim.read_pending, shim.write_pending);
                let direction = direction?;
                match Shim::new(&mut wire.stream, cx).flush() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => {
                        return Poll::Ready(Err(error.into()));
                    }
                    _ => {}
                }
                if direction.is_empty() || handshake.phase() == Phase::Closed {
                    return Poll::Ready(Ok(()));
                }
                // What is wanted and was not found pending can go on at once.
                let stuck = (!direction.contains(Direction::READ) || read)
                    && (!direction.contains(Direction::WRITE) || write);
                if stuck {
                    return Poll::Pending;
                }
                if calls == 0 {
                    return Poll::Ready(Err(ApiMisuse::WrongState.into()));
                }
            }
        });
        match until(&*self.runtime, deadline, work).await? {
            Some(result) => result,
            None => Err(Error::TimedOut {
                state: self.handshake.negotiation().state_name(),
                timeout: self.timeout.unwrap_or_default(),
            }),
        }
    }

    pub(crate) fn into_client(mut self) -> Result<Client, Error> {
        let recall = self.recall.take();
        let (runtime, timeout) = (Arc::clone(&self.runtime), self.timeout);
        let keep_alive = self.keep_alive;
        let name = recall.is_some().then(|| self.export_name().to_owned());
        let (core, link, wire) = self.into_parts()?;
        let (mut recovery, mut redial) = (None, None);
        if let Some(recall) = recall {
            recovery = Some(Recovery::new(recall.policy, &core)?);
            let contexts = &core.negotiated().contexts;
            redial = Some((recall.redial)(&name.unwrap_or_default(), contexts));
        }
        let shared = Arc::new(Shared::new(core, link, wire, keep_alive, recovery));
        let client = Client::new(Arc::clone(&shared), timeout);
        let driver = Driver::new(shared, Arc::clone(&runtime), redial);
        runtime.spawn(driver)?;
        Ok(client)
    }

    /// What a negotiation that is done has led to.
    pub(crate) fn into_parts(self) -> Result<(nbd_proto::Client, Link, Wire), Error> {
        let Ok((core, link)) = self.handshake.finish() else {
            return Err(ApiMisuse::WrongState.into());
        };
        Ok((core, link, self.wire))
    }

    /// Whether the server can be asked. One that speaks an older protocol cannot, and
    /// only [`go`](Self::go) is left.
    ///
    /// ```
    /// # fn example(options: &nbd_client_async::Options) {
    /// assert!(options.is_negotiating());
    /// # }
    /// ```
    #[must_use]
    pub fn is_negotiating(&self) -> bool {
        self.handshake.phase() == Phase::Idle
    }

    /// What has been agreed on, and what is known of the export after
    /// [`info`](Self::info).
    ///
    /// ```
    /// # fn example(options: &mut nbd_client_async::Options) {
    /// println!("{}", options.negotiated().protocol.name());
    /// # }
    /// ```
    pub fn negotiated(&mut self) -> &Negotiated {
        self.handshake.negotiation().negotiated()
    }

    /// What was agreed on for TLS, and who the server is; `None` in clear.
    ///
    /// ```
    /// # fn example(options: &nbd_client_async::Options) {
    /// println!("secure: {}", options.tls_info().is_some());
    /// # }
    /// ```
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.handshake.tls_info()
    }

    /// The name of the export that is asked for.
    ///
    /// ```
    /// # fn example(options: &mut nbd_client_async::Options) {
    /// println!("{}", options.export_name());
    /// # }
    /// ```
    pub fn export_name(&mut self) -> &str {
        self.handshake.negotiation().export_name()
    }

    /// All exports with their descriptions.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// println!("{} exports", options.list().await?.len());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub async fn list(&mut self) -> Result<Vec<ExportEntry>, Error> {
        let mut exports = Vec::new();
        self.ask(OptionCode::List, Negotiation::list, |event| {
            if let NegotiationEvent::Export(entry) = event {
                exports.push(entry);
            }
        })
        .await?;
        Ok(exports)
    }

    /// What the export is like, without choosing it.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// println!("{:?}", options.info().await?.export);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub async fn info(&mut self) -> Result<Negotiated, Error> {
        self.ask(OptionCode::Info, Negotiation::info, drop).await?;
        Ok(self.negotiated().clone())
    }

    /// The meta contexts that match the queries; all of them if there are none.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// for context in options.list_meta_contexts(&["base:"]).await? {
    ///     println!("{}", context.name);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub async fn list_meta_contexts(
        &mut self,
        queries: &[&str],
    ) -> Result<Vec<MetaContext>, Error> {
        self.contexts(OptionCode::ListMetaContext, |negotiation| {
            negotiation.list_meta_contexts(queries)
        })
        .await
    }

    /// Selects meta contexts in place of those selected before; returns those that
    /// were granted. The selection survives [`go`](Self::go) only if
    /// [`ClientConfig::request_meta_contexts`] is off.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// let granted = options.set_meta_contexts(&["base:allocation"]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub async fn set_meta_contexts(&mut self, queries: &[&str]) -> Result<Vec<MetaContext>, Error> {
        self.contexts(OptionCode::SetMetaContext, |negotiation| {
            negotiation.set_meta_contexts(queries)
        })
        .await
    }

    /// Asks for structured replies; true if granted.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// let granted = options.structured_replies().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    pub async fn structured_replies(&mut self) -> Result<bool, Error> {
        self.granted(OptionCode::StructuredReply, Negotiation::structured_replies).await
    }

    /// Asks for extended headers; true if granted.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: &mut Options) -> Result<(), Error> {
    /// let granted = options.extended_headers().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    pub async fn extended_headers(&mut self) -> Result<bool, Error> {
        self.granted(OptionCode::ExtendedHeaders, Negotiation::extended_headers).await
    }

    /// Asks for another export from now on.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # fn example(options: &mut Options) -> Result<(), Error> {
    /// options.set_export_name("disk")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the name is too long or contains NUL.
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        Ok(self.handshake.negotiation().set_export_name(name)?)
    }

    /// Changes what is asked for from now on.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # fn example(options: &mut Options) -> Result<(), Error> {
    /// options.reconfigure(|config| config.full_info(true))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When a name is too long or contains NUL.
    pub fn reconfigure(
        &mut self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<(), Error> {
        Ok(self.handshake.negotiation().reconfigure(change)?)
    }

    /// Chooses the export. A refusal gives the connection back, to choose another one.
    ///
    /// ```
    /// # use nbd_client_async::{Client, GoError, Options};
    /// # async fn example(options: Options) -> Result<Client, GoError> {
    /// options.go().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the server refuses or the connection fails.
    pub async fn go(mut self) -> Result<Client, GoError> {
        let result = match self.handshake.phase() {
            // An oldstyle server has left no choice.
            Phase::Established => Ok(()),
            _ => self.ask(OptionCode::Go, Negotiation::go, drop).await,
        };
        match result {
            Ok(()) => self.into_client().map_err(|error| GoError { error, options: None }),
            Err(error) => {
                let options = self.is_negotiating().then(|| Box::new(self));
                Err(GoError { error, options })
            }
        }
    }

    /// Ends the connection in good order.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Options};
    /// # async fn example(options: Options) -> Result<(), Error> {
    /// options.abort().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn abort(mut self) -> Result<(), Error> {
        if self.is_negotiating() {
            self.handshake.negotiation().abort()?;
            self.drive(self.deadline()).await?;
        }
        Ok(())
    }

    async fn contexts(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), nbd_proto::Error>,
    ) -> Result<Vec<MetaContext>, Error> {
        let mut contexts = Vec::new();
        self.ask(option, start, |event| {
            if let NegotiationEvent::MetaContext(context) = event {
                contexts.push(context);
            }
        })
        .await?;
        Ok(contexts)
    }

    async fn granted(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), nbd_proto::Error>,
    ) -> Result<bool, Error> {
        match self.ask(option, start, drop).await {
            Ok(()) => Ok(true),
            Err(Error::Protocol(nbd_proto::Error::Refused(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends an option and waits for its end.
    async fn ask(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), nbd_proto::Error>,
        mut take: impl FnMut(NegotiationEvent),
    ) -> Result<(), Error> {
        let deadline = self.deadline();
        if self.handshake.phase() == Phase::Busy {
            // An earlier future was dropped.
            self.drive(deadline).await?;
        }
        let negotiation = self.handshake.negotiation();
        // What became of the automatic options is of no interest any more.
        while negotiation.poll_event().is_some() {}
        start(negotiation)?;
        self.drive(deadline).await?;
        let mut refusal: Option<Refusal> = None;
        while let Some(event) = self.handshake.negotiation().poll_event() {
            match event {
                NegotiationEvent::Finished { option: finished, result } if finished == option => {
                    refusal = result.err();
                }
                other => take(other),
            }
        }
        refusal.map_or(Ok(()), |refusal| Err(nbd_proto::Error::from(refusal).into()))
    }

    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout?)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("handshake", &self.handshake)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
