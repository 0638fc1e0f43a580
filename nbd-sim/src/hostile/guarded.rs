//! A buffer with a margin on both sides that nobody may touch.

use std::fmt;

use nbd_proto::{Command, CommandType};

use super::DATA;

const BEFORE: u8 = 0xee;
const MARGIN: usize = 64;

/// A buffer for a read or a write: as bytes it is its middle, and what is around the
/// middle tells whether somebody wrote past it.
#[derive(Clone)]
pub struct Guarded(Vec<u8>);

impl Guarded {
    /// A buffer for a command's payload.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let payload = match command.kind {
            CommandType::Read | CommandType::Write => command.length as usize,
            _ => 0,
        };
        Self(vec![BEFORE; payload + 2 * MARGIN])
    }

    /// Bytes outside a buffer stay; a read that succeeds is made of the server's
    /// bytes and zeroes alone.
    #[must_use]
    pub fn broken_promise(&self, command: &Command, success: bool) -> Option<&'static str> {
        let (front, rest) = self.0.split_at(MARGIN);
        let (payload, back) = rest.split_at(rest.len() - MARGIN);
        let strange = payload.iter().any(|byte| ![DATA, 0].contains(byte));
        if front.iter().chain(back).any(|byte| *byte != BEFORE) {
            Some("bytes outside the buffer were touched")
        } else if success && strange && command.kind == CommandType::Read {
            Some("success without the server's bytes")
        } else {
            None
        }
    }
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.0[MARGIN..self.0.len() - MARGIN]
    }
}

impl AsMut<[u8]> for Guarded {
    fn as_mut(&mut self) -> &mut [u8] {
        let end = self.0.len() - MARGIN;
        &mut self.0[MARGIN..end]
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.as_ref().len())
    }
}
