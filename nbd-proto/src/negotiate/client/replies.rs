//! What the bytes from the server mean.

use super::{Core, NegotiationEvent};
use crate::config::TlsPolicy;
use crate::engine::intake::{Role, Step};
use crate::error::{Error, InvalidMessage, PeerIncompatible, PeerMisbehaved, Refusal, internal};
use crate::negotiate::facts::{Protocol, answers};
use crate::negotiate::session::Side;
use crate::negotiate::{MAX_BODY, MAX_CONTEXTS};
use crate::payload::{PayloadSink, escape};
use crate::types::RequestId;
use crate::wire::MAX_STRING;
use crate::wire::flags::{ClientFlags, HandshakeFlags};
use crate::wire::greeting::{ExportHeader, Style, ZERO_PADDING};
use crate::wire::option::{
    ExportEntry, Info, MetaContext, OptionCode, OptionReplyHeader, ReplyType,
};
use crate::wire::reader::take;

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Magic,
    Oldstyle,
    HandshakeFlags,
    ReplyHeader(OptionCode),
    ReplyBody {
        option: OptionCode,
        kind: ReplyType,
        length: u32,
    },
    /// A reply too long to be of use is read over.
    SkippedBody(OptionCode),
    ExportHeader,
    Padding,
    /// Option mode: the caller goes on, and the server has nothing to say.
    Nothing,
    Tls,
    Established,
    Closed,
}

impl Expect {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Magic => "waiting for the greeting",
            Self::Oldstyle => "receiving an oldstyle greeting",
            Self::HandshakeFlags => "waiting for handshake flags",
            Self::ReplyHeader(OptionCode::StartTls) => "asking for TLS",
            Self::ReplyHeader(OptionCode::ExtendedHeaders) => "asking for extended headers",
            Self::ReplyHeader(OptionCode::StructuredReply) => "asking for structured replies",
            Self::ReplyHeader(OptionCode::SetMetaContext) => "selecting meta contexts",
            Self::ReplyHeader(OptionCode::ListMetaContext) => "listing meta contexts",
            Self::ReplyHeader(OptionCode::List) => "listing exports",
            Self::ReplyHeader(OptionCode::Info) => "asking about the export",
            Self::ReplyHeader(OptionCode::Go | OptionCode::ExportName) | Self::ExportHeader => {
                "choosing the export"
            }
            Self::ReplyHeader(OptionCode::Abort) => "ending the negotiation",
            Self::ReplyBody { .. } | Self::SkippedBody(_) => "receiving an option reply",
            Self::Padding => "receiving zero padding",
            Self::Nothing => "negotiating",
            Self::Tls => "starting TLS",
            Self::Established => "established",
            Self::Closed => "closed",
        }
    }

    /// Whether something has come that it belongs to.
    pub(super) const fn is_mid_message(self) -> bool {
        match self {
            Self::Oldstyle
            | Self::HandshakeFlags
            | Self::ReplyBody { .. }
            | Self::SkippedBody(_)
            | Self::Padding => true,
            Self::Magic
            | Self::ReplyHeader(_)
            | Self::ExportHeader
            | Self::Nothing
            | Self::Tls
            | Self::Established
            | Self::Closed => false,
        }
    }

    /// How to start on it.
    pub(super) const fn first_step(self) -> Step {
        match self {
            Self::Magic => Step::Parse { need: Style::LEN },
            Self::Oldstyle => Step::Parse { need: ExportHeader::OLDSTYLE_LEN },
            Self::HandshakeFlags => Step::Parse { need: 2 },
            Self::ReplyHeader(_) => Step::Parse { need: OptionReplyHeader::LEN },
            Self::ReplyBody { length, .. } => Step::Parse { need: length as usize },
            Self::ExportHeader => Step::Parse { need: ExportHeader::NEWSTYLE_LEN },
            Self::Nothing => Step::Parse { need: 1 },
            Self::SkippedBody(_) | Self::Padding => Step::Skip { left: 0 },
            Self::Tls | Self::Established | Self::Closed => Step::Wait,
        }
    }
}

impl<S: PayloadSink> Role<S> for Core {
    fn parse(&mut self, bytes: &[u8], _sink: &mut S) -> Result<(usize, Step), Error> {
        let used = match self.expect {
            _ if self.awaits_its_turn() => return Err(PeerMisbehaved::WrongOption.into()),
            Expect::Magic => self.magic(bytes)?,
            Expect::Oldstyle => {
                let (head, _) = take(bytes)?;
                let export = ExportHeader::decode_oldstyle(head)?;
                self.facts.describe(export.size, export.flags, self.config.strict_peer)?;
                self.facts.normalise();
                self.expect = Expect::Padding;
                return Ok((head.len(), Step::Skip { left: ZERO_PADDING as u64 }));
            }
            Expect::HandshakeFlags => self.handshake_flags(bytes)?,
            Expect::ReplyHeader(option) => return self.reply_header(bytes, option),
            Expect::ReplyBody { option, kind, length } => {
                let (body, _) =
                    bytes.split_at_checked(length as usize).ok_or(InvalidMessage::Truncated)?;
                self.reply(option, kind, body)?;
                body.len()
            }
            Expect::ExportHeader => {
                let (head, _) = take(bytes)?;
                let export = ExportHeader::decode_newstyle(head);
                self.facts.describe(export.size, export.flags, self.config.strict_peer)?;
                self.facts.normalise();
                if !self.facts.handshake_flags.contains(HandshakeFlags::NO_ZEROES) {
                    self.expect = Expect::Padding;
                    return Ok((head.len(), Step::Skip { left: ZERO_PADDING as u64 }));
                }
                self.expect = Expect::Established;
                head.len()
            }
            // The server speaks although nothing was asked.
            Expect::Nothing => return Err(PeerMisbehaved::WrongOption.into()),
            Expect::SkippedBody(_)
            | Expect::Padding
            | Expect::Tls
            | Expect::Established
            | Expect::Closed => return Err(internal("nothing is to be parsed")),
        };
        Ok((used, self.expect.first_step()))
    }

