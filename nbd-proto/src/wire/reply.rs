//! Headers of replies.
//!
//! ```text
//! simple      magic:32 error:32 cookie:64                                  16 bytes
//! structured  magic:32 flags:16 type:16 cookie:64 length:32                20 bytes
//! extended    magic:32 flags:16 type:16 cookie:64 offset:64 length:64      32 bytes
//! ```
//! proto.md, "Simple reply message", "Structured reply chunk message"; the
//! extended form is in its extended-headers draft.

use super::flags::ReplyFlags;
use super::reader::Reader;
use super::{EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, concat_be};
use crate::error::InvalidMessage;

/// Header of a simple reply; data follows only when a read succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct SimpleReply {
    /// Wire error value, 0 for success.
    pub error: u32,
    /// The request this answers.
    pub cookie: u64,
}

impl SimpleReply {
    /// Size on the wire.
    pub const LEN: usize = 16;

    /// Writes the header.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        concat_be!(SIMPLE_REPLY_MAGIC, self.error, self.cookie)
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`InvalidMessage::ReplyMagic`].
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        if body.u32()? != SIMPLE_REPLY_MAGIC {
            return Err(InvalidMessage::ReplyMagic);
        }
        Ok(Self { error: body.u32()?, cookie: body.u64()? })
    }
}

/// Header of a chunk, in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct ChunkHeader {
    /// Flags of the chunk.
    pub flags: ReplyFlags,
    /// What the body is: see [`ChunkType::from_wire`](super::chunk::ChunkType::from_wire).
    pub kind: u16,
    /// The request this answers.
    pub cookie: u64,
    /// The request's offset, repeated; the structured form leaves it out and
    /// reads as 0.
    pub offset: u64,
    /// Bytes of body that follow.
    pub length: u64,
}

impl ChunkHeader {
    /// Size of the structured form.
    pub const STRUCTURED_LEN: usize = 20;
    /// Size of the extended form.
    pub const EXTENDED_LEN: usize = 32;

    /// The structured form, or `None` if the length needs more than 32 bits.
    #[must_use]
    pub fn encode_structured(self) -> Option<[u8; Self::STRUCTURED_LEN]> {
        Some(self.structured(u32::try_from(self.length).ok()?))
    }

    /// The structured form, with this length.
    pub(crate) fn structured(self, length: u32) -> [u8; Self::STRUCTURED_LEN] {
        concat_be!(STRUCTURED_REPLY_MAGIC, self.flags.bits(), self.kind, self.cookie, length)
    }

    /// Reads the structured form.
    ///
    /// # Errors
    /// [`InvalidMessage::ReplyMagic`].
    #[inline]
    pub fn decode_structured(bytes: &[u8; Self::STRUCTURED_LEN]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        if body.u32()? != STRUCTURED_REPLY_MAGIC {
            return Err(InvalidMessage::ReplyMagic);
        }
        Ok(Self {
            flags: ReplyFlags::from_bits_retain(body.u16()?),
            kind: body.u16()?,
            cookie: body.u64()?,
            offset: 0,
            length: u64::from(body.u32()?),
        })
    }

    /// The extended form.
    #[must_use]
    pub fn encode_extended(self) -> [u8; Self::EXTENDED_LEN] {
        concat_be!(
            EXTENDED_REPLY_MAGIC,
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
    /// [`InvalidMessage::ReplyMagic`].
    pub fn decode_extended(bytes: &[u8; Self::EXTENDED_LEN]) -> Result<Self, InvalidMessage> {
        let mut body = Reader::new(bytes);
        if body.u32()? != EXTENDED_REPLY_MAGIC {
            return Err(InvalidMessage::ReplyMagic);
        }
        Ok(Self {
            flags: ReplyFlags::from_bits_retain(body.u16()?),
            kind: body.u16()?,
            cookie: body.u64()?,
            offset: body.u64()?,
            length: body.u64()?,
        })
    }
}
