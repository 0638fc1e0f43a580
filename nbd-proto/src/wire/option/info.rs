//! Bodies about exports: which there are, and what one of them is like.

use alloc::string::String;
use alloc::vec::Vec;

use super::push_string;
use crate::error::InvalidMessage;
use crate::wire::flags::TransmissionFlags;
use crate::wire::reader::{Reader, text};

/// A fact a client can ask for with `NBD_OPT_INFO` and `NBD_OPT_GO`
/// (proto.md, "NBD_OPT_INFO").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
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
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
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

/// Data of `NBD_REP_SERVER`: one export of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
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
#[doc(alias = "LIBNBD_SIZE")]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
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
    /// The maximum need be neither a power of two nor a multiple of the others.
    #[must_use]
    pub const fn are_sane(self) -> bool {
        self.minimum.is_power_of_two()
            && self.minimum <= 1 << 16
            && self.preferred.is_power_of_two()
            && self.preferred >= 512
            && self.minimum <= self.preferred
            && self.preferred <= self.maximum
    }
}

/// Data of `NBD_REP_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
