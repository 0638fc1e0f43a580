//! The first bytes of a connection.
//!
//! ```text
//! server  "NBDMAGIC" "IHAVEOPT" handshake-flags:16          newstyle
//! client  client-flags:32
//!
//! server  "NBDMAGIC" cliserv_magic size:64 flags:32 0*124   oldstyle
//! ```

use super::flags::TransmissionFlags;
use super::{INIT_MAGIC, OLDSTYLE_MAGIC, OPTION_MAGIC, concat_be};
use crate::error::InvalidMessage;

/// Zero bytes that pad an oldstyle greeting and, unless both sides agreed to
/// leave them out, the answer to `NBD_OPT_EXPORT_NAME`.
pub const ZERO_PADDING: usize = 124;

/// Which negotiation the two magic numbers announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has these two greetings")]
pub enum Style {
    /// No negotiation: size and flags follow at once.
    Oldstyle,
    /// Options are haggled over.
    Newstyle,
}

impl Style {
    /// Size of the two magic numbers.
    pub const LEN: usize = 16;

    /// The two magic numbers.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let second = match self {
            Self::Oldstyle => OLDSTYLE_MAGIC,
            Self::Newstyle => OPTION_MAGIC,
        };
        concat_be!(INIT_MAGIC, second)
    }

    /// Reads the two magic numbers.
    ///
    /// # Errors
    /// [`InvalidMessage::NotNbd`] when the peer is no NBD server at all,
    /// [`InvalidMessage::GreetingMagic`] when the second number is unknown.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidMessage> {
        let both = u128::from_be_bytes(*bytes);
        if (both >> 64) as u64 != INIT_MAGIC {
            return Err(InvalidMessage::NotNbd);
        }
        match both as u64 {
            OLDSTYLE_MAGIC => Ok(Self::Oldstyle),
            OPTION_MAGIC => Ok(Self::Newstyle),
            _ => Err(InvalidMessage::GreetingMagic),
        }
    }
}

/// Size and flags of an export, as an oldstyle greeting and the answer to
/// `NBD_OPT_EXPORT_NAME` carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol fixes the layout of the message")]
pub struct ExportHeader {
    /// Size of the export in bytes.
    pub size: u64,
    /// What the export can do.
    pub flags: TransmissionFlags,
}

impl ExportHeader {
    /// Size of the oldstyle form, after the magic numbers and without padding.
    pub const OLDSTYLE_LEN: usize = 12;
    /// Size of the newstyle form, without padding.
    pub const NEWSTYLE_LEN: usize = 10;

    /// The oldstyle form, without the padding that follows.
    #[must_use]
    pub fn encode_oldstyle(self) -> [u8; Self::OLDSTYLE_LEN] {
        concat_be!(self.size, u32::from(self.flags.bits()))
    }

    /// Reads the oldstyle form.
    ///
    /// # Errors
    /// [`InvalidMessage::OldstyleFlags`] when the upper half of the flags word,
    /// where a newstyle server has its handshake flags, is not zero
    /// (proto.md, "Handshake flags": must not be set in oldstyle).
    pub fn decode_oldstyle(bytes: &[u8; Self::OLDSTYLE_LEN]) -> Result<Self, InvalidMessage> {
        let mut body = super::reader::Reader::new(bytes);
        let (size, flags) = (body.u64()?, body.u32()?);
        let flags = u16::try_from(flags).map_err(|_| InvalidMessage::OldstyleFlags)?;
        Ok(Self { size, flags: TransmissionFlags::from_bits_retain(flags) })
    }

    /// The answer to `NBD_OPT_EXPORT_NAME`, without the padding that may follow.
    #[must_use]
    pub fn encode_newstyle(self) -> [u8; Self::NEWSTYLE_LEN] {
        concat_be!(self.size, self.flags.bits())
    }

    /// Reads the answer to `NBD_OPT_EXPORT_NAME`.
    #[must_use]
    pub const fn decode_newstyle(bytes: &[u8; Self::NEWSTYLE_LEN]) -> Self {
        let [size @ .., f0, f1] = *bytes;
        Self {
            size: u64::from_be_bytes(size),
            flags: TransmissionFlags::from_bits_retain(u16::from_be_bytes([f0, f1])),
        }
    }
}
