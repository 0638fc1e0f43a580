//! Sending options, and which comes next when nobody says so.

use alloc::string::String;
use alloc::vec::Vec;

use super::{Core, Expect, NegotiationEvent};
use crate::config::TlsPolicy;
use crate::error::{Error, PeerIncompatible, Refusal};
use crate::negotiate::facts::{Gathered, Protocol};
use crate::types::HeaderStyle;
use crate::wire::option::{
    InfoRequest, InfoType, MetaContextRequest, OptionCode, OptionHeader, RefusalCode,
};

/// The next thing to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Tls,
    ExtendedHeaders,
    StructuredReply,
    Pause,
    MetaContext,
    Goal,
}

/// What ends the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Info,
    Go,
}

impl Core {
    /// Sends the next option, or stops in option mode.
    pub(super) fn next_option(&mut self) -> Result<(), Error> {
        self.explicit = false;
        loop {
            match self.stage {
                Stage::Tls => {
                    self.stage = Stage::ExtendedHeaders;
                    if self.config.tls != TlsPolicy::Disable && !self.facts.tls {
                        if self.is_fixed() {
                            self.send_option(OptionCode::StartTls, |_| {});
                            return Ok(());
                        }
                        if self.config.tls == TlsPolicy::Require {
                            return Err(PeerIncompatible::NoTls.into());
                        }
                    }
                }
                Stage::ExtendedHeaders => {
                    self.stage = Stage::StructuredReply;
                    let wanted = self.config.extended_headers && self.config.structured_replies;
                    if wanted && self.is_fixed() {
                        self.send_option(OptionCode::ExtendedHeaders, |_| {});
                        return Ok(());
                    }
                }
                Stage::StructuredReply => {
                    self.stage = Stage::Pause;
                    let wanted =
                        self.config.structured_replies && self.facts.headers == HeaderStyle::Simple;
                    if wanted && self.is_fixed() {
                        self.send_option(OptionCode::StructuredReply, |_| {});
                        return Ok(());
                    }
                }
                Stage::Pause => {
                    self.stage = Stage::MetaContext;
                    if self.config.option_mode {
                        self.expect = Expect::Nothing;
                        return Ok(());
                    }
                }
                Stage::MetaContext => {
                    self.stage = Stage::Goal;
                    let wanted =
                        self.config.request_meta_contexts && !self.config.meta_contexts.is_empty();
                    if wanted && self.is_fixed() && self.facts.headers != HeaderStyle::Simple {
                        let queries = self.config.meta_contexts.clone();
                        self.send_contexts(OptionCode::SetMetaContext, queries);
                        return Ok(());
                    }
                }
                Stage::Goal => {
                    self.stage = Stage::MetaContext;
                    match self.goal {
                        Goal::Go if self.is_fixed() => self.send_info(OptionCode::Go),
                        Goal::Go => self.send_export_name(),
                        Goal::Info => self.send_info(OptionCode::Info),
                    }
                    return Ok(());
                }
            }
        }
    }

    fn is_fixed(&self) -> bool {
        self.facts.protocol == Protocol::FixedNewstyle
    }

    fn send_info(&mut self, option: OptionCode) {
        let wanted = [
            (InfoType::BlockSize, self.config.block_sizes),
            (InfoType::Name, self.config.full_info),
            (InfoType::Description, self.config.full_info),
        ];
        let info = wanted.iter().filter(|(_, ask)| *ask).map(|(kind, _)| kind.to_wire()).collect();
        let request = InfoRequest { export: self.export.clone(), info };
        self.send_option(option, |data| request.encode(data));
    }

    /// proto.md, "NBD_OPT_EXPORT_NAME": no reply header, no way to refuse but to
    /// close.
    pub(super) fn send_export_name(&mut self) {
        let name = self.export.clone();
        self.send_option(OptionCode::ExportName, |data| data.extend_from_slice(name.as_bytes()));
        self.expect = Expect::ExportHeader;
    }

