//! Option haggling: headers and bodies of requests and replies.
//!
//! ```text
//! client  "IHAVEOPT" option:32 length:32 data
//! server  0x3e889045565a9 option:32 type:32 length:32 data
//! ```
//! proto.md, "Fixed newstyle negotiation", "Option types", "Option reply types".

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::flags::TransmissionFlags;
use super::reader::{Reader, text};
use super::{OPTION_MAGIC, OPTION_REPLY_MAGIC, concat_be};
use crate::errno::Errno;
use crate::error::InvalidMessage;

/// The options a client can ask for.
///
/// `NBD_OPT_PEEK_EXPORT` (4) was withdrawn and is never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
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

/// Why a server refused an option (proto.md, "Option reply types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The option is unknown.
    Unsupported,
    /// Forbidden by the server's configuration.
    Policy,
    /// The request was malformed or came at the wrong time.
    Invalid,
    /// Not possible on the server's platform.
    Platform,
    /// TLS must be started first.
    TlsRequired,
    /// No such export.
    UnknownExport,
    /// The server is shutting down.
    Shutdown,
    /// The client must ask for block sizes first.
    BlockSizeRequired,
    /// The request is larger than the server takes.
    TooBig,
    /// Extended headers must be negotiated first.
    ExtendedHeadersRequired,
    /// An error this library does not know: bit 31 is set.
    Other(u32),
}

const ERROR_BIT: u32 = 1 << 31;

impl RefusalCode {
    /// Reads a reply type that has the error bit.
    const fn from_wire(value: u32) -> Self {
        match value & !ERROR_BIT {
            1 => Self::Unsupported,
            2 => Self::Policy,
            3 => Self::Invalid,
            4 => Self::Platform,
            5 => Self::TlsRequired,
            6 => Self::UnknownExport,
            7 => Self::Shutdown,
            8 => Self::BlockSizeRequired,
            9 => Self::TooBig,
            10 => Self::ExtendedHeadersRequired,
            _ => Self::Other(value),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        ERROR_BIT
            | match self {
                Self::Unsupported => 1,
                Self::Policy => 2,
                Self::Invalid => 3,
                Self::Platform => 4,
                Self::TlsRequired => 5,
                Self::UnknownExport => 6,
                Self::Shutdown => 7,
                Self::BlockSizeRequired => 8,
                Self::TooBig => 9,
                Self::ExtendedHeadersRequired => 10,
                Self::Other(value) => value,
            }
    }

    /// The error number a caller sees.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::Invalid
            | Self::BlockSizeRequired
            | Self::TooBig
            | Self::ExtendedHeadersRequired => Errno::Inval,
            Self::Policy => Errno::Perm,
            Self::UnknownExport => Errno::NoEnt,
            Self::Shutdown => Errno::Shutdown,
            Self::Unsupported | Self::Platform | Self::TlsRequired | Self::Other(_) => {
                Errno::NotSup
            }
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "the server does not support it",
            Self::Policy => "the server's policy forbids it",
            Self::Invalid => "the server calls the request invalid",
            Self::Platform => "not possible on the server's platform",
            Self::TlsRequired => "the server wants TLS first",
            Self::UnknownExport => "the server has no such export",
            Self::Shutdown => "the server is shutting down",
            Self::BlockSizeRequired => "the server wants block sizes to be asked for",
            Self::TooBig => "the request is too large for the server",
            Self::ExtendedHeadersRequired => "the server wants extended headers first",
            Self::Other(code) => return write!(f, "unknown error {code:#010x}"),
        })
    }
}

/// What an option reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// A fact a client can ask for with `NBD_OPT_INFO` and `NBD_OPT_GO`
/// (proto.md, "NBD_OPT_INFO").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum InfoType {
    /// Size and transmission flags; always sent.
    Export = 0,
    /// The canonical name.
    Name = 1,
    /// The description.
    Description = 2,
    /// Block sizes; whoever asks promises to honour them.
    BlockSize = 3,
}

impl InfoType {
    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self as u16
    }
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export meant; empty for the server's default.
    pub export: String,
    /// Numbers of the facts asked for; unknown ones are ignored by servers.
    pub info: Vec<u16>,
}

impl InfoRequest {
    /// Appends the data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_string(out, &self.export);
        out.extend_from_slice(&(self.info.len() as u16).to_be_bytes());
        for kind in &self.info {
            out.extend_from_slice(&kind.to_be_bytes());
        }
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When it is truncated, has trailing bytes, or the name is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        let export = String::from(body.string()?);
        let count = body.u16()?;
        let mut info = Vec::new();
        for _ in 0..count {
            info.push(body.u16()?);
        }
        body.end()?;
        Ok(Self { export, info })
    }
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContextRequest {
    /// The export meant.
    pub export: String,
    /// What is asked for; when listing, none means everything.
    pub queries: Vec<String>,
}

