//! Option mode: asking a server before choosing an export.

use std::time::{Duration, Instant};

use nbd_proto::{
    ApiMisuse, ClientConfig, Error as ProtocolError, ExportEntry, MetaContext, Negotiated,
    Negotiation, NegotiationEvent, OptionCode, Phase, Refusal,
};

use super::{Session, Stage};
use crate::error::{Error, Overdue};
use crate::handshake::Handshake;
use crate::limit::Limit;

/// What takes too long when credentials do not come.
pub(super) const READING_CREDENTIALS: &str = "reading credentials";

/// What to ask a server in option mode: see [`Session::request_option`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionRequest {
    /// All exports with their descriptions.
    List,
    /// What the export is like, without choosing it. The configured meta contexts are selected
    /// first.
    Info,
    /// Chooses the export. A refusal leaves the connection in option mode, to choose another
    /// one.
    Go,
    /// Ends the connection in good order.
    Abort,
    /// TLS, with the credentials of the [options](crate::ConnectOptions::tls). If granted, the
    /// connection is encrypted and all is forgotten that was agreed on in clear.
    StartTls,
    /// Structured replies.
    StructuredReplies,
    /// Extended headers.
    ExtendedHeaders,
    /// The meta contexts that match the queries; all of them if there are none.
    ListMetaContexts(Vec<String>),
    /// Selects meta contexts in place of those selected before. The selection survives
    /// [`Go`](Self::Go) only if [`ClientConfig::request_meta_contexts`] is off.
    SetMetaContexts(Vec<String>),
}

/// What a server answered: see [`Session::take_option`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionReply {
    /// To [`OptionRequest::List`].
    Exports(Vec<ExportEntry>),
    /// To [`OptionRequest::Info`].
    Info(Box<Negotiated>),
    /// To [`OptionRequest::ListMetaContexts`] and [`OptionRequest::SetMetaContexts`].
    MetaContexts(Vec<MetaContext>),
    /// To [`OptionRequest::StartTls`], [`OptionRequest::StructuredReplies`] and
    /// [`OptionRequest::ExtendedHeaders`]: whether it was granted.
    Granted(bool),
    /// To [`OptionRequest::Go`]: commands are accepted.
    Ready,
    /// To [`OptionRequest::Abort`]: the session is over.
    Ended,
}

impl OptionReply {
    /// The exports, where these were asked for.
    #[must_use]
    pub fn into_exports(self) -> Vec<ExportEntry> {
        match self {
            Self::Exports(exports) => exports,
            _ => Vec::new(),
        }
    }

    /// The meta contexts, where these were asked for.
    #[must_use]
    pub fn into_meta_contexts(self) -> Vec<MetaContext> {
        match self {
            Self::MetaContexts(contexts) => contexts,
            _ => Vec::new(),
        }
    }

    /// Whether something was asked for that is granted or not, and was granted.
    #[must_use]
    pub fn is_granted(&self) -> bool {
        *self == Self::Granted(true)
    }
}

/// A negotiation, and the option that the caller has asked for.
#[derive(Debug)]
pub(super) struct Negotiating {
    pub(super) handshake: Handshake,
    pub(super) asked: Option<Asked>,
    /// Credentials for TLS have been asked for.
    pub(super) awaits_credentials: bool,
}

#[derive(Debug)]
pub(super) struct Asked {
    request: OptionRequest,
    exports: Vec<ExportEntry>,
    contexts: Vec<MetaContext>,
    refusal: Option<Refusal>,
    /// When it began, and when it has taken too long.
    pub(super) since: Instant,
    pub(super) by: Option<Instant>,
}

impl Negotiating {
    pub(super) const fn new(handshake: Handshake) -> Self {
        Self { handshake, asked: None, awaits_credentials: false }
    }

