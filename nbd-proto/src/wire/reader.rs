//! A cursor that cannot panic, for bodies of variable length.

use core::str;

use super::MAX_STRING;
use crate::error::InvalidMessage;

/// A header of fixed size at the front, and what follows it. The engines hand over at
/// least as many bytes as were asked for, so that it is always there.
#[inline]
pub(crate) fn take<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), InvalidMessage> {
    bytes.split_first_chunk().ok_or(InvalidMessage::Truncated)
}

/// Takes fields off the front of a body.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidMessage> {
        let (head, tail) = take(self.rest)?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, InvalidMessage> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, InvalidMessage> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, InvalidMessage> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], InvalidMessage> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(InvalidMessage::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// A 32-bit length, then that many bytes of text.
    pub(crate) fn string(&mut self) -> Result<&'a str, InvalidMessage> {
        let len = self.u32()? as usize;
        text(self.bytes(len)?)
    }

    /// The body must end here.
    pub(crate) fn end(self) -> Result<(), InvalidMessage> {
        if self.is_empty() { Ok(()) } else { Err(InvalidMessage::TrailingBytes) }
    }
}

/// Text as proto.md, "Conventions", wants it: UTF-8, no NUL, at most 4096 bytes.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, InvalidMessage> {
    if bytes.len() > MAX_STRING {
        return Err(InvalidMessage::StringTooLong);
    }
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(InvalidMessage::NotText),
    }
}
