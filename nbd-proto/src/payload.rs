//! Where payload lands and where it comes from.
//!
//! A machine stores no payload and borrows none. Whoever drives it lends, for
//! the duration of each call, something that knows the memory behind each
//! request: a [`PayloadSink`] for bytes that arrive, a [`PayloadSource`] for
//! bytes that leave. At any moment at most one request's payload is arriving,
//! so the machine asks for one region at a time.

use alloc::vec::Vec;
use core::fmt;

use crate::errno::Errno;
use crate::types::{ContextId, Extent, RequestId};

/// One part of the reply to a structured read, reported when it is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "nbd_pread_structured")]
#[expect(clippy::exhaustive_structs, reason = "what the protocol tells of a piece of a read")]
pub struct ReadChunk {
    /// Bytes from the start of the request.
    pub at: usize,
    /// Length in bytes.
    pub length: usize,
    /// The server sent no data: the range reads as zeroes.
    #[doc(alias("LIBNBD_READ_DATA", "LIBNBD_READ_HOLE"))]
    pub hole: bool,
}

/// An error a server reported, with what it said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "LIBNBD_READ_ERROR")]
#[expect(clippy::exhaustive_structs, reason = "what the protocol tells of an error")]
pub struct ErrorReport<'a> {
    /// The error.
    pub errno: Errno,
    /// Where in the export, in bytes, if the server told.
    pub offset: Option<u64>,
    /// The server's words as it sent them: possibly empty, not always UTF-8,
    /// possibly with control characters. See [`escape`].
    pub message: &'a [u8],
}

/// Receives payload: data of reads on the client side, data of writes on the
/// server side, and what else a reply tells about a request.
///
/// It is called from inside the methods that take bytes, so it must neither
/// block nor panic. What it returns can garble data but never the framing:
/// lengths come from the machine.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say where payload goes",
    note = "take `Discard` where there is none, `ReadInto` for one read, `Buffers` for many \
            requests, or implement `PayloadSink`"
)]
pub trait PayloadSink {
    /// Memory for `len` bytes of request `id`, starting `at` bytes into its
    /// payload. They are all that is left of it, or of the chunk it comes in, so
    /// for a write that a server receives `at` 0 tells the length of the whole.
    ///
    /// It may be shorter than `len` when the destination is scattered; the
    /// machine asks again for the rest. It may be empty when the sink knows no
    /// such request; the bytes are then thrown away.
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8];

    /// The peer says that `len` bytes are zero without sending them.
    fn zeroes(&mut self, id: RequestId, at: usize, len: usize) {
        let mut done = 0;
        while done < len {
            let left = len.saturating_sub(done);
            let region = self.region(id, at.saturating_add(done), left);
            let n = region.len().min(left);
            if n == 0 {
                return;
            }
            if let Some(region) = region.get_mut(..n) {
                region.fill(0);
            }
            done = done.saturating_add(n);
        }
    }

    /// A part of a read is in place. Only structured and extended replies have
    /// parts; a simple reply is reported as one.
    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        let _ = (id, chunk);
    }

    /// One extent of a block status reply, in order for each context. They are
    /// final only when the command completes successfully.
    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        let _ = (id, context, extent);
    }

    /// The server explained an error.
    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        let _ = (id, report);
    }
}

/// Provides payload: data of writes on the client side, data of reads on the
/// server side.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say where payload comes from",
    note = "take `Discard` where there is none, `WriteFrom` for one write, `Buffers` for many \
            requests, or implement `PayloadSource`"
)]
pub trait PayloadSource {
    /// Up to `len` bytes of request `id`, starting `at` bytes into its payload.
    ///
    /// It may be shorter than `len` when the source is scattered; the machine
    /// asks again for the rest. It must not be empty and must return the same
    /// bytes until the request has been sent; otherwise the data is garbled (the
    /// framing is not) or sending stops with
    /// [`ApiMisuse::PayloadMissing`](crate::ApiMisuse::PayloadMissing).
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8];
}

impl<T: PayloadSink + ?Sized> PayloadSink for &mut T {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        (**self).region(id, at, len)
    }

    fn zeroes(&mut self, id: RequestId, at: usize, len: usize) {
        (**self).zeroes(id, at, len);
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        (**self).chunk(id, chunk);
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        (**self).extent(id, context, extent);
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        (**self).error(id, report);
    }
}

/// No payload at all: arriving bytes are thrown away, none can be sent. What a
/// negotiation is driven with.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it holds nothing")]
pub struct Discard;

impl PayloadSink for Discard {
    fn region(&mut self, _id: RequestId, _at: usize, _len: usize) -> &mut [u8] {
        &mut []
    }
}

impl PayloadSource for Discard {
    fn bytes(&self, _id: RequestId, _at: usize, _len: usize) -> &[u8] {
        &[]
    }
}

/// The caller's own slice as the destination of one read.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name and its buffer, put together by the caller")]
pub struct ReadInto<'a> {
    /// The read.
    pub id: RequestId,
    /// Its destination.
    pub buffer: &'a mut [u8],
}

impl PayloadSink for ReadInto<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        if id != self.id {
            return &mut [];
        }
        part_mut(self.buffer, at, len)
    }
}

/// The caller's own slice as the source of one write.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name and its buffer, put together by the caller")]
pub struct WriteFrom<'a> {
    /// The write.
    pub id: RequestId,
    /// Its data.
    pub buffer: &'a [u8],
}

