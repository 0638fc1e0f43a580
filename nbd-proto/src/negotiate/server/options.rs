//! What the bytes from the client mean.

use alloc::string::String;

use super::{Core, Question};
use crate::config::TlsPolicy;
use crate::engine::intake::{Role, Step};
use crate::error::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};
use crate::negotiate::facts::Protocol;
use crate::payload::PayloadSink;
use crate::types::{HeaderStyle, RequestId};
use crate::wire::flags::{ClientFlags, HandshakeFlags};
use crate::wire::option::{
    InfoRequest, MetaContextRequest, OptionCode, OptionHeader, RefusalCode, ReplyType,
};
use crate::wire::reader::text;

/// The longest option data that is looked at: names and queries, hundreds of them.
/// It is collected in the scratch buffer.
const MAX_DATA: u32 = super::super::SCRATCH as u32 - OptionHeader::LEN as u32;

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: u32,
        length: u32,
    },
    /// Data too long to be of use is read over.
    Oversized(u32),
    /// The caller answers a question.
    Answer,
    Tls,
    Established,
    Closed,
}

impl Expect {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ClientFlags => "waiting for client flags",
            Self::OptionHeader => "waiting for an option",
            Self::OptionData { .. } | Self::Oversized(_) => "receiving an option",
            Self::Answer => "waiting for an answer to an option",
            Self::Tls => "starting TLS",
            Self::Established => "established",
            Self::Closed => "closed",
        }
    }

    /// Whether an option's header has come, and its data has not.
    pub(super) const fn is_mid_message(self) -> bool {
        match self {
            Self::OptionData { .. } | Self::Oversized(_) => true,
            Self::ClientFlags
            | Self::OptionHeader
            | Self::Answer
            | Self::Tls
            | Self::Established
            | Self::Closed => false,
        }
    }

    pub(super) const fn first_step(self) -> Step {
        match self {
            Self::ClientFlags => Step::Parse { need: 4 },
            Self::OptionHeader => Step::Parse { need: OptionHeader::LEN },
            Self::OptionData { length, .. } => Step::Parse { need: length as usize },
            Self::Oversized(_) => Step::Skip { left: 0 },
            Self::Answer | Self::Tls | Self::Established | Self::Closed => Step::Wait,
        }
    }
}

impl<S: PayloadSink> Role<S> for Core {
    fn parse(&mut self, bytes: &[u8], _sink: &mut S) -> Result<(usize, Step), Error> {
        let used = match self.expect {
            Expect::ClientFlags => self.client_flags(bytes)?,
            Expect::OptionHeader => {
                let head = bytes.first_chunk().ok_or(InvalidMessage::Truncated)?;
                let OptionHeader { option, length } = OptionHeader::decode(head)?;
                self.messages_received = self.messages_received.wrapping_add(1);
                if length > self.config.limits.max_option_bytes {
                    return Err(PeerMisbehaved::TooLong.into());
                }
                if length > MAX_DATA {
                    self.expect = Expect::Oversized(option);
                    return Ok((head.len(), Step::Skip { left: u64::from(length) }));
                }
                if length == 0 {
                    self.option(option, &[])?;
                } else {
                    self.expect = Expect::OptionData { option, length };
                }
                head.len()
            }
            Expect::OptionData { option, length } => {
                let data = bytes.get(..length as usize).ok_or(InvalidMessage::Truncated)?;
                self.option(option, data)?;
                data.len()
            }
            Expect::Oversized(_)
            | Expect::Answer
            | Expect::Tls
            | Expect::Established
            | Expect::Closed => 0,
        };
        Ok((used, self.expect.first_step()))
    }

    fn finished(&mut self, _sink: &mut S) -> Result<Step, Error> {
        if let Expect::Oversized(option) = self.expect {
            self.expect = Expect::OptionHeader;
            if option == OptionCode::ExportName.to_wire() {
                self.expect = Expect::Closed;
            } else {
                self.refuse(option, RefusalCode::TooBig, "option data too long");
            }
        }
        Ok(self.expect.first_step())
    }

    fn unplaced(&mut self, _id: RequestId) {}

    fn wants(&self, _id: RequestId) -> bool {
        false
    }

    fn large_next(&self) -> Option<usize> {
        None
    }
}

