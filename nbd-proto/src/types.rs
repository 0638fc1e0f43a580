//! Plain values shared by client and server.

use bitflags::bitflags;
use core::fmt;

use crate::wire::flags::CommandFlags;
use crate::wire::request::CommandType;

/// Names one command from its submission until its completion has been taken.
///
/// It is the cookie on the wire: the slot in the low half and the slot's
/// generation in the high half, so that a stale, forged or repeated cookie is
/// recognised and never matched to the wrong command. On the server side it
/// names a request that was received.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl RequestId {
    /// Index of the slot: small and dense, fit to index a side table.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// The 64-bit cookie.
    #[must_use]
    pub const fn to_cookie(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The id behind a cookie that may or may not have been issued.
    #[must_use]
    pub const fn from_cookie(cookie: u64) -> Self {
        Self { slot: cookie as u32, generation: (cookie >> 32) as u32 }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.slot, self.generation)
    }
}

/// A command: what is asked of the server, without any payload.
///
/// Offsets and lengths are in bytes from the start of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// What is asked for.
    pub kind: CommandType,
    /// How.
    pub flags: CommandFlags,
    /// Where it starts.
    pub offset: u64,
    /// How far it goes.
    pub length: u64,
}

/// What was asked for, in words: "read of 512 bytes at 4096".
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind.name();
        match self.kind {
            CommandType::Flush | CommandType::Disconnect => f.write_str(name),
            CommandType::Read
            | CommandType::Write
            | CommandType::Trim
            | CommandType::Cache
            | CommandType::WriteZeroes
            | CommandType::BlockStatus => {
                write!(f, "{name} of {} bytes at {}", self.length, self.offset)
            }
        }
    }
}

impl Command {
    const fn new(kind: CommandType, offset: u64, length: u64) -> Self {
        Self { kind, flags: CommandFlags::empty(), offset, length }
    }

    /// Read `length` bytes; they land in the [`PayloadSink`](crate::PayloadSink).
    #[must_use]
    pub const fn read(offset: u64, length: u32) -> Self {
        Self::new(CommandType::Read, offset, length as u64)
    }

    /// Write `length` bytes; they come from the [`PayloadSource`](crate::PayloadSource).
    #[must_use]
    pub const fn write(offset: u64, length: u32) -> Self {
        Self::new(CommandType::Write, offset, length as u64)
    }

    /// Make everything durable whose completion has been seen.
    #[must_use]
    pub const fn flush() -> Self {
        Self::new(CommandType::Flush, 0, 0)
    }

    /// The range's data is no longer needed.
    #[must_use]
    pub const fn trim(offset: u64, length: u64) -> Self {
        Self::new(CommandType::Trim, offset, length)
    }

    /// The range will be read soon.
    #[must_use]
    pub const fn cache(offset: u64, length: u64) -> Self {
        Self::new(CommandType::Cache, offset, length)
    }

    /// Make the range read as zeroes.
    #[must_use]
    pub const fn write_zeroes(offset: u64, length: u64) -> Self {
        Self::new(CommandType::WriteZeroes, offset, length)
    }

    /// Report the extents of the range for every negotiated meta context.
    #[must_use]
    pub const fn block_status(offset: u64, length: u64) -> Self {
        Self::new(CommandType::BlockStatus, offset, length)
    }

    /// The same command with these flags added.
    #[must_use]
    pub const fn with(mut self, flags: CommandFlags) -> Self {
        self.flags = self.flags.union(flags);
        self
    }
}

/// A run of bytes with one status, as block status reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Length in bytes.
    pub length: u64,
    /// What the meta context says of it; for `base:allocation` see
    /// [`is_hole`](Self::is_hole) and [`is_zero`](Self::is_zero).
    pub status: u64,
}

impl Extent {
    /// `base:allocation`: nothing is allocated here.
    pub const HOLE: u64 = 1;
    /// `base:allocation`: reads as zeroes.
    pub const ZERO: u64 = 2;

    /// `base:allocation`: nothing is allocated here. Unknown bits are ignored.
    #[must_use]
    pub const fn is_hole(self) -> bool {
        self.status & Self::HOLE != 0
    }

    /// `base:allocation`: reads as zeroes. Unknown bits are ignored.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.status & Self::ZERO != 0
    }
}

/// The number a server gave a meta context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u32);

/// How the data phase talks, as negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeaderStyle {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies with 64-bit lengths.
    Extended,
}

bitflags! {
    /// What a machine waits for: the interest to register with a poller.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Direction: u8 {
        /// Bytes from the peer.
        const READ = 1;
        /// Room to send.
        const WRITE = 2;
    }
}
