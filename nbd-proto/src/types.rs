//! Plain values shared by client and server.

use bitflags::bitflags;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};

use crate::wire::flags::CommandFlags;
use crate::wire::request::CommandType;

/// Names one command from its submission until its completion has been taken.
///
/// It is a slot and the slot's generation. A client's cookie on the wire is made of both, so
/// that a stale, forged or repeated cookie is recognised and never matched to the wrong
/// command. On the server side it names a request that was received, and the cookie is the
/// one that the client chose; two ids are the same when slot and generation are.
#[derive(Clone, Copy)]
pub struct RequestId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    cookie: u64,
}

impl RequestId {
    /// Index of the slot: small and dense, fit to index a side table.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// The 64-bit cookie that stands for it on the wire.
    #[must_use]
    pub const fn to_cookie(self) -> u64 {
        self.cookie
    }

    /// The id behind a client's cookie, which may or may not have been issued: the slot in
    /// the low half, its generation in the high half.
    #[must_use]
    pub const fn from_cookie(cookie: u64) -> Self {
        Self { slot: cookie as u32, generation: (cookie >> 32) as u32, cookie }
    }

    pub(crate) const fn new(slot: u32, generation: u32) -> Self {
        Self::from_cookie((generation as u64) << 32 | slot as u64)
    }

    /// The same id, whose cookie somebody else has chosen.
    pub(crate) const fn with_cookie(self, cookie: u64) -> Self {
        Self { cookie, ..self }
    }

    const fn key(self) -> (u32, u32) {
        (self.slot, self.generation)
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for RequestId {}

impl PartialOrd for RequestId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RequestId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
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
#[doc(alias("nbd_aio_flush", "nbd_aio_trim", "nbd_aio_cache", "nbd_aio_zero"))]
#[expect(clippy::exhaustive_structs, reason = "the fields of a request in the protocol")]
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
            CommandType::Flush => f.write_str(name),
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
#[expect(clippy::exhaustive_structs, reason = "the fields of a block descriptor in the protocol")]
pub struct Extent {
    /// Length in bytes.
    pub length: u64,
    /// What the meta context says of it; for `base:allocation` see
    /// [`is_hole`](Self::is_hole) and [`is_zero`](Self::is_zero).
    pub status: u64,
}

impl Extent {
    /// `base:allocation`: nothing is allocated here.
    #[doc(alias = "LIBNBD_STATE_HOLE")]
    pub const HOLE: u64 = 1;
    /// `base:allocation`: reads as zeroes.
    #[doc(alias = "LIBNBD_STATE_ZERO")]
    pub const ZERO: u64 = 2;
    /// `qemu:dirty-bitmap:…`: has been written to since the bitmap was made.
    pub const DIRTY: u64 = 1;

    /// `base:allocation`: nothing is allocated here. Unknown bits are ignored.
    #[must_use]
    #[doc(alias = "LIBNBD_STATE_HOLE")]
    pub const fn is_hole(self) -> bool {
        self.status & Self::HOLE != 0
    }

    /// `base:allocation`: reads as zeroes. Unknown bits are ignored.
    #[must_use]
    #[doc(alias = "LIBNBD_STATE_ZERO")]
    pub const fn is_zero(self) -> bool {
        self.status & Self::ZERO != 0
    }

    /// `qemu:dirty-bitmap:…`: has been written to since the bitmap was made. Unknown bits are
    /// ignored.
    #[must_use]
    pub const fn is_dirty(self) -> bool {
        self.status & Self::DIRTY != 0
    }
}

/// The number a server gave a meta context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a number of the protocol")]
pub struct ContextId(pub u32);

/// How the data phase talks, as negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias("nbd_get_structured_replies_negotiated", "nbd_get_extended_headers_negotiated"))]
#[non_exhaustive]
pub enum HeaderStyle {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Extended requests and replies with 64-bit lengths.
    Extended,
}

impl HeaderStyle {
    /// A word for messages: `"simple"`, `"structured"` or `"extended"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Structured => "structured",
            Self::Extended => "extended",
        }
    }
}

impl fmt::Display for HeaderStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

bitflags! {
    /// What a machine waits for: the interest to register with a poller.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[doc(alias = "LIBNBD_AIO_DIRECTION_BOTH")]
    pub struct Direction: u8 {
        /// Bytes from the peer.
        #[doc(alias = "LIBNBD_AIO_DIRECTION_READ")]
        const READ = 1;
        /// Room to send.
        #[doc(alias = "LIBNBD_AIO_DIRECTION_WRITE")]
        const WRITE = 2;
    }
}
