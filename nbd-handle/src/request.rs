//! A command and its callbacks.

use std::fmt;

use nbd_proto::{Command, CommandFlags, CommandType};

use crate::handle::Memory;

/// Called once, when a command or an option is finished, with its error number or 0. What it
/// returns: 1 retires the command; -1 puts the number that it leaves there in place of the
/// command's, unless that is 0; anything else changes nothing.
pub type CompletionCallback = Box<dyn FnMut(&mut i32) -> i32 + Send>;

/// Called for each part of a structured read: its bytes, its offset in the export, what it is,
/// and the error so far. -1 fails the command, with the number that is left there, or `EPROTO`.
pub type ChunkCallback = Box<dyn FnMut(&[u8], u64, Chunk, &mut i32) -> i32 + Send>;

/// Called for each meta context of a block status: its name, the offset, the extents, and the
/// error so far. -1 as of [`ChunkCallback`].
pub type ExtentCallback = Box<dyn FnMut(&str, u64, &[Extent], &mut i32) -> i32 + Send>;

/// What a part of a structured read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Chunk {
    /// Data.
    Data = 1,
    /// Zeroes, of which the server says that it sent none.
    Hole = 2,
    /// An error at this offset, without bytes.
    Error = 3,
}

/// A run of bytes with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(clippy::exhaustive_structs, reason = "its layout is that of C")]
pub struct Extent {
    /// Length in bytes, at most 2^63 - 1.
    pub length: u64,
    /// What the meta context says of it.
    pub flags: u64,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "what is under way is waited for or not")]
pub enum Shutdown {
    /// After everything that was submitted has been sent.
    AfterRequests,
    /// After what is partly sent; the rest fails.
    AbandonPending,
}

/// A command, its buffer and its callbacks, to be submitted to a [`Handle`](crate::Handle).
///
/// However it ends, all of it is dropped exactly once: when the command is refused, retired, or
/// the handle is closed.
#[must_use]
pub struct Request<B> {
    pub(crate) command: Command,
    /// Flags that this call knows.
    allowed: u32,
    /// As the caller gave them.
    flags: u32,
    pub(crate) buffer: Option<B>,
    pub(crate) callbacks: Callbacks,
    pub(crate) contexts: Option<Vec<String>>,
}

/// In the order in which they are dropped.
#[derive(Default)]
pub(crate) struct Callbacks {
    pub(crate) chunk: Option<ChunkCallback>,
    pub(crate) extents: Option<ExtentCallback>,
    pub(crate) completion: Option<CompletionCallback>,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for Request<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("command", &self.command).finish_non_exhaustive()
    }
}

impl<B> Request<B> {
    fn new(kind: CommandType, offset: u64, length: u64, flags: u32, allowed: CommandFlags) -> Self {
        let command =
            Command { kind, flags: CommandFlags::from_bits_retain(flags as u16), offset, length };
        Self {
            command,
            allowed: allowed.bits().into(),
            flags,
            buffer: None,
            callbacks: Callbacks::default(),
            contexts: None,
        }
    }

    /// Makes everything durable whose completion has been seen.
    pub fn flush(flags: u32) -> Self {
        Self::new(CommandType::Flush, 0, 0, flags, CommandFlags::empty())
    }

    /// The data of `length` bytes is no longer needed.
    pub fn trim(offset: u64, length: u64, flags: u32) -> Self {
        Self::new(CommandType::Trim, offset, length, flags, CommandFlags::FUA)
    }

    /// The range will be read soon.
    pub fn cache(offset: u64, length: u64, flags: u32) -> Self {
        Self::new(CommandType::Cache, offset, length, flags, CommandFlags::empty())
    }

    /// Makes the range read as zeroes.
    pub fn zero(offset: u64, length: u64, flags: u32) -> Self {
        let allowed = CommandFlags::FUA | CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO;
        Self::new(CommandType::WriteZeroes, offset, length, flags, allowed)
    }

    /// Reports the extents of the range.
    pub fn block_status(offset: u64, length: u64, flags: u32, callback: ExtentCallback) -> Self {
        let allowed = CommandFlags::REQ_ONE | CommandFlags::PAYLOAD_LEN;
        let mut request = Self::new(CommandType::BlockStatus, offset, length, flags, allowed);
        request.callbacks.extents = Some(callback);
        request
    }

    /// Of a block status, reports only these meta contexts.
    pub fn only(mut self, contexts: Vec<String>) -> Self {
        self.contexts = Some(contexts);
        self
    }

    /// Tells when it is finished.
    pub fn on_completion(mut self, callback: Option<CompletionCallback>) -> Self {
        self.callbacks.completion = callback;
        self
    }

    /// Of its flags, those which the call does not know and those beyond what a request has
    /// room for.
    pub(crate) const fn odd_flags(&self) -> (u32, u32) {
        (self.flags & !self.allowed, self.flags & !0xffff)
    }
}

impl<B: Memory> Request<B> {
    /// Reads as much as the buffer holds.
    pub fn read(buffer: B, offset: u64, flags: u32) -> Self {
        let length = buffer.len() as u64;
        let mut request =
            Self::new(CommandType::Read, offset, length, flags, CommandFlags::empty());
        request.buffer = Some(buffer);
        request
    }

    /// The same, with a callback for each part.
    pub fn read_structured(buffer: B, offset: u64, flags: u32, callback: ChunkCallback) -> Self {
        let mut request = Self::read(buffer, offset, flags);
        request.allowed = CommandFlags::DF.bits().into();
        request.callbacks.chunk = Some(callback);
        request
    }

    /// Writes what the buffer holds.
    pub fn write(buffer: B, offset: u64, flags: u32) -> Self {
        let length = buffer.len() as u64;
        let allowed = CommandFlags::FUA | CommandFlags::PAYLOAD_LEN;
        let mut request = Self::new(CommandType::Write, offset, length, flags, allowed);
        request.buffer = Some(buffer);
        request
    }
}