impl PayloadSource for WriteFrom<'_> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        if id != self.id {
            return &[];
        }
        part(self.buffer, at, len)
    }
}

/// Buffers of many requests, found by slot.
///
/// ```
/// # use nbd_proto::{PayloadSink, RequestId, Buffers};
/// let id = RequestId::from_cookie(7 | 1 << 32);
/// let mut table = Buffers::new();
/// table.insert(id, vec![0; 512]);
/// assert_eq!(table.region(id, 500, 100).len(), 12);
/// assert_eq!(table.remove(id), Some(vec![0; 512]));
/// assert_eq!(table.remove(id), None);
/// ```
pub struct Buffers<B> {
    slots: Vec<Option<(RequestId, B)>>,
}

impl<B> Buffers<B> {
    /// An empty table. It grows to the highest slot in use and no further.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// Keeps the buffer of a request; returns what the slot held before.
    #[inline]
    pub fn insert(&mut self, id: RequestId, buffer: B) -> Option<B> {
        if id.slot() >= self.slots.len() {
            self.slots.resize_with(id.slot().saturating_add(1), || None);
        }
        let slot = self.slots.get_mut(id.slot())?;
        slot.replace((id, buffer)).map(|(_, old)| old)
    }

    /// Takes the buffer of a request out.
    #[inline]
    pub fn remove(&mut self, id: RequestId) -> Option<B> {
        self.slots.get_mut(id.slot())?.take_if(|(owner, _)| *owner == id).map(|(_, b)| b)
    }

    /// The buffer of a request.
    #[must_use]
    #[inline]
    pub fn get(&self, id: RequestId) -> Option<&B> {
        self.slots.get(id.slot())?.as_ref().filter(|(owner, _)| *owner == id).map(|(_, b)| b)
    }

    /// The buffer of a request, to change.
    #[inline]
    pub fn get_mut(&mut self, id: RequestId) -> Option<&mut B> {
        self.slots.get_mut(id.slot())?.as_mut().filter(|(owner, _)| *owner == id).map(|(_, b)| b)
    }
}

impl<B> Default for Buffers<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> fmt::Debug for Buffers<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.slots.iter().filter(|slot| slot.is_some()).count();
        f.debug_struct("Buffers").field("used", &used).field("slots", &self.slots.len()).finish()
    }
}

impl<B: AsMut<[u8]>> PayloadSink for Buffers<B> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        match self.get_mut(id) {
            Some(buffer) => part_mut(buffer.as_mut(), at, len),
            None => &mut [],
        }
    }
}

impl<B: AsRef<[u8]>> PayloadSource for Buffers<B> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.get(id).map_or(&[], |buffer| part(buffer.as_ref(), at, len))
    }
}

/// What a server's clients write, until the server takes it: a buffer for each write, made when
/// its first bytes come.
///
/// ```
/// # use nbd_proto::{PayloadSink, RequestId, WriteBuffers};
/// let id = RequestId::from_cookie(7 | 1 << 32);
/// let mut buffers = WriteBuffers::new();
/// buffers.region(id, 0, 3).copy_from_slice(b"new");
/// assert_eq!(buffers.take(id), b"new");
/// assert_eq!(buffers.take(id), b"");
/// ```
///
/// A buffer grows with what has come, and not with what a client has announced. How many there
/// can be and how long they get is limited by [`Limits`](crate::Limits).
#[derive(Debug, Default)]
pub struct WriteBuffers(Buffers<Vec<u8>>);

impl WriteBuffers {
    /// By how many bytes a buffer is ahead of what has come, at most.
    const GROWTH: usize = 256 << 10;

    /// No buffers yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Buffers::new())
    }

    /// The data of a write that is [complete](crate::ServerEvent::Request); empty if there is
    /// none. To be taken for each of them, or its memory stays.
    pub fn take(&mut self, id: RequestId) -> Vec<u8> {
        self.0.remove(id).unwrap_or_default()
    }
}

impl PayloadSink for WriteBuffers {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        if self.0.get(id).is_none() {
            self.0.insert(id, Vec::new());
        }
        let Some(buffer) = self.0.get_mut(id) else { return &mut [] };
        let end = at.saturating_add(len.min(Self::GROWTH));
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        part_mut(buffer, at, len)
    }
}

/// At most `len` bytes of `buffer` from `at`; empty when `at` is beyond the end.
#[must_use]
pub fn part(buffer: &[u8], at: usize, len: usize) -> &[u8] {
    let rest = buffer.get(at..).unwrap_or_default();
    rest.get(..len).unwrap_or(rest)
}

/// At most `len` bytes of `buffer` from `at`; empty when `at` is beyond the end.
pub fn part_mut(buffer: &mut [u8], at: usize, len: usize) -> &mut [u8] {
    let end = at.saturating_add(len).min(buffer.len());
    buffer.get_mut(at..end).unwrap_or_default()
}

/// Text from a peer made safe to show: invalid UTF-8 replaced, control
/// characters escaped, so that it can neither move a cursor nor break a line.
#[must_use]
pub fn escape(bytes: &[u8]) -> alloc::string::String {
    let mut out = alloc::string::String::new();
    for c in alloc::string::String::from_utf8_lossy(bytes).chars() {
        // Bidirectional overrides reorder the text around them on a terminal.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
