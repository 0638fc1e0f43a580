//! What a caller may ask for in option mode.

use alloc::string::String;
use alloc::vec::Vec;

use super::order::{Goal, Stage};
use super::{Negotiation, Phase};
use crate::config::{ClientConfig, TlsPolicy, check_sendable};
use crate::error::{ApiMisuse, Error, PeerIncompatible};
use crate::negotiate::facts::Protocol;
use crate::types::HeaderStyle;
use crate::wire::option::OptionCode;

impl Negotiation {
    /// Asks for the list of exports; each comes as
    /// [`NegotiationEvent::Export`](crate::NegotiationEvent::Export).
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    #[doc(alias("nbd_opt_list", "nbd_aio_opt_list"))]
    pub fn list(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::List, |_| {})
    }

    /// Asks for the export's details without choosing it. Selects the configured
    /// meta contexts first. On success [`negotiated`](Self::negotiated) tells them.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    #[doc(alias("nbd_opt_info", "nbd_aio_opt_info"))]
    pub fn info(&mut self) -> Result<(), Error> {
        self.check_option(OptionCode::Info)?;
        self.session.core.goal = Goal::Info;
        self.session.core.stage = Stage::MetaContext;
        self.go_on()
    }

    /// Chooses the export and goes on to the data phase. Selects the configured
    /// meta contexts first. When the server refuses, the negotiation is idle again.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`].
    #[doc(alias("nbd_opt_go", "nbd_aio_opt_go"))]
    pub fn go(&mut self) -> Result<(), Error> {
        self.check_idle()?;
        self.check_tls(OptionCode::Go)?;
        self.session.core.goal = Goal::Go;
        self.session.core.stage = Stage::MetaContext;
        self.go_on()
    }

    /// Ends the negotiation in good order.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    #[doc(alias("nbd_opt_abort", "nbd_aio_opt_abort"))]
    pub fn abort(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::Abort, |_| {})
    }

    /// Asks for TLS. On success the phase is [`Phase::StartTls`] and, after
    /// [`tls_ready`](Self::tls_ready), idle again with everything forgotten that was
    /// negotiated before; a refusal is reported and changes nothing.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    #[doc(alias("nbd_opt_starttls", "nbd_aio_opt_starttls"))]
    pub fn start_tls(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::StartTls, |_| {})
    }

    /// Asks for structured replies.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    #[doc(alias("nbd_opt_structured_reply", "nbd_aio_opt_structured_reply"))]
    pub fn structured_replies(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::StructuredReply, |_| {})
    }

    /// Asks for extended headers, which imply structured replies.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    #[doc(alias("nbd_opt_extended_headers", "nbd_aio_opt_extended_headers"))]
    pub fn extended_headers(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::ExtendedHeaders, |_| {})
    }

    /// Asks which meta contexts match the queries, or which exist when there are none;
    /// each comes as
    /// [`NegotiationEvent::MetaContext`](crate::NegotiationEvent::MetaContext). Changes
    /// nothing.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], when the server is not fixed newstyle or structured
    /// replies were not negotiated, and for a bad name.
    #[doc(alias(
        "nbd_opt_list_meta_context",
        "nbd_aio_opt_list_meta_context",
        "nbd_opt_list_meta_context_queries",
        "nbd_aio_opt_list_meta_context_queries"
    ))]
    pub fn list_meta_contexts(&mut self, queries: &[&str]) -> Result<(), Error> {
        self.ask_contexts(OptionCode::ListMetaContext, queries)
    }

    /// Selects meta contexts for the export, in place of those selected before; each
    /// one granted comes as
    /// [`NegotiationEvent::MetaContext`](crate::NegotiationEvent::MetaContext). To keep
    /// the selection, switch off
    /// [`request_meta_contexts`](ClientConfig::request_meta_contexts).
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], when the server is not fixed newstyle or structured
    /// replies were not negotiated, and for a bad name.
    #[doc(alias(
        "nbd_opt_set_meta_context",
        "nbd_aio_opt_set_meta_context",
        "nbd_opt_set_meta_context_queries",
        "nbd_aio_opt_set_meta_context_queries"
    ))]
    pub fn set_meta_contexts(&mut self, queries: &[&str]) -> Result<(), Error> {
        self.ask_contexts(OptionCode::SetMetaContext, queries)
    }

    /// Asks for another export from now on. Forgets what is known about the one
    /// before, its meta contexts included.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and for a bad name.
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        self.check_idle()?;
        let name = name.into();
        check_sendable(&name)?;
        if name != self.session.core.export {
            self.session.core.facts.forget_export();
            self.session.core.facts.contexts.clear();
            self.session.core.export = name;
        }
        Ok(())
    }

    /// Changes the configuration of what is still to come. Where it comes to
    /// [require](TlsPolicy::Require) TLS on a connection in clear, nothing more is asked for there
    /// but [TLS](Self::start_tls) or the [end](Self::abort).
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and for a bad name: then nothing has changed.
    pub fn reconfigure(
        &mut self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<(), Error> {
        self.check_idle()?;
        let config = change(self.session.core.config.clone());
        check_sendable(&config.export)?;
        check_all(&config.meta_contexts)?;
        let name = config.export.clone();
        self.session.core.config = config;
        self.set_export_name(name)
    }

    fn check_idle(&self) -> Result<(), Error> {
        self.session.check_alive()?;
        if self.phase() == Phase::Idle { Ok(()) } else { Err(ApiMisuse::WrongState.into()) }
    }

    fn check_option(&self, option: OptionCode) -> Result<(), Error> {
        self.check_idle()?;
        self.check_tls(option)?;
        match self.session.core.facts.protocol {
            Protocol::FixedNewstyle => Ok(()),
            Protocol::Newstyle | Protocol::Oldstyle => {
                Err(PeerIncompatible::NotFixedNewstyle.into())
            }
        }
    }

    /// The policy may have changed since TLS was negotiated by itself.
    fn check_tls(&self, option: OptionCode) -> Result<(), ApiMisuse> {
        let core = &self.session.core;
        if core.facts.tls || core.config.tls != TlsPolicy::Require {
            return Ok(());
        }
        match option {
            OptionCode::StartTls | OptionCode::Abort => Ok(()),
            OptionCode::ExportName
            | OptionCode::List
            | OptionCode::Info
            | OptionCode::Go
            | OptionCode::StructuredReply
            | OptionCode::ListMetaContext
            | OptionCode::SetMetaContext
            | OptionCode::ExtendedHeaders => Err(ApiMisuse::TlsRequired),
        }
    }

    fn ask(&mut self, option: OptionCode, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.check_option(option)?;
        self.session.core.explicit = true;
        self.session.core.send_option(option, write);
        self.session.restart();
        Ok(())
    }

    fn ask_contexts(&mut self, option: OptionCode, queries: &[&str]) -> Result<(), Error> {
        check_all(queries)?;
        self.check_option(option)?;
        // proto.md, "NBD_OPT_LIST_META_CONTEXT", "NBD_OPT_SET_META_CONTEXT".
        if self.session.core.facts.headers == HeaderStyle::Simple {
            return Err(PeerIncompatible::NoStructuredReplies.into());
        }
        let queries = queries.iter().map(|query| String::from(*query)).collect();
        self.session.core.explicit = true;
        self.session.core.send_contexts(option, queries);
        self.session.restart();
        Ok(())
    }
}

pub(super) fn check_all(names: &[impl AsRef<str>]) -> Result<(), ApiMisuse> {
    names.iter().try_for_each(|name| check_sendable(name.as_ref()))
}