impl Core {
    /// proto.md, "Client flags": unknown bits, and bits that were not offered, end
    /// the connection.
    fn client_flags(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let head = bytes.first_chunk().ok_or(InvalidMessage::Truncated)?;
        let flags = ClientFlags::from_bits(u32::from_be_bytes(*head))
            .ok_or(PeerMisbehaved::UnknownClientFlags)?;
        let agreed = HandshakeFlags::from_bits_truncate(flags.bits() as u16);
        if !self.config.handshake_flags.contains(agreed) {
            return Err(PeerMisbehaved::UnknownClientFlags.into());
        }
        self.facts.handshake_flags = agreed;
        self.facts.protocol = if agreed.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            Protocol::FixedNewstyle
        } else {
            Protocol::Newstyle
        };
        self.expect = Expect::OptionHeader;
        Ok(head.len())
    }

    fn option(&mut self, number: u32, data: &[u8]) -> Result<(), Error> {
        self.expect = Expect::OptionHeader;
        let option = OptionCode::from_wire(number);
        if self.facts.protocol == Protocol::Newstyle && option != Some(OptionCode::ExportName) {
            // proto.md, "Newstyle negotiation": replies to options are only for
            // those who know the fix.
            return Err(PeerIncompatible::ClientNotFixed.into());
        }
        let Some(option) = option else {
            self.refuse(number, RefusalCode::Unsupported, "");
            return Ok(());
        };
        let needs_tls = self.config.tls == TlsPolicy::Require
            && !self.facts.tls
            && !matches!(option, OptionCode::StartTls | OptionCode::Abort);
        if needs_tls {
            if option == OptionCode::ExportName {
                self.expect = Expect::Closed;
            } else {
                self.refuse(number, RefusalCode::TlsRequired, "this server requires TLS");
            }
            return Ok(());
        }
        match option {
            OptionCode::Abort => {
                self.reply(number, ReplyType::Ack, |_| {});
                self.expect = Expect::Closed;
            }
            OptionCode::StartTls => self.start_tls(data),
            OptionCode::StructuredReply => self.structured_reply(data),
            OptionCode::ExtendedHeaders => self.extended_headers(data),
            OptionCode::List if data.is_empty() => self.ask(Question::List),
            OptionCode::List => self.refuse(number, RefusalCode::Invalid, "data not allowed"),
            OptionCode::ExportName => match text(data) {
                Ok(name) => self.ask(Question::ExportName(String::from(name))),
                Err(error) => return Err(error.into()),
            },
            OptionCode::Info | OptionCode::Go => match InfoRequest::decode(data) {
                Ok(request) if option == OptionCode::Go => self.ask(Question::Go(request)),
                Ok(request) => self.ask(Question::Info(request)),
                Err(_) => self.refuse(number, RefusalCode::Invalid, "malformed request"),
            },
            OptionCode::ListMetaContext | OptionCode::SetMetaContext => {
                self.meta_contexts(option, data);
            }
        }
        Ok(())
    }

    fn ask(&mut self, question: Question) {
        self.question = Some(question);
        self.expect = Expect::Answer;
    }

    fn start_tls(&mut self, data: &[u8]) {
        let number = OptionCode::StartTls.to_wire();
        if self.facts.tls {
            self.refuse(number, RefusalCode::Invalid, "TLS is in use already");
        } else if self.config.tls == TlsPolicy::Disable {
            self.refuse(number, RefusalCode::Policy, "TLS is not configured");
        } else if data.is_empty() {
            self.reply(number, ReplyType::Ack, |_| {});
            self.expect = Expect::Tls;
        } else {
            self.refuse(number, RefusalCode::Invalid, "data not allowed");
        }
    }

    fn structured_reply(&mut self, data: &[u8]) {
        let number = OptionCode::StructuredReply.to_wire();
        if !self.config.structured_replies {
            self.refuse(number, RefusalCode::Unsupported, "");
        } else if !data.is_empty() {
            self.refuse(number, RefusalCode::Invalid, "data not allowed");
        } else if self.is_extended() {
            // Extended-headers draft, "NBD_REP_ERR_EXT_HEADER_REQD".
            let code = RefusalCode::ExtendedHeadersRequired;
            self.refuse(number, code, "extended headers are in use");
        } else {
            self.facts.headers = HeaderStyle::Structured;
            self.reply(number, ReplyType::Ack, |_| {});
        }
    }

    fn extended_headers(&mut self, data: &[u8]) {
        let number = OptionCode::ExtendedHeaders.to_wire();
        if !self.config.extended_headers || !self.config.structured_replies {
            self.refuse(number, RefusalCode::Unsupported, "");
        } else if !data.is_empty() {
            self.refuse(number, RefusalCode::Invalid, "data not allowed");
        } else {
            self.facts.headers = HeaderStyle::Extended;
            self.reply(number, ReplyType::Ack, |_| {});
        }
    }

    fn meta_contexts(&mut self, option: OptionCode, data: &[u8]) {
        let number = option.to_wire();
        if option == OptionCode::SetMetaContext {
            // proto.md, "NBD_OPT_SET_META_CONTEXT": the former selection is gone,
            // whatever comes of this one.
            self.facts.contexts.clear();
        }
        if self.facts.headers == HeaderStyle::Simple {
            self.refuse(number, RefusalCode::Invalid, "negotiate structured replies first");
            return;
        }
        match MetaContextRequest::decode(data) {
            Ok(request) if option == OptionCode::SetMetaContext => {
                self.contexts_of.clone_from(&request.export);
                self.ask(Question::SetMetaContext(request));
            }
            Ok(request) => self.ask(Question::ListMetaContext(request)),
            Err(_) => self.refuse(number, RefusalCode::Invalid, "malformed request"),
        }
    }
}