impl MetaContextRequest {
    /// Appends the data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_string(out, &self.export);
        out.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        for query in &self.queries {
            push_string(out, query);
        }
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When it is truncated, has trailing bytes, or a string is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        let export = String::from(body.string()?);
        let count = body.u32()?;
        let mut queries = Vec::new();
        // Each query takes at least four bytes of the body that is already
        // here, so the count cannot make this grow beyond it.
        for _ in 0..count {
            queries.push(String::from(body.string()?));
        }
        body.end()?;
        Ok(Self { export, queries })
    }
}

/// Data of `NBD_REP_SERVER`: one export of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportEntry {
    /// Name to ask for.
    pub name: String,
    /// Text for people; empty when the server sent none.
    pub description: String,
}

impl ExportEntry {
    /// Appends the data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_string(out, &self.name);
        out.extend_from_slice(self.description.as_bytes());
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When the name does not fit in the data (proto.md, "NBD_REP_SERVER"), or
    /// name or description is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        let name = String::from(body.string()?);
        let description = String::from(text(body.rest())?);
        Ok(Self { name, description })
    }
}

/// Block sizes of an export, in bytes (proto.md, "Size constraints").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSizes {
    /// Offsets and lengths must be multiples of this.
    pub minimum: u32,
    /// Requests of this size and alignment are fast.
    pub preferred: u32,
    /// Longest payload the server takes; `u32::MAX` for no fixed limit.
    pub maximum: u32,
}

impl BlockSizes {
    /// Whether the three values can be meant: powers of two where the text asks
    /// for them, and in order. Sizes that make no sense must not be divided by.
    #[must_use]
    pub const fn are_sane(self) -> bool {
        self.minimum.is_power_of_two()
            && self.minimum <= 1 << 16
            && self.preferred.is_power_of_two()
            && self.preferred >= 512
            && self.minimum <= self.preferred
            && self.preferred <= self.maximum
            && (self.maximum == u32::MAX || self.maximum.is_multiple_of(self.minimum))
    }
}

/// Data of `NBD_REP_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Size in bytes and transmission flags.
    Export(u64, TransmissionFlags),
    /// Canonical name.
    Name(String),
    /// Description.
    Description(String),
    /// Block sizes, not yet checked for sense.
    BlockSize(BlockSizes),
    /// A kind this library does not know; ignored.
    Unknown(u16),
}

impl Info {
    /// Appends the data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Export(..) => InfoType::Export.to_wire(),
            Self::Name(_) => InfoType::Name.to_wire(),
            Self::Description(_) => InfoType::Description.to_wire(),
            Self::BlockSize(_) => InfoType::BlockSize.to_wire(),
            Self::Unknown(kind) => *kind,
        };
        out.extend_from_slice(&kind.to_be_bytes());
        match self {
            Self::Export(size, flags) => {
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.bits().to_be_bytes());
            }
            Self::Name(text) | Self::Description(text) => out.extend_from_slice(text.as_bytes()),
            Self::BlockSize(sizes) => {
                for size in [sizes.minimum, sizes.preferred, sizes.maximum] {
                    out.extend_from_slice(&size.to_be_bytes());
                }
            }
            Self::Unknown(_) => {}
        }
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When the length does not fit the kind (proto.md, "NBD_INFO_EXPORT" and its
    /// neighbours), or a name is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        Ok(match body.u16()? {
            0 => {
                let (size, flags) = (body.u64()?, body.u16()?);
                body.end()?;
                Self::Export(size, TransmissionFlags::from_bits_retain(flags))
            }
            1 => Self::Name(String::from(text(body.rest())?)),
            2 => Self::Description(String::from(text(body.rest())?)),
            3 => {
                let sizes = BlockSizes {
                    minimum: body.u32()?,
                    preferred: body.u32()?,
                    maximum: body.u32()?,
                };
                body.end()?;
                Self::BlockSize(sizes)
            }
            other => Self::Unknown(other),
        })
    }
}

/// Data of `NBD_REP_META_CONTEXT`: a context and the number replies use for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContext {
    /// Number in block status chunks; meaningless in a list.
    pub id: u32,
    /// Name, such as `base:allocation`.
    pub name: String,
}

impl MetaContext {
    /// Appends the data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When the name is empty, lacks the colon between namespace and leaf
    /// (proto.md, "Metadata querying"), or is not text.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        let id = body.u32()?;
        let name = text(body.rest())?;
        if !name.contains(':') {
            return Err(InvalidMessage::ContextName);
        }
        Ok(Self { id, name: String::from(name) })
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
