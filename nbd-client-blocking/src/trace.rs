//! The name of a connection, and what it tells of itself with feature `tracing`.
//!
//! Every event is inside a span `nbd` whose field `name` is the connection's name, so
//! that a subscriber can tell connections apart. Without the feature nothing is left of
//! any of this but the name.

use std::sync::atomic::{AtomicU64, Ordering};

use nbd_proto::{Command, Negotiated, RequestId};
use nbd_session::{Error, OptionReply, OptionRequest};

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
        $trace.span.in_scope(|| tracing::$level!($($message)+))
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! emit {
    ($trace:ident, $level:ident, $($message:tt)+) => {{
        let _ = ($trace, format_args!($($message)+));
    }};
}

/// Has work that is done in another thread tell whom this one tells, and where.
pub(crate) fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    #[cfg(feature = "tracing")]
    {
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        let span = tracing::Span::current();
        move || tracing::dispatcher::with_default(&subscriber, || span.in_scope(work))
    }
    #[cfg(not(feature = "tracing"))]
    work
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

    pub(crate) fn option(&self, option: &OptionRequest, answer: Result<&OptionReply, &Error>) {
        match answer {
            Ok(OptionReply::Granted(false)) => emit!(self, debug, "{option:?} refused"),
            Ok(_) => emit!(self, debug, "{option:?} granted"),
            Err(error) => emit!(self, debug, "{option:?}: {error}"),
        }
    }

    pub(crate) fn established(&self, facts: &Negotiated) {
        emit!(self, debug, "connected: {facts:?}");
    }

    pub(crate) fn submitted(&self, id: RequestId, command: &Command) {
        emit!(self, trace, "{id:?} submitted: {command:?}");
    }

    pub(crate) fn finished(&self, id: RequestId, result: Result<(), &Error>) {
        match result {
            Ok(()) => emit!(self, trace, "{id:?} succeeded"),
            Err(error) => emit!(self, debug, "{id:?} failed: {error}"),
        }
    }

    pub(crate) fn closed(&self) {
        emit!(self, debug, "connection ended");
    }
}
