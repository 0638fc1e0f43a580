//! The name of a connection, and what it tells of itself with feature `tracing`.
//!
//! Every event has a span `nbd` for its parent whose field `name` is the connection's name, so
//! that a subscriber can tell connections apart. Without the feature nothing is left of any of
//! this but the name.

use std::sync::atomic::{AtomicU64, Ordering};

use nbd_proto::{Command, Negotiated, RequestId};

use crate::error::Error;
use crate::event::Event;
use crate::session::{OptionReply, OptionRequest};

/// For connections that were given no name.
static NEXT: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) name: String,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[cfg(feature = "tracing")]
macro_rules! emit {
    ($trace:ident, $level:ident, $($message:tt)+) => {
        tracing::$level!(parent: &$trace.span, $($message)+)
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! emit {
    ($trace:ident, $level:ident, $($message:tt)+) => {{
        let _ = ($trace, format_args!($($message)+));
    }};
}

impl Trace {
    pub(crate) fn new(name: Option<&str>) -> Self {
        let name = name
            .map_or_else(|| format!("nbd{}", NEXT.fetch_add(1, Ordering::Relaxed)), str::to_owned);
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::debug_span!("nbd", name = name.as_str()),
            name,
        }
    }

    pub(crate) fn asked(&self, option: &OptionRequest) {
        emit!(self, debug, "option {option:?}");
    }

    pub(crate) fn answered(&self, answer: &Result<OptionReply, Error>) {
        match answer {
            Ok(OptionReply::Granted(false)) => emit!(self, debug, "option refused"),
            Ok(_) => emit!(self, debug, "option granted"),
            Err(error) => emit!(self, debug, "option failed: {error}"),
        }
    }

    pub(crate) fn established(&self, facts: &Negotiated) {
        emit!(self, debug, "connected: {facts:?}");
    }

    #[inline]
    pub(crate) fn submitted(&self, id: RequestId, command: &Command) {
        emit!(self, trace, "{id:?} submitted: {command:?}");
    }

    #[inline]
    pub(crate) fn finished(&self, id: RequestId, result: &Result<(), Error>) {
        match result {
            Ok(()) => emit!(self, trace, "{id:?} succeeded"),
            Err(error) => emit!(self, debug, "{id:?} failed: {error}"),
        }
    }

    pub(crate) fn happened(&self, event: &Event) {
        match event {
            Event::Lost { cause } => emit!(self, warn, "connection lost: {cause}"),
            Event::Failed { attempts, cause, .. } => {
                emit!(self, warn, "attempt {attempts} to connect again failed: {cause}");
            }
            Event::Reconnected { after } => emit!(self, info, "connected again after {after:?}"),
            Event::GaveUp { cause } => emit!(self, warn, "not connected again: {cause}"),
        }
    }

    pub(crate) fn ended(&self, cause: &Error) {
        emit!(self, debug, "connection ended: {cause}");
    }
}
