//! Option mode: asking a server before choosing an export.

use nbd_proto::{
    ClientConfig, ExportEntry, MetaContext, Negotiated, Negotiation, NegotiationEvent, OptionCode,
    Phase, Refusal,
};
use nbd_session::{Handshake, OldError as Error};
use nbd_transport::tls::TlsInfo;

use crate::builder::{Until, drive};
use crate::client::Client;
use crate::origin::Origin;
use crate::pump::Pump;
use crate::recovery::Plan;
use crate::state::State;

/// A connection whose export is not chosen yet.
///
/// ```no_run
/// use nbd_client_blocking::Builder;
///
/// let mut options = Builder::new().negotiate_uri("nbd://localhost")?;
/// for export in options.list()? {
///     println!("{} {}", export.name, export.description);
/// }
/// options.set_export_name("disk")?;
/// let client = options.go().map_err(|failed| failed.error)?;
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
#[derive(Debug)]
pub struct Options {
    handshake: Handshake,
    pump: Pump,
    origin: Origin,
    /// How to go on after a loss, if that is wanted.
    plan: Option<Plan>,
}

/// [`Options::go`] failed.
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
    pub(crate) const fn new(handshake: Handshake, pump: Pump, origin: Origin) -> Self {
        Self { handshake, pump, origin, plan: None }
    }

    /// The connection is to be made again like this when it is lost.
    pub(crate) fn planned(self, plan: Option<Plan>) -> Self {
        Self { plan, ..self }
    }

    pub(crate) fn drive(&mut self, until: Until<'_>) -> Result<(), Error> {
        drive(&mut self.handshake, &mut self.pump, until)
    }

    pub(crate) fn into_client(self) -> Result<Client, Error> {
        let Self { mut handshake, mut pump, origin, plan } = self;
        let export = handshake.negotiation().export_name().to_owned();
        let config = handshake.negotiation().config().clone();
        match handshake.finish() {
            Ok((core, link)) => {
                pump.link = link;
                pump.trace.established(core.negotiated());
                let recovery = match plan {
                    Some(plan) => Some(Box::new(plan.carry_out(config, &export, &core)?)),
                    None => None,
                };
                Ok(Client::new(core, pump, origin, export, recovery))
            }
            Err(_) => Err(nbd_proto::ApiMisuse::WrongState.into()),
        }
    }

    /// Whether the server can be asked. One that speaks an older protocol cannot, and
    /// only [`go`](Self::go) is left.
    #[must_use]
    pub fn is_negotiating(&self) -> bool {
        self.handshake.phase() == Phase::Idle
    }

    /// Where the connection stands.
    pub fn state(&mut self) -> State {
        match self.handshake.phase() {
            Phase::Idle | Phase::Established => State::Negotiating,
            Phase::Busy | Phase::StartTls => State::Connecting,
            Phase::Closed if self.handshake.negotiation().error().is_some() => State::Dead,
            Phase::Closed => State::Closed,
        }
    }

    /// Name of the connection, see [`Builder::name`](crate::Builder::name).
    #[must_use]
    pub fn name(&self) -> &str {
        self.pump.trace.name()
    }

    /// What was agreed on for TLS, if it is in use.
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.handshake.tls_info()
    }

    /// What is asked for.
    pub fn config(&mut self) -> &ClientConfig {
        self.handshake.negotiation().config()
    }

    /// What has been agreed on, and what is known of the export after
    /// [`info`](Self::info).
    pub fn negotiated(&mut self) -> &Negotiated {
        self.handshake.negotiation().negotiated()
    }

    /// The name of the export that is asked for.
    pub fn export_name(&mut self) -> &str {
        self.handshake.negotiation().export_name()
    }

    /// All exports with their descriptions.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub fn list(&mut self) -> Result<Vec<ExportEntry>, Error> {
        let mut exports = Vec::new();
        self.ask(OptionCode::List, Negotiation::list, |event| {
            if let NegotiationEvent::Export(entry) = event {
                exports.push(entry);
            }
        })?;
        Ok(exports)
    }

    /// What the export is like, without choosing it.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub fn info(&mut self) -> Result<Negotiated, Error> {
        self.ask(OptionCode::Info, Negotiation::info, drop)?;
        Ok(self.negotiated().clone())
    }

    /// The meta contexts that match the queries; all of them if there are none.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub fn list_meta_contexts(&mut self, queries: &[&str]) -> Result<Vec<MetaContext>, Error> {
        self.contexts(OptionCode::ListMetaContext, |negotiation| {
            negotiation.list_meta_contexts(queries)
        })
    }

    /// The meta contexts that match those of
    /// [`ClientConfig::meta_context`]; all there are if there are none.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub fn list_configured_meta_contexts(&mut self) -> Result<Vec<MetaContext>, Error> {
        let queries = self.config().meta_contexts().to_vec();
        self.list_meta_contexts(&strs(&queries))
    }

    /// Selects the meta contexts of [`ClientConfig::meta_context`], here and now; see
    /// [`set_meta_contexts`](Self::set_meta_contexts).
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub fn set_configured_meta_contexts(&mut self) -> Result<Vec<MetaContext>, Error> {
        let queries = self.config().meta_contexts().to_vec();
        self.set_meta_contexts(&strs(&queries))
    }

    /// Selects meta contexts in place of those selected before; returns those that
    /// were granted. The selection survives [`go`](Self::go) only if
    /// [`ClientConfig::request_meta_contexts`] is off.
    ///
    /// # Errors
    /// When the server refuses, cannot be asked, or the connection fails.
    pub fn set_meta_contexts(&mut self, queries: &[&str]) -> Result<Vec<MetaContext>, Error> {
        self.contexts(OptionCode::SetMetaContext, |negotiation| {
            negotiation.set_meta_contexts(queries)
        })
    }

    /// Asks for TLS; true if granted, and then the connection is encrypted and all is
    /// forgotten that was agreed on in clear. Takes the connector of
    /// [`Builder::tls`](crate::Builder::tls).
    ///
    /// # Errors
    /// When the server cannot be asked, the TLS handshake fails, or the connection fails.
    pub fn start_tls(&mut self) -> Result<bool, Error> {
        self.granted(OptionCode::StartTls, Negotiation::start_tls)
    }

    /// Asks for structured replies; true if granted.
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    pub fn structured_replies(&mut self) -> Result<bool, Error> {
        self.granted(OptionCode::StructuredReply, Negotiation::structured_replies)
    }

    /// Asks for extended headers; true if granted.
    ///
    /// # Errors
    /// When the server cannot be asked, or the connection fails.
    pub fn extended_headers(&mut self) -> Result<bool, Error> {
        self.granted(OptionCode::ExtendedHeaders, Negotiation::extended_headers)
    }

    /// Asks for another export from now on.
    ///
    /// # Errors
    /// When the name is too long or contains NUL.
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        Ok(self.handshake.negotiation().set_export_name(name)?)
    }

    /// Changes what is asked for from now on.
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
    /// # Errors
    /// When the server refuses or the connection fails.
    pub fn go(mut self) -> Result<Client, GoError> {
        let result = match self.handshake.phase() {
            // An oldstyle server has left no choice.
            Phase::Established => Ok(()),
            _ => self.ask(OptionCode::Go, Negotiation::go, drop),
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
    /// # Errors
    /// When the connection fails.
    pub fn abort(mut self) -> Result<(), Error> {
        if self.is_negotiating() {
            self.handshake.negotiation().abort()?;
            return match self.drive(Until { deadline: self.pump.deadline(), stop: None }) {
                // The end is what was wanted; how abrupt it is does not matter.
                Err(Error::Io(_)) => Ok(()),
                result => result,
            };
        }
        Ok(())
    }

    fn contexts(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), nbd_proto::Error>,
    ) -> Result<Vec<MetaContext>, Error> {
        let mut contexts = Vec::new();
        self.ask(option, start, |event| {
            if let NegotiationEvent::MetaContext(context) = event {
                contexts.push(context);
            }
        })?;
        Ok(contexts)
    }

    fn granted(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), nbd_proto::Error>,
    ) -> Result<bool, Error> {
        match self.ask(option, start, drop) {
            Ok(()) => Ok(true),
            Err(Error::Protocol(nbd_proto::Error::Refused(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends an option and waits for its end.
    fn ask(
        &mut self,
        option: OptionCode,
        start: impl FnOnce(&mut Negotiation) -> Result<(), nbd_proto::Error>,
        mut take: impl FnMut(NegotiationEvent),
    ) -> Result<(), Error> {
        let negotiation = self.handshake.negotiation();
        // What became of the automatic options is of no interest any more.
        while negotiation.poll_event().is_some() {}
        start(negotiation)?;
        self.drive(Until { deadline: self.pump.deadline(), stop: None })?;
        let mut refusal: Option<Refusal> = None;
        while let Some(event) = self.handshake.negotiation().poll_event() {
            match event {
                NegotiationEvent::Finished { option: finished, result } if finished == option => {
                    refusal = result.err();
                }
                other => take(other),
            }
        }
        let result = refusal.map_or(Ok(()), |refusal| Err(nbd_proto::Error::from(refusal).into()));
        self.pump.trace.option(option, result.as_ref().copied());
        result
    }
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
