//! What a session is doing, what it is connected to, and why it is over.

use std::fmt;
use std::sync::Arc;

use nbd_proto::{ContextId, ExportInfo, Machine, Negotiated};
use nbd_transport::tls::TlsInfo;
use nbd_transport::{Endpoint, NbdUri, UriError};

use super::{Goodbye, Session, Stage};
use crate::error::Error;

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[doc(alias = "nbd_connection_state")]
pub enum State {
    /// There is no server yet.
    #[doc(alias = "nbd_aio_is_connecting")]
    Connecting,
    /// Waiting for the server's answer to an option.
    Negotiating,
    /// Option mode: the caller chooses what comes next, by
    /// [`Session::request_option`].
    #[doc(alias = "nbd_aio_is_negotiating")]
    Choosing,
    /// Commands are accepted, and sent.
    #[doc(alias = "nbd_aio_is_ready")]
    Ready,
    /// The connection is lost. Commands are accepted, and wait for another one.
    Reconnecting,
    /// The end was asked for; the last replies are waited for, and the server's end.
    Disconnecting,
    /// Over. Completions can still be taken.
    #[doc(alias = "nbd_aio_is_closed")]
    Closed,
}

/// A word for people: "ready".
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Negotiating => "negotiating",
            Self::Choosing => "choosing",
            Self::Ready => "ready",
            Self::Reconnecting => "reconnecting",
            Self::Disconnecting => "disconnecting",
            Self::Closed => "closed",
        })
    }
}

