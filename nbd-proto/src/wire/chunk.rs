//! Bodies of reply chunks (proto.md, "Structured reply types").
//!
//! ```text
//! OFFSET_DATA       offset:64 data                                at least 9 bytes
//! OFFSET_HOLE       offset:64 size:32                             12 bytes
//! BLOCK_STATUS      context:32 (length:32 status:32)+
//! BLOCK_STATUS_EXT  context:32 count:32 (length:64 status:64)+
//! ERROR             error:32 length:16 message
//! ERROR_OFFSET      error:32 length:16 message offset:64
//! ```

use super::concat_be;
use crate::types::Extent;

/// What the body of a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChunkType {
    /// No body; ends a reply.
    None,
    /// Data of a part of a read.
    OffsetData,
    /// A part of a read that is all zeroes.
    OffsetHole,
    /// Extents with 32-bit lengths.
    BlockStatus,
    /// Extents with 64-bit lengths.
    BlockStatusExt,
    /// The request failed.
    Error,
    /// The request failed at a known offset.
    ErrorOffset,
    /// An error of a kind this library does not know: bit 15 is set, and the
    /// body starts as that of [`Error`](Self::Error).
    OtherError(u16),
}

const ERROR_BIT: u16 = 1 << 15;

impl ChunkType {
    /// Reads a type; `None` if it is unknown and no error.
    #[must_use]
    pub const fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            6 => Self::BlockStatusExt,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            _ if value & ERROR_BIT != 0 => Self::OtherError(value),
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        match self {
            Self::None => 0,
            Self::OffsetData => 1,
            Self::OffsetHole => 2,
            Self::BlockStatus => 5,
            Self::BlockStatusExt => 6,
            Self::Error => 0x8001,
            Self::ErrorOffset => 0x8002,
            Self::OtherError(value) => value | ERROR_BIT,
        }
    }
}

/// Start of an OFFSET_DATA body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct OffsetData {
    /// Where the data belongs, in bytes from the start of the export.
    pub offset: u64,
}

impl OffsetData {
    /// Size on the wire.
    pub const LEN: usize = 8;

    /// Writes the field.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::LEN] {
        self.offset.to_be_bytes()
    }

    /// Reads the field.
    #[must_use]
    pub const fn decode(bytes: &[u8; Self::LEN]) -> Self {
        Self { offset: u64::from_be_bytes(*bytes) }
    }
}

/// Body of an OFFSET_HOLE chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct OffsetHole {
    /// Where the hole starts, in bytes from the start of the export.
    pub offset: u64,
    /// Its size in bytes.
    pub length: u32,
}

impl OffsetHole {
    /// Size on the wire.
    pub const LEN: usize = 12;

    /// Writes the body.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        concat_be!(self.offset, self.length)
    }

    /// Reads the body.
    #[must_use]
    pub const fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let [offset @ .., l0, l1, l2, l3] = *bytes;
        Self { offset: u64::from_be_bytes(offset), length: u32::from_be_bytes([l0, l1, l2, l3]) }
    }
}

/// Start of an error body; the message follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct ErrorHead {
    /// Wire error value; must not be 0.
    pub error: u32,
    /// Bytes of message that follow.
    pub message_length: u16,
}

impl ErrorHead {
    /// Size on the wire.
    pub const LEN: usize = 6;

    /// Writes the fields.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        concat_be!(self.error, self.message_length)
    }

    /// Reads the fields.
    #[must_use]
    pub const fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let [error @ .., m0, m1] = *bytes;
        Self { error: u32::from_be_bytes(error), message_length: u16::from_be_bytes([m0, m1]) }
    }
}

/// Start of a BLOCK_STATUS_EXT body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct StatusExtHead {
    /// The meta context the extents are about.
    pub context: u32,
    /// How many extents follow.
    pub count: u32,
}

impl StatusExtHead {
    /// Size on the wire.
    pub const LEN: usize = 8;

    /// Writes the fields.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        concat_be!(self.context, self.count)
    }

    /// Reads the fields.
    #[must_use]
    pub const fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let [context @ .., c0, c1, c2, c3] = *bytes;
        Self { context: u32::from_be_bytes(context), count: u32::from_be_bytes([c0, c1, c2, c3]) }
    }
}

impl Extent {
    /// Size of a 32-bit descriptor on the wire.
    pub const COMPACT_LEN: usize = 8;
    /// Size of a 64-bit descriptor on the wire.
    pub const EXTENDED_LEN: usize = 16;

    /// The 32-bit form, or `None` if length or status needs more bits.
    #[must_use]
    pub fn encode_compact(self) -> Option<[u8; Self::COMPACT_LEN]> {
        let length = u32::try_from(self.length).ok()?;
        let status = u32::try_from(self.status).ok()?;
        Some(Self::compact(length, status))
    }

    /// The 32-bit form of these two numbers.
    pub(crate) fn compact(length: u32, status: u32) -> [u8; Self::COMPACT_LEN] {
        concat_be!(length, status)
    }

    /// Reads the 32-bit form.
    #[must_use]
    pub const fn decode_compact(bytes: &[u8; Self::COMPACT_LEN]) -> Self {
        let both = u64::from_be_bytes(*bytes);
        Self { length: both >> 32, status: both & 0xffff_ffff }
    }

    /// The 64-bit form.
    #[must_use]
    pub fn encode_extended(self) -> [u8; Self::EXTENDED_LEN] {
        concat_be!(self.length, self.status)
    }

    /// Reads the 64-bit form.
    #[must_use]
    pub const fn decode_extended(bytes: &[u8; Self::EXTENDED_LEN]) -> Self {
        let both = u128::from_be_bytes(*bytes);
        Self { length: (both >> 64) as u64, status: both as u64 }
    }
}
