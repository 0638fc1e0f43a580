//! Option haggling: headers and bodies of requests and replies.
//!
//! ```text
//! client  "IHAVEOPT" option:32 length:32 data
//! server  0x3e889045565a9 option:32 type:32 length:32 data
//! ```
//! proto.md, "Fixed newstyle negotiation", "Option types", "Option reply types".
//!
//! | file | what |
//! |---|---|
//! | `mod` | option numbers, reply types, both headers |
//! | `refusal` | why a server refuses |
//! | `info` | asking for an export and its facts; one entry of a list |
//! | `context` | meta contexts |

mod context;
mod info;
mod refusal;

use alloc::vec::Vec;
use core::fmt;

use super::reader::Reader;
use super::{OPTION_MAGIC, OPTION_REPLY_MAGIC, concat_be};
use crate::error::InvalidMessage;

pub use context::{MetaContext, MetaContextRequest};
pub use info::{BlockSizes, ExportEntry, Info, InfoRequest, InfoType};
pub use refusal::RefusalCode;

/// Set in the type of every reply that refuses.
const ERROR_BIT: u32 = 1 << 31;

/// The options a client can ask for.
///
/// `NBD_OPT_PEEK_EXPORT` (4) was withdrawn and is never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum OptionCode {
    /// Choose an export and start transmission; has no reply to its own.
    ExportName = 1,
    /// End the negotiation.
    Abort = 2,
    /// Ask for the names of all exports.
    List = 3,
    /// Switch to TLS.
    StartTls = 5,
    /// Ask for details of an export.
    Info = 6,
    /// Choose an export, with details, and start transmission.
    Go = 7,
    /// Ask for structured replies.
    StructuredReply = 8,
    /// Ask which meta contexts exist.
    ListMetaContext = 9,
    /// Choose meta contexts.
    SetMetaContext = 10,
    /// Ask for extended headers.
    ExtendedHeaders = 11,
}

impl OptionCode {
    /// The option with this number, if it is known.
    #[must_use]
    pub const fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        self as u32
    }

    /// The name the protocol text uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExportName => "NBD_OPT_EXPORT_NAME",
            Self::Abort => "NBD_OPT_ABORT",
            Self::List => "NBD_OPT_LIST",
            Self::StartTls => "NBD_OPT_STARTTLS",
            Self::Info => "NBD_OPT_INFO",
            Self::Go => "NBD_OPT_GO",
            Self::StructuredReply => "NBD_OPT_STRUCTURED_REPLY",
            Self::ListMetaContext => "NBD_OPT_LIST_META_CONTEXT",
            Self::SetMetaContext => "NBD_OPT_SET_META_CONTEXT",
            Self::ExtendedHeaders => "NBD_OPT_EXTENDED_HEADERS",
        }
    }
}

impl fmt::Display for OptionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an option reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplyType {
    /// `NBD_REP_ACK`: the option is done.
    Ack,
    /// `NBD_REP_SERVER`: one export of a list.
    Server,
    /// `NBD_REP_INFO`: one fact about an export.
    Info,
    /// `NBD_REP_META_CONTEXT`: one meta context.
    MetaContext,
    /// The option was refused.
    Refused(RefusalCode),
}

impl ReplyType {
    /// Reads a reply type; `None` if it is unknown and no error.
    #[must_use]
    pub const fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Ack,
            2 => Self::Server,
            3 => Self::Info,
            4 => Self::MetaContext,
            _ if value & ERROR_BIT != 0 => Self::Refused(RefusalCode::from_wire(value)),
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Ack => 1,
            Self::Server => 2,
            Self::Info => 3,
            Self::MetaContext => 4,
            Self::Refused(code) => code.to_wire(),
        }
    }
}

/// Header of an option request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct OptionHeader {
    /// The option's number; a server meets numbers it does not know.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Size on the wire.
    pub const LEN: usize = 16;

    /// Writes the header.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        concat_be!(OPTION_MAGIC, self.option, self.length)
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`InvalidMessage::OptionMagic`].
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        if body.u64()? != OPTION_MAGIC {
            return Err(InvalidMessage::OptionMagic);
        }
        Ok(Self { option: body.u32()?, length: body.u32()? })
    }
}

/// Header of an option reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct OptionReplyHeader {
    /// The option this answers.
    pub option: u32,
    /// What it says: see [`ReplyType::from_wire`].
    pub kind: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionReplyHeader {
    /// Size on the wire.
    pub const LEN: usize = 20;

    /// Writes the header.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        concat_be!(OPTION_REPLY_MAGIC, self.option, self.kind, self.length)
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`InvalidMessage::OptionReplyMagic`].
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        if body.u64()? != OPTION_REPLY_MAGIC {
            return Err(InvalidMessage::OptionReplyMagic);
        }
        Ok(Self { option: body.u32()?, kind: body.u32()?, length: body.u32()? })
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
