//! Takes numbers and strings off the front of bytes.

use super::error::Fault;
use super::numbers::MAX_STRING;

/// Why a message was not taken.
#[derive(Debug)]
pub(super) enum Stop {
    /// More bytes are needed.
    Short,
    /// The bytes are wrong.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The bytes of one side that are not yet parsed.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    taken: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, taken: 0 }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub(super) fn bytes(&mut self, length: u64) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.taken..];
        let length = usize::try_from(length).map_err(|_| Stop::Short)?;
        let bytes = rest.get(..length).ok_or(Stop::Short)?;
        self.taken += length;
        Ok(bytes)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.taken..];
        self.taken = self.bytes.len();
        rest
    }

    pub(super) fn u16(&mut self) -> Result<u16, Stop> {
        Ok(self.bytes(2)?.iter().fold(0, |number, byte| number << 8 | u16::from(*byte)))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        Ok(self.bytes(4)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        Ok(self.bytes(8)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// Checks the rules of the section "Conventions" for strings.
pub(super) fn string(bytes: &[u8]) -> Result<String, Fault> {
    if bytes.len() > MAX_STRING || bytes.contains(&0) {
        return Err(Fault::String);
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Fault::String)
}

/// Whether a metadata context or query starts with a namespace and a colon, as the
/// section "Metadata querying" wants it.
pub(super) fn has_namespace(name: &str) -> bool {
    let unprintable = |c: char| c.is_whitespace() || c.is_control();
    name.split_once(':').is_some_and(|(space, _)| !space.is_empty() && !space.contains(unprintable))
}