    fn finished(&mut self, _sink: &mut S) -> Result<Step, Error> {
        match self.expect {
            Expect::Padding => self.expect = Expect::Established,
            Expect::SkippedBody(option) => self.expect = Expect::ReplyHeader(option),
            _ => {}
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
    fn magic(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let (head, _) = take(bytes)?;
        match Style::decode(head)? {
            Style::Oldstyle => {
                if self.config.tls == TlsPolicy::Require {
                    return Err(PeerIncompatible::NoTls.into());
                }
                self.facts.protocol = Protocol::Oldstyle;
                self.expect = Expect::Oldstyle;
            }
            Style::Newstyle => self.expect = Expect::HandshakeFlags,
        }
        Ok(head.len())
    }

    /// proto.md, "Handshake flags", "Client flags".
    fn handshake_flags(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let (head, _) = take(bytes)?;
        let offered = HandshakeFlags::from_bits_truncate(u16::from_be_bytes(*head));
        let agreed = offered & self.config.handshake_flags;
        self.facts.handshake_flags = agreed;
        self.facts.protocol = if agreed.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            Protocol::FixedNewstyle
        } else {
            Protocol::Newstyle
        };
        let answer = ClientFlags::from_bits_truncate(u32::from(agreed.bits()));
        self.outbox.push(&answer.bits().to_be_bytes());
        self.next_option()?;
        Ok(head.len())
    }

    fn reply_header(&mut self, bytes: &[u8], option: OptionCode) -> Result<(usize, Step), Error> {
        let (head, _) = take(bytes)?;
        let header = OptionReplyHeader::decode(head)?;
        self.messages_received = self.messages_received.wrapping_add(1);
        if header.option != option.to_wire() {
            return Err(PeerMisbehaved::WrongOption.into());
        }
        let kind = ReplyType::from_wire(header.kind).ok_or(PeerMisbehaved::WrongReplyType)?;
        let length = header.length;
        self.replies = self.replies.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::from(length));
        let limits = &self.config.limits;
        if self.replies > limits.max_option_replies {
            return Err(PeerMisbehaved::TooManyReplies.into());
        }
        if self.bytes > u64::from(limits.max_option_bytes) {
            return Err(PeerMisbehaved::TooLong.into());
        }
        let fits = match kind {
            ReplyType::Ack if length > 0 => return Err(PeerMisbehaved::AckWithData.into()),
            ReplyType::Ack => true,
            ReplyType::Refused(_) if length > MAX_STRING as u32 => {
                return Err(PeerMisbehaved::TooLong.into());
            }
            ReplyType::Refused(_) => true,
            ReplyType::Server => option == OptionCode::List,
            ReplyType::Info => matches!(option, OptionCode::Info | OptionCode::Go),
            ReplyType::MetaContext => {
                matches!(option, OptionCode::ListMetaContext | OptionCode::SetMetaContext)
            }
        };
        if !fits {
            return Err(PeerMisbehaved::WrongReplyType.into());
        }
        if length > MAX_BODY {
            if kind != ReplyType::Info {
                return Err(InvalidMessage::StringTooLong.into());
            }
            // proto.md, "NBD_REP_INFO": unknown kinds are ignored, whatever their
            // length; no known one is so long.
            self.expect = Expect::SkippedBody(option);
            return Ok((head.len(), Step::Skip { left: u64::from(length) }));
        }
        if length == 0 {
            self.reply(option, kind, &[])?;
        } else {
            self.expect = Expect::ReplyBody { option, kind, length };
        }
        Ok((head.len(), self.expect.first_step()))
    }

    /// One whole reply.
    fn reply(&mut self, option: OptionCode, kind: ReplyType, body: &[u8]) -> Result<(), Error> {
        self.expect = Expect::ReplyHeader(option);
        match kind {
            ReplyType::Ack if option == OptionCode::StartTls && self.facts.tls => {
                Err(PeerMisbehaved::TlsTwice.into())
            }
            ReplyType::Ack => self.granted(option),
            ReplyType::Refused(code) => {
                self.refused(Refusal { option, code, message: escape(body) })
            }
            ReplyType::Server => {
                let entry = ExportEntry::decode(body)?;
                self.events.push_back(NegotiationEvent::Export(entry));
                Ok(())
            }
            ReplyType::Info => {
                self.gathered.add(Info::decode(body)?);
                Ok(())
            }
            ReplyType::MetaContext => self.meta_context(option, MetaContext::decode(body)?),
        }
    }

    /// proto.md, "NBD_OPT_SET_META_CONTEXT": each with a unique id; only what was
    /// asked for.
    fn meta_context(&mut self, option: OptionCode, context: MetaContext) -> Result<(), Error> {
        if option == OptionCode::SetMetaContext {
            let known =
                self.granted.iter().any(|old| old.id == context.id || old.name == context.name);
            if known || !self.queries.iter().any(|query| answers(&context.name, query)) {
                return Err(PeerMisbehaved::MetaContexts.into());
            }
            if self.granted.len() >= MAX_CONTEXTS {
                return Err(PeerMisbehaved::TooManyReplies.into());
            }
            self.granted.push(context.clone());
        }
        if self.explicit {
            self.events.push_back(NegotiationEvent::MetaContext(context));
        }
        Ok(())
    }
}
