//! What replies tell besides payload.

use alloc::vec::Vec;

use crate::failure::ServerMessage;
use crate::payload::{Buffers, ErrorReport, PayloadSink, PayloadSource, ReadChunk};
use crate::types::{ContextId, Extent, RequestId};

/// What the reply to one command told besides payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplyDetails {
    /// The extents of a block status, in order for each context; at most [`Details::MOST`], and
    /// at least one for each context.
    pub extents: Vec<(ContextId, Extent)>,
    /// The parts of a read that was to [report](Details::report_chunks) them: data or holes, in
    /// whatever order the server sent them; at most [`Details::MOST`].
    pub chunks: Vec<ReadChunk>,
    /// What the server said about its last error.
    pub message: Option<ServerMessage>,
}

/// Keeps what replies tell besides payload, for each request until it is
/// [taken](Self::take): to be done with its completion. A command whose reply tells nothing but
/// payload takes no memory here.
///
/// It is a sink for commands without payload; [`Replies`] has buffers, too.
#[derive(Debug, Default)]
pub struct Details(Buffers<Kept>);

#[derive(Debug, Default)]
struct Kept {
    details: ReplyDetails,
    reports_chunks: bool,
}

impl Details {
    /// Extents, or parts, of one command that are kept. A server may report as many extents in
    /// one chunk (proto.md, "NBD_REPLY_TYPE_BLOCK_STATUS"); what is beyond is cut off, as a server
    /// may do itself.
    pub const MOST: usize = 1 << 20;

    /// Of no request yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Buffers::new())
    }

    /// Keeps the parts of the reply to a read that was just submitted.
    pub fn report_chunks(&mut self, id: RequestId) {
        if let Some(kept) = self.kept(id) {
            kept.reports_chunks = true;
        }
    }

    /// What the reply to a command told.
    pub fn take(&mut self, id: RequestId) -> ReplyDetails {
        self.0.remove(id).unwrap_or_default().details
    }

    /// What the server said about an error, to be told before the rest is
    /// [taken](Self::take).
    pub fn take_message(&mut self, id: RequestId) -> Option<ServerMessage> {
        self.0.get_mut(id)?.details.message.take()
    }

    /// Forgets what a reply told that will be given anew, from its start.
    pub fn restart(&mut self, id: RequestId) {
        if let Some(kept) = self.0.get_mut(id) {
            kept.details = ReplyDetails::default();
        }
    }

    /// What is kept of a request, from now on if not before.
    fn kept(&mut self, id: RequestId) -> Option<&mut Kept> {
        if self.0.get(id).is_none() {
            self.0.insert(id, Kept::default());
        }
        self.0.get_mut(id)
    }
}

impl PayloadSink for Details {
    fn region(&mut self, _id: RequestId, _at: usize, _len: usize) -> &mut [u8] {
        &mut []
    }

    #[inline]
    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        if let Some(Kept { details, reports_chunks: true }) = self.0.get_mut(id)
            && details.chunks.len() < Self::MOST
        {
            details.chunks.push(chunk);
        }
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        if let Some(Kept { details: ReplyDetails { extents, .. }, .. }) = self.kept(id)
            // A context has one chunk, so what is told of it stands together.
            && (extents.len() < Self::MOST
                || extents.last().is_none_or(|(known, _)| *known != context))
        {
            extents.push((context, extent));
        }
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        if let Some(kept) = self.kept(id) {
            kept.details.message = Some(ServerMessage::from(report));
        }
    }
}

/// Buffers of many requests, and what their replies tell besides: all that there is to know
/// about what came of them, but for their completions.
///
/// ```
/// use nbd_proto::{ContextId, Errno, ErrorReport, Extent, PayloadSink, Replies, RequestId};
///
/// let id = RequestId::from_cookie(7 | 1 << 32);
/// let mut replies = Replies::new();
/// replies.insert(id, vec![0; 3]);
/// // As a client does while it is fed:
/// replies.region(id, 0, 3).copy_from_slice(b"new");
/// replies.extent(id, ContextId(1), Extent { length: 512, status: 3 });
/// replies.error(id, ErrorReport { errno: Errno::Io, offset: Some(9), message: b"bad sector" });
///
/// // When the command is completed:
/// let (buffer, details) = replies.take(id);
/// assert_eq!(buffer, Some(b"new".to_vec()));
/// assert_eq!(details.extents, [(ContextId(1), Extent { length: 512, status: 3 })]);
/// assert_eq!(details.message.unwrap().message, "bad sector");
/// ```
#[derive(Debug)]
pub struct Replies<B> {
    buffers: Buffers<B>,
    details: Details,
}

impl<B> Replies<B> {
    /// Of no request yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffers: Buffers::new(), details: Details::new() }
    }

    /// Keeps the buffer of a request; returns what its slot held before.
    pub fn insert(&mut self, id: RequestId, buffer: B) -> Option<B> {
        self.buffers.insert(id, buffer)
    }

    /// Keeps the parts of the reply to a read that was just submitted.
    pub fn report_chunks(&mut self, id: RequestId) {
        self.details.report_chunks(id);
    }

    /// The buffer of a request, if it had one, and what its reply told.
    pub fn take(&mut self, id: RequestId) -> (Option<B>, ReplyDetails) {
        (self.buffers.remove(id), self.details.take(id))
    }
}

impl<B> Default for Replies<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: AsMut<[u8]>> PayloadSink for Replies<B> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.buffers.region(id, at, len)
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        self.details.chunk(id, chunk);
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        self.details.extent(id, context, extent);
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        self.details.error(id, report);
    }
}

impl<B: AsRef<[u8]>> PayloadSource for Replies<B> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.buffers.bytes(id, at, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Errno;

    const ID: RequestId = RequestId::from_cookie(3 | 1 << 32);
    const OTHER: RequestId = RequestId::from_cookie(3 | 2 << 32);

    #[test]
    fn parts_are_kept_for_who_asked_and_no_others() {
        let part = ReadChunk { at: 0, length: 512, hole: true };
        let mut details = Details::new();
        details.chunk(ID, part);
        assert_eq!(details.take(ID), ReplyDetails::default());
        details.report_chunks(ID);
        details.chunk(ID, part);
        details.chunk(OTHER, part);
        details.restart(ID);
        details.chunk(ID, part);
        assert_eq!(details.take(ID).chunks, [part]);
        details.chunk(ID, part);
        assert_eq!(details.take(ID), ReplyDetails::default());
    }

    #[test]
    fn what_was_told_of_a_request_is_not_told_of_the_next_in_its_slot() {
        let mut details = Details::new();
        details.error(ID, ErrorReport { errno: Errno::Io, offset: None, message: b"old" });
        details.extent(OTHER, ContextId(1), Extent { length: 1, status: 0 });
        assert_eq!(details.take(ID), ReplyDetails::default());
        let told = details.take(OTHER);
        assert_eq!((told.extents.len(), told.message), (1, None));
    }

    #[test]
    fn extents_are_cut_off_but_for_the_first_of_each_context() {
        let extent = Extent { length: 1, status: 0 };
        let mut details = Details::new();
        for _ in 0..=Details::MOST {
            details.extent(ID, ContextId(1), extent);
        }
        // As many as a chunk can have: none of them takes a walk over the others.
        for _ in 0..4 << 20 {
            details.extent(ID, ContextId(2), extent);
        }
        let extents = details.take(ID).extents;
        assert_eq!(extents.len(), Details::MOST + 1);
        assert_eq!(extents.last(), Some(&(ContextId(2), extent)));
    }
}
