//! Where payload is, for a connection that is one of several.

use nbd_proto::{
    ContextId, ErrorReport, Extent, PayloadSink, PayloadSource, ReadChunk, RequestId, part,
};
use nbd_session::replay::ReplayLog;

/// The memory of callers, who know their commands by other names than the connection, and
/// that of acknowledged writes, which nobody else has any more.
pub(super) struct Renamed<'a, P> {
    pub(super) journal: &'a ReplayLog<RequestId, Vec<u8>>,
    pub(super) ports: &'a mut P,
}

impl<P: PayloadSink> PayloadSink for Renamed<'_, P> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        match self.journal.caller(id) {
            Some(caller) => self.ports.region(caller, at, len),
            None => &mut [],
        }
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        if let Some(caller) = self.journal.caller(id) {
            self.ports.chunk(caller, chunk);
        }
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        if let Some(caller) = self.journal.caller(id) {
            self.ports.extent(caller, self.journal.context(context), extent);
        }
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        if let Some(caller) = self.journal.caller(id) {
            self.ports.error(caller, report);
        }
    }
}

impl<P: PayloadSource> PayloadSource for Renamed<'_, P> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        match (self.journal.caller(id), self.journal.payload(id)) {
            (Some(caller), _) => self.ports.bytes(caller, at, len),
            (None, Some(kept)) => part(kept, at, len),
            (None, None) => &[],
        }
    }
}
