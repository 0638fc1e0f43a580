//! What the transport takes, and what that says about the other end.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::time::{Duration, Instant};

/// Follows what leaves.
///
/// ```text
///   core ──► TLS ──► buffer of an adapter ──► transport ──► server
///         encrypted        copied               took
/// ```
///
/// Only what the transport took has left. What was encrypted or copied may wait for ever.
///
/// That a transport takes bytes says nothing while it has room: it would do the same for a server
/// that is gone. One that has had no room for a while, and takes more, has an other end that
/// lives. Shorter times are an accident: an operation of the system's may take its time.
#[derive(Debug)]
pub(super) struct Outflow {
    /// How long that while is. `None`: nobody wants to know.
    while_full: Option<Duration>,
    /// Since when there has been more to send than room.
    full_since: Option<Instant>,
    signs_of_life: u64,
    /// Operations that the core counts as sent, but of which no byte has left.
    held_back: usize,
}

impl Outflow {
    /// For the shortest of the limits that the server is measured by, if there is one.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        let while_full = limit.map(|limit| limit / 8);
        Self { while_full, full_since: None, signs_of_life: 0, held_back: 0 }
    }

    /// There is another connection, or none.
    pub(super) const fn restart(&mut self) {
        (self.full_since, self.signs_of_life, self.held_back) = (None, 0, 0);
    }

    pub(super) const fn is_followed(&self) -> bool {
        self.while_full.is_some()
    }

    /// So many more operations are encrypted or copied, and may leave.
    pub(super) const fn prepared(&mut self, operations: usize) {
        self.held_back += operations;
    }

    /// The transport has no room.
    pub(super) fn has_no_room(&mut self, now: Instant) {
        self.full_since.get_or_insert(now);
    }

    /// The transport took bytes; whether these were all there were.
    pub(super) fn took(&mut self, all: bool, now: Instant) {
        self.held_back = 0;
        let full_for = self.full_since.map(|since| now.saturating_duration_since(since));
        if let (Some(full_for), Some(limit)) = (full_for, self.while_full)
            && full_for >= limit
        {
            self.signs_of_life += 1;
        }
        if all {
            self.full_since = None;
        }
    }

    pub(super) const fn signs_of_life(&self) -> u64 {
        self.signs_of_life
    }

    pub(super) const fn held_back(&self) -> usize {
        self.held_back
    }
}

/// A transport that notes whether it has taken anything.
pub(super) struct Noted<'a, W: ?Sized> {
    io: &'a mut W,
    pub(super) took: bool,
    pub(super) had_no_room: bool,
}

impl<'a, W: Write + ?Sized> Noted<'a, W> {
    pub(super) const fn new(io: &'a mut W) -> Self {
        Self { io, took: false, had_no_room: false }
    }

    #[inline]
    fn note(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        match &result {
            Ok(count) => self.took |= *count > 0,
            Err(error) => self.had_no_room |= error.kind() == ErrorKind::WouldBlock,
        }
        result
    }
}

impl<W: Write + ?Sized> Write for Noted<'_, W> {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let result = self.io.write(buf);
        self.note(result)
    }

    #[inline]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let result = self.io.write_vectored(bufs);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.io.flush()
    }
}
