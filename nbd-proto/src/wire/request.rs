//! Requests of the transmission phase.
//!
//! ```text
//! compact   magic:32 flags:16 type:16 cookie:64 offset:64 length:32   28 bytes
//! extended  magic:32 flags:16 type:16 cookie:64 offset:64 length:64   32 bytes
//! ```
//! proto.md, "Request message"; the extended form is in its extended-headers draft.

use core::fmt;

use super::flags::CommandFlags;
use super::reader::Reader;
use super::{EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, concat_be};
use crate::error::InvalidMessage;

/// The number of the request that ends the session, `NBD_CMD_DISC`. It has no reply, so it is
/// no command.
pub const DISCONNECT: u16 = 2;

/// What a command asks for (proto.md, "Request types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[expect(
    clippy::exhaustive_enums,
    reason = "who orders, repeats or carries out commands must decide about each"
)]
pub enum CommandType {
    /// Read data.
    Read = 0,
    /// Write data.
    Write = 1,
    /// Make finished writes durable.
    Flush = 3,
    /// Data of the range is no longer needed.
    Trim = 4,
    /// The range will be read soon.
    Cache = 5,
    /// Make the range read as zeroes.
    WriteZeroes = 6,
    /// Ask for the metadata of the range.
    BlockStatus = 7,
}

impl CommandType {
    /// The command with this number, if it is known.
    #[must_use]
    pub const fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            0 => Self::Read,
            1 => Self::Write,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// A word for messages, such as `"read"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::Cache => "cache",
            Self::WriteZeroes => "write zeroes",
            Self::BlockStatus => "block status",
        }
    }

    /// Whether the command changes the export's content.
    #[must_use]
    pub const fn modifies(self) -> bool {
        matches!(self, Self::Write | Self::Trim | Self::WriteZeroes)
    }
}

impl fmt::Display for CommandType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Header of a request, in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct RequestHeader {
    /// Flags of the command.
    pub flags: CommandFlags,
    /// The command's number, or [`DISCONNECT`]; a server meets numbers it does not know.
    pub kind: u16,
    /// Repeated by every reply to this request.
    pub cookie: u64,
    /// Where in the export, in bytes.
    pub offset: u64,
    /// How many bytes; see [`CommandFlags::PAYLOAD_LEN`] for the extended form.
    pub length: u64,
}

impl RequestHeader {
    /// Size of the compact form.
    pub const COMPACT_LEN: usize = 28;
    /// Size of the extended form.
    pub const EXTENDED_LEN: usize = 32;

    /// The compact form, or `None` if the length needs more than 32 bits.
    #[must_use]
    #[inline]
    pub fn encode_compact(self) -> Option<[u8; Self::COMPACT_LEN]> {
        Some(self.compact(u32::try_from(self.length).ok()?))
    }

    /// The compact form, with this length.
    #[inline]
    pub(crate) fn compact(self, length: u32) -> [u8; Self::COMPACT_LEN] {
        concat_be!(REQUEST_MAGIC, self.flags.bits(), self.kind, self.cookie, self.offset, length)
    }

    /// Reads the compact form.
    ///
    /// # Errors
    /// [`InvalidMessage::RequestMagic`].
    pub fn decode_compact(bytes: &[u8; Self::COMPACT_LEN]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        if body.u32()? != REQUEST_MAGIC {
            return Err(InvalidMessage::RequestMagic);
        }
        Ok(Self {
            flags: CommandFlags::from_bits_retain(body.u16()?),
            kind: body.u16()?,
            cookie: body.u64()?,
            offset: body.u64()?,
            length: u64::from(body.u32()?),
        })
    }

    /// The extended form.
    #[must_use]
    #[inline]
    pub fn encode_extended(self) -> [u8; Self::EXTENDED_LEN] {
        concat_be!(
            EXTENDED_REQUEST_MAGIC,
            self.flags.bits(),
            self.kind,
            self.cookie,
            self.offset,
            self.length
        )
    }

    /// Reads the extended form.
    ///
    /// # Errors
    /// [`InvalidMessage::RequestMagic`].
    pub fn decode_extended(bytes: &[u8; Self::EXTENDED_LEN]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        if body.u32()? != EXTENDED_REQUEST_MAGIC {
            return Err(InvalidMessage::RequestMagic);
        }
        Ok(Self {
            flags: CommandFlags::from_bits_retain(body.u16()?),
            kind: body.u16()?,
            cookie: body.u64()?,
            offset: body.u64()?,
            length: body.u64()?,
        })
    }
}
