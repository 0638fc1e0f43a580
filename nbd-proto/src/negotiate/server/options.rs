//! What the bytes from the client mean.

use alloc::string::String;

use super::{Core, Question};
use crate::config::TlsPolicy;
use crate::engine::intake::{Role, Step};
use crate::error::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved, internal};
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

/// What came with an option.
#[derive(Clone, Copy)]
enum Data<'a> {
    Whole(&'a [u8]),
    /// More than is looked at; it has been read over.
    TooLong,
}

impl Data<'_> {
    const fn is_empty(self) -> bool {
        match self {
            Self::Whole(data) => data.is_empty(),
            Self::TooLong => false,
        }
    }

    /// What it says, or why it says nothing.
    fn decode<T>(
        self,
        decode: impl FnOnce(&[u8]) -> Result<T, InvalidMessage>,
    ) -> Result<T, (RefusalCode, &'static str)> {
        match self {
            Self::Whole(data) => {
                decode(data).map_err(|_| (RefusalCode::Invalid, "malformed request"))
            }
            Self::TooLong => Err((RefusalCode::TooBig, "option data too long")),
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
                    self.option(option, Data::Whole(&[]))?;
                } else {
                    self.expect = Expect::OptionData { option, length };
                }
                head.len()
            }
            Expect::OptionData { option, length } => {
                let data = bytes.get(..length as usize).ok_or(InvalidMessage::Truncated)?;
                self.option(option, Data::Whole(data))?;
                data.len()
            }
            Expect::Oversized(_)
            | Expect::Answer
            | Expect::Tls
            | Expect::Established
            | Expect::Closed => return Err(internal("nothing is to be parsed")),
        };
        Ok((used, self.expect.first_step()))
    }

    fn finished(&mut self, _sink: &mut S) -> Result<Step, Error> {
        if let Expect::Oversized(option) = self.expect {
            self.option(option, Data::TooLong)?;
        }
        Ok(self.expect.first_step())
    }

    fn unplaced(&mut self, _id: RequestId) {}

    fn payload(&mut self, _n: usize) {}

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

    /// An option has come. Whatever is asked of it is asked whether or not its data can be
    /// looked at.
    fn option(&mut self, number: u32, data: Data<'_>) -> Result<(), Error> {
        self.expect = Expect::OptionHeader;
        let option = OptionCode::from_wire(number);
        if self.facts.protocol == Protocol::Newstyle && option != Some(OptionCode::ExportName) {
            // proto.md, "Newstyle negotiation": replies to options are only for
            // those who know the fix.
            return Err(PeerIncompatible::ClientNotFixed.into());
        }
        // proto.md, "FORCEDTLS mode": "any other option", also one that is unknown.
        let needs_tls = self.config.tls == TlsPolicy::Require
            && !self.facts.tls
            && !matches!(option, Some(OptionCode::StartTls | OptionCode::Abort));
        if needs_tls {
            if option == Some(OptionCode::ExportName) {
                self.expect = Expect::Closed;
            } else {
                self.refuse(number, RefusalCode::TlsRequired, "this server requires TLS");
            }
            return Ok(());
        }
        let Some(option) = option else {
            self.refuse(number, RefusalCode::Unsupported, "");
            return Ok(());
        };
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
            OptionCode::ExportName if self.is_extended() => {
                // Extended-headers draft, "NBD_OPT_EXTENDED_HEADERS".
                return Err(PeerMisbehaved::ExportNameTooLate.into());
            }
            OptionCode::ExportName => match data {
                Data::Whole(name) => self.ask(Question::ExportName(String::from(text(name)?))),
                Data::TooLong => return Err(InvalidMessage::StringTooLong.into()),
            },
            OptionCode::Info | OptionCode::Go => match data.decode(InfoRequest::decode) {
                Ok(request) if option == OptionCode::Go => self.ask(Question::Go(request)),
                Ok(request) => self.ask(Question::Info(request)),
                Err((code, reason)) => self.refuse(number, code, reason),
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

    fn start_tls(&mut self, data: Data<'_>) {
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

    fn structured_reply(&mut self, data: Data<'_>) {
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

    fn extended_headers(&mut self, data: Data<'_>) {
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

    fn meta_contexts(&mut self, option: OptionCode, data: Data<'_>) {
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
        match data.decode(MetaContextRequest::decode) {
            Ok(request) if option == OptionCode::ListMetaContext => {
                self.ask(Question::ListMetaContext(request));
            }
            // "If zero queries are sent, the server MUST select no metadata contexts."
            Ok(request) if request.queries.is_empty() => self.reply(number, ReplyType::Ack, |_| {}),
            Ok(request) => {
                self.contexts_of.clone_from(&request.export);
                self.ask(Question::SetMetaContext(request));
            }
            Err((code, reason)) => self.refuse(number, code, reason),
        }
    }
}
