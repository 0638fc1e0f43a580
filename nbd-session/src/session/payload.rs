//! Where the payload of callers, and that of nobody any more, is found.

use bytes::Bytes;
use nbd_proto::{
    ContextId, Details, ErrorReport, Extent, PayloadSink, PayloadSource, ReadChunk, RequestId, part,
};

use crate::replay::ReplayLog;

/// A write that was withdrawn, or took too long, when it was half sent.
#[derive(Debug)]
pub(super) struct HalfSentWrite {
    /// By this name the caller knows it.
    pub(super) id: RequestId,
    /// By this one the core does.
    pub(super) sent_as: RequestId,
    /// Its payload, when the caller could not leave it.
    pub(super) copy: Option<Bytes>,
}

/// Payload by the names that the core knows. Made anew for each call, from parts of the session
/// and what the caller has lent.
pub(super) struct Payloads<'a, P> {
    pub(super) log: Option<&'a ReplayLog<RequestId, Bytes>>,
    pub(super) leaving: Option<&'a HalfSentWrite>,
    pub(super) details: &'a mut Details,
    pub(super) lent: &'a mut P,
}

impl<P> Payloads<'_, P> {
    /// The caller's name for a command of the core's.
    #[inline]
    fn name(&self, id: RequestId) -> Option<RequestId> {
        match self.log {
            None => Some(id),
            Some(log) => log.caller(id),
        }
    }
}

impl<P: PayloadSink> PayloadSink for Payloads<'_, P> {
    #[inline(always)]
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        match self.name(id) {
            Some(id) => self.lent.region(id, at, len),
            None => &mut [],
        }
    }

    fn zeroes(&mut self, id: RequestId, at: usize, len: usize) {
        if let Some(id) = self.name(id) {
            self.lent.zeroes(id, at, len);
        }
    }

    #[inline]
    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        if let Some(id) = self.name(id) {
            self.lent.chunk(id, chunk);
            self.details.chunk(id, chunk);
        }
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        let Some(id) = self.name(id) else { return };
        let context = self.log.map_or(context, |log| log.context(context));
        self.lent.extent(id, context, extent);
        self.details.extent(id, context, extent);
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        if let Some(id) = self.name(id) {
            self.lent.error(id, report);
            self.details.error(id, report);
        }
    }
}

impl<P: PayloadSource> PayloadSource for Payloads<'_, P> {
    #[inline]
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        if let Some(leaving) = self.leaving
            && leaving.sent_as == id
        {
            return match &leaving.copy {
                Some(copy) => part(copy, at, len),
                None => self.lent.bytes(leaving.id, at, len),
            };
        }
        let Some(log) = self.log else { return self.lent.bytes(id, at, len) };
        match (log.payload(id), log.caller(id)) {
            (Some(kept), _) => part(kept, at, len),
            (None, Some(id)) => self.lent.bytes(id, at, len),
            (None, None) => &[],
        }
    }
}