impl Session {
    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        if self.end.is_some() {
            return State::Closed;
        }
        let ending = self.goodbye != Goodbye::No;
        match &self.stage {
            Stage::Over => State::Closed,
            _ if ending => State::Disconnecting,
            Stage::Open(_) => State::Ready,
            _ if self.is_ready() => State::Reconnecting,
            Stage::Negotiating(negotiating) if negotiating.is_choosing() => State::Choosing,
            Stage::Negotiating(_) => State::Negotiating,
            Stage::Waiting(_) | Stage::Credentials | Stage::Connecting => State::Connecting,
        }
    }

    /// The state in words, for diagnostics only.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match (&self.stage, self.state()) {
            (Stage::Open(open), State::Ready | State::Disconnecting) => open.core.state_name(),
            (_, State::Connecting) => "connecting",
            (_, State::Negotiating) => "negotiating",
            (_, State::Choosing) => "waiting for an option to be chosen",
            (_, State::Ready) => "ready",
            (_, State::Reconnecting) => "reconnecting",
            (_, State::Disconnecting) => "disconnecting",
            (_, State::Closed) => "closed",
        }
    }

    /// Whether the export is there: commands are accepted, even if they have to wait for
    /// another connection.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.end.is_none() && self.facts.is_some()
    }

    /// Whether it is over. Completions can still be taken.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Why it is over, if it is: told to every call that was under way, and to those that come
    /// later.
    #[must_use]
    #[doc(alias = "nbd_aio_is_dead")]
    pub fn end(&self) -> Option<&Error> {
        self.end.as_ref().map(|end| &end.cause)
    }

    /// Once it is [over](Self::is_over), what to tell whoever asked for the end: that all is
    /// well; or why it is not certain that everything which was acknowledged or under way has
    /// been done, and made durable where the server can.
    ///
    /// # Errors
    /// When the connection died with commands under way, or after writes that were not flushed;
    /// when the end took longer than its limit.
    pub fn farewell(&self) -> Result<(), Error> {
        match &self.end {
            None => Ok(()),
            Some(end) => end.farewell.clone(),
        }
    }

    /// Once it is [over](Self::is_over), what whoever uses it is to be told: the
    /// [farewell](Self::farewell) where the end was asked for, else [why](Self::end) it is over.
    /// `None` when all is well.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        let end = self.end.as_ref()?;
        if end.wanted { end.farewell.as_ref().err() } else { Some(&end.cause) }
    }

    /// What was negotiated, as callers were told first: later connections agree with it, or are
    /// refused. Only the size may grow, where the
    /// [policy](crate::replay::Reconnect::allow_growth) says so. `None` before the export is
    /// ready.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.facts.as_ref()
    }

    /// The export, once it is ready.
    #[must_use]
    pub fn export(&self) -> Option<&ExportInfo> {
        self.facts.as_ref()?.export.as_ref()
    }

    /// The name of the export that was asked for. What the server calls it is in
    /// [`ExportInfo::canonical_name`].
    #[must_use]
    #[doc(alias = "nbd_get_export_name")]
    pub fn export_name(&self) -> &str {
        &self.export_name
    }

    /// The number of a meta context, if it was asked for and granted.
    #[must_use]
    pub fn context(&self, name: &str) -> Option<ContextId> {
        let contexts = &self.facts.as_ref()?.contexts;
        let found = contexts.iter().find(|context| context.name == name)?;
        Some(found.id)
    }

    /// The longest read or write to be sent as one command, in bytes; longer ones are split.
    /// Whole blocks, so that what follows a piece stays aligned.
    #[must_use]
    #[doc(alias = "nbd_get_block_size")]
    pub fn max_request(&self) -> usize {
        /// What a server takes that tells no maximum (proto.md, "Size constraints").
        const DEFAULT: u64 = 32 << 20;
        let Some(export) = self.export() else { return DEFAULT as usize };
        let told = export.block_sizes.map(|sizes| u64::from(sizes.maximum));
        let maximum = told.map_or(DEFAULT, |maximum| maximum.min(DEFAULT));
        let block = u64::from(export.minimum_block()).max(1);
        (maximum - maximum % block).max(block) as usize
    }

    /// What was agreed on for TLS, if it is in use on this connection.
    #[must_use]
    #[doc(alias = "nbd_get_tls_negotiated")]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        match &self.stage {
            Stage::Negotiating(negotiating) => negotiating.handshake.tls_info(),
            Stage::Open(open) => open.link.tls_info(),
            _ => None,
        }
    }

    /// Which of the servers that were named it is connected to; while it is not, the one that is
    /// tried next. None where it is the caller who connects.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.attempts.endpoint().filter(|_| !self.options().dialled)
    }

    /// A URI that leads to the same export, with the same credentials for TLS as long as those
    /// came from a URI. `peer` is what the stream is connected to, if that has a name.
    ///
    /// What was connected to comes first, because a host name says more than the address it
    /// was resolved to.
    ///
    /// # Errors
    /// [`UriError::NoUri`] when the server has no address: a program that speaks on its
    /// standard input and output, or a socket of another kind that was handed over.
    pub fn to_uri(&self, peer: Option<&Endpoint>) -> Result<NbdUri, UriError> {
        let tls = self.facts.as_ref().is_some_and(|facts| facts.tls);
        let nameless = |what: &dyn fmt::Display| UriError::NoUri(what.to_string());
        let uri = match (self.options().given_uri(), self.attempts.endpoint()) {
            (Some(uri), Some(endpoint)) if *endpoint == uri.endpoint() => {
                let again = NbdUri::new(uri.address().clone(), tls || uri.tls_required())?
                    .with_tls(uri.tls().clone())?;
                match uri.username() {
                    Some(name) => again.with_username(name)?,
                    None => again,
                }
            }
            (_, Some(endpoint @ (Endpoint::Command(_) | Endpoint::SocketActivation(_)))) => {
                NbdUri::from_endpoint(peer.ok_or_else(|| nameless(endpoint))?, tls)?
            }
            (_, Some(endpoint)) => NbdUri::from_endpoint(endpoint, tls)?,
            (_, None) => {
                let peer = peer.ok_or_else(|| nameless(&"a socket without an address"))?;
                NbdUri::from_endpoint(peer, tls)?
            }
        };
        uri.with_export_name(&self.export_name)
    }
}