    /// Whether the caller chooses what comes next. An oldstyle server has left no choice, but
    /// whoever wants to choose is asked all the same.
    pub(super) fn is_choosing(&self) -> bool {
        if self.asked.is_some() {
            return false;
        }
        match self.handshake.phase() {
            Phase::Idle => true,
            Phase::Established => self.handshake.peek().config().stops_for_options(),
            Phase::Busy | Phase::StartTls | Phase::Closed => false,
        }
    }

    /// What has taken too long: the server, or whoever reads the caller's credentials.
    pub(super) fn timed_out(&self, after: Duration) -> Error {
        if self.handshake.wants_credentials() {
            return Error::timed_out(READING_CREDENTIALS, after);
        }
        let overdue = match &self.asked {
            Some(_) => Overdue::Option,
            None if self.handshake.stats().bytes_received == 0 => Overdue::Greeting,
            None => Overdue::Negotiation,
        };
        Error::not_negotiated(overdue, after)
    }

    pub(super) fn has_buffered(&self) -> bool {
        !self.is_choosing() && self.handshake.has_buffered()
    }

    /// Takes in what the server has said about the option.
    pub(super) fn collect(&mut self) {
        while let Some(event) = self.handshake.negotiation().poll_event() {
            let Some(asked) = &mut self.asked else { continue };
            match event {
                NegotiationEvent::Export(entry) => asked.exports.push(entry),
                NegotiationEvent::MetaContext(context) => asked.contexts.push(context),
                NegotiationEvent::Finished { option, result } if option == asked.code() => {
                    asked.refusal = result.err();
                }
                // An option that went before it by itself, or what nobody asked for.
                _ => {}
            }
        }
    }

    /// The outcome of the option that was asked for, when the negotiation is idle again.
    pub(super) fn finish(&mut self) -> Option<Result<OptionReply, Error>> {
        let asked = self.asked.take()?;
        let Asked { request, exports, contexts, refusal, .. } = asked;
        let reply = match (request, refusal) {
            (
                OptionRequest::StartTls
                | OptionRequest::StructuredReplies
                | OptionRequest::ExtendedHeaders,
                refusal,
            ) => OptionReply::Granted(refusal.is_none()),
            (_, Some(refusal)) => return Some(Err(ProtocolError::from(refusal).into())),
            (OptionRequest::List, None) => OptionReply::Exports(exports),
            (OptionRequest::Info, None) => {
                let facts = self.handshake.peek().negotiated();
                OptionReply::Info(Box::new(facts.clone()))
            }
            (OptionRequest::ListMetaContexts(_) | OptionRequest::SetMetaContexts(_), None) => {
                OptionReply::MetaContexts(contexts)
            }
            (OptionRequest::Go, None) => OptionReply::Ready,
            (OptionRequest::Abort, None) => OptionReply::Ended,
        };
        Some(Ok(reply))
    }
}

impl Asked {
    const fn code(&self) -> OptionCode {
        match self.request {
            OptionRequest::List => OptionCode::List,
            OptionRequest::Info => OptionCode::Info,
            OptionRequest::Go => OptionCode::Go,
            OptionRequest::Abort => OptionCode::Abort,
            OptionRequest::StartTls => OptionCode::StartTls,
            OptionRequest::StructuredReplies => OptionCode::StructuredReply,
            OptionRequest::ExtendedHeaders => OptionCode::ExtendedHeaders,
            OptionRequest::ListMetaContexts(_) => OptionCode::ListMetaContext,
            OptionRequest::SetMetaContexts(_) => OptionCode::SetMetaContext,
        }
    }

    pub(super) fn is_abort(&self) -> bool {
        self.request == OptionRequest::Abort
    }

    /// For how long it has been waited for.
    pub(super) fn waited(&self) -> Duration {
        self.by.map_or(Duration::ZERO, |by| by.saturating_duration_since(self.since))
    }
}