    /// The server granted an option.
    pub(super) fn granted(&mut self, option: OptionCode) -> Result<(), Error> {
        match option {
            OptionCode::StartTls => {
                // The option ends when the caller has done the handshake.
                self.expect = Expect::Tls;
                return Ok(());
            }
            OptionCode::StructuredReply => {
                self.facts.headers = self.facts.headers.max(HeaderStyle::Structured);
            }
            OptionCode::ExtendedHeaders => self.facts.headers = HeaderStyle::Extended,
            OptionCode::SetMetaContext => self.facts.contexts = core::mem::take(&mut self.granted),
            OptionCode::Info | OptionCode::Go => {
                let gathered = core::mem::take(&mut self.gathered);
                gathered.commit(&mut self.facts, self.config.strict_peer)?;
            }
            OptionCode::List
            | OptionCode::ListMetaContext
            | OptionCode::Abort
            | OptionCode::ExportName => {}
        }
        self.finish_option(option, Ok(()));
        match option {
            OptionCode::Abort => self.expect = Expect::Closed,
            OptionCode::Go => self.expect = Expect::Established,
            OptionCode::Info => self.expect = Expect::Nothing,
            _ if self.explicit => self.expect = Expect::Nothing,
            _ => self.next_option()?,
        }
        Ok(())
    }

    /// The server refused an option.
    pub(super) fn refused(&mut self, refusal: Refusal) -> Result<(), Error> {
        let option = refusal.option;
        let required = option == OptionCode::StartTls
            && self.config.tls == TlsPolicy::Require
            && !self.explicit;
        if matches!(option, OptionCode::Go | OptionCode::Info) {
            self.facts.forget_export();
            if refusal.code == RefusalCode::Unsupported && option == OptionCode::Go {
                if self.facts.headers == HeaderStyle::Extended {
                    // Extended-headers draft, "NBD_OPT_EXPORT_NAME": must not be used.
                    return Err(PeerIncompatible::NoGoWithExtendedHeaders.into());
                }
                self.send_export_name();
                return Ok(());
            }
            if !self.config.option_mode {
                self.give_up();
                let unwanted = self.config.tls == TlsPolicy::Disable;
                if unwanted && refusal.code == RefusalCode::TlsRequired {
                    return Err(PeerIncompatible::TlsWanted.into());
                }
                return Err(refusal.into());
            }
        }
        // proto.md, "Termination of the session during option haggling": a client that is told
        // of a shutdown must say goodbye. In option mode its caller does.
        let leaving = refusal.code == RefusalCode::Shutdown && !self.config.option_mode;
        if required || leaving {
            self.give_up();
            return Err(refusal.into());
        }
        self.finish_option(option, Err(refusal));
        match option {
            OptionCode::Abort => self.expect = Expect::Closed,
            OptionCode::Go | OptionCode::Info => self.expect = Expect::Nothing,
            _ if self.explicit => self.expect = Expect::Nothing,
            _ => self.next_option()?,
        }
        Ok(())
    }

    /// Tells the server that this is the end; nobody waits for its answer.
    fn give_up(&mut self) {
        self.send_option(OptionCode::Abort, |_| {});
        self.expect = Expect::Closed;
    }

    /// Queues an option and expects its replies.
    pub(super) fn send_option(&mut self, option: OptionCode, write: impl FnOnce(&mut Vec<u8>)) {
        let mut data = Vec::new();
        write(&mut data);
        let header = OptionHeader { option: option.to_wire(), length: data.len() as u32 };
        self.asked = self.outbox.push_body(None, &header.encode(), |body| body.append(&mut data));
        self.replies = 0;
        self.bytes = 0;
        self.gathered = Gathered::default();
        self.granted.clear();
        self.expect = Expect::ReplyHeader(option);
    }

    pub(super) fn send_contexts(&mut self, option: OptionCode, queries: Vec<String>) {
        let request = MetaContextRequest { export: self.export.clone(), queries };
        self.send_option(option, |data| request.encode(data));
        self.queries = request.queries;
        if option == OptionCode::SetMetaContext {
            // proto.md, "NBD_OPT_SET_META_CONTEXT": whatever comes of it, the
            // former selection is gone.
            self.facts.contexts.clear();
        }
    }

    pub(super) fn finish_option(&mut self, option: OptionCode, result: Result<(), Refusal>) {
        self.events.push_back(NegotiationEvent::Finished { option, result });
    }
}