impl Session {
    /// Whether the server can be asked in [`State::Choosing`](super::State::Choosing). One that
    /// speaks an older protocol cannot, and only [`OptionRequest::Go`] is left.
    #[must_use]
    pub fn takes_options(&self) -> bool {
        match &self.stage {
            Stage::Negotiating(negotiating) => negotiating.handshake.phase() == Phase::Idle,
            _ => false,
        }
    }

    /// Asks for an option, in [`State::Choosing`](super::State::Choosing), which the session
    /// reaches if [`ClientConfig::option_mode`] is on. One at a time;
    /// [`take_option`](Self::take_option) has the answer. [`Limit::Default`] is the
    /// [`connect_timeout`](crate::ConnectOptions::connect_timeout); what takes longer ends the
    /// session.
    ///
    /// # Errors
    /// In any other state, when the server cannot be asked, and for a bad name.
    pub fn request_option(
        &mut self,
        request: OptionRequest,
        limit: Limit,
        now: Instant,
    ) -> Result<(), Error> {
        let by = limit.end(self.attempts.options.connect_timeout, now);
        let Stage::Negotiating(negotiating) = &mut self.stage else { return Err(wrong_state()) };
        if !negotiating.is_choosing() {
            return Err(wrong_state());
        }
        // What became of the automatic options is of no interest any more.
        while negotiating.handshake.negotiation().poll_event().is_some() {}
        let established = negotiating.handshake.phase() == Phase::Established;
        if !(established && request == OptionRequest::Go) {
            start(negotiating.handshake.negotiation(), &request)?;
        }
        self.attempts.trace.asked(&request);
        let (exports, contexts) = (Vec::new(), Vec::new());
        negotiating.asked =
            Some(Asked { request, exports, contexts, refusal: None, since: limit.since(now), by });
        self.attempts.option = None;
        if established {
            self.opened(now);
        }
        Ok(())
    }

    /// What became of the option that was [asked](Self::request_option) for, once that is
    /// known.
    pub fn take_option(&mut self) -> Option<Result<OptionReply, Error>> {
        let answer = self.attempts.option.take()?;
        self.attempts.trace.answered(&answer);
        Some(answer)
    }

    /// Asks for another export from now on, in [`State::Choosing`](super::State::Choosing).
    ///
    /// # Errors
    /// In any other state, and when the name is too long or contains NUL.
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        match &mut self.stage {
            Stage::Negotiating(negotiating) if negotiating.is_choosing() => {
                Ok(negotiating.handshake.negotiation().set_export_name(name)?)
            }
            _ => Err(wrong_state()),
        }
    }

    /// Changes what is asked for from now on, in [`State::Choosing`](super::State::Choosing).
    ///
    /// # Errors
    /// In any other state, and when a name is too long or contains NUL.
    pub fn reconfigure(
        &mut self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<(), Error> {
        match &mut self.stage {
            Stage::Negotiating(negotiating) if negotiating.is_choosing() => {
                let negotiation = negotiating.handshake.negotiation();
                // The name may have been changed by itself.
                let name = negotiation.export_name().to_owned();
                Ok(negotiation.reconfigure(|config| change(config.export(name)))?)
            }
            _ => Err(wrong_state()),
        }
    }
}

fn wrong_state() -> Error {
    ApiMisuse::WrongState.into()
}

fn start(negotiation: &mut Negotiation, request: &OptionRequest) -> Result<(), Error> {
    match request {
        OptionRequest::List => negotiation.list(),
        OptionRequest::Info => negotiation.info(),
        OptionRequest::Go => negotiation.go(),
        OptionRequest::Abort => negotiation.abort(),
        OptionRequest::StartTls => negotiation.start_tls(),
        OptionRequest::StructuredReplies => negotiation.structured_replies(),
        OptionRequest::ExtendedHeaders => negotiation.extended_headers(),
        OptionRequest::ListMetaContexts(queries) => negotiation.list_meta_contexts(&strs(queries)),
        OptionRequest::SetMetaContexts(queries) => negotiation.set_meta_contexts(&strs(queries)),
    }?;
    Ok(())
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
