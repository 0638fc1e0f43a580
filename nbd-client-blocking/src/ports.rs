//! Where payload lands and where it comes from, for one command and for many.

use nbd_proto::{
    ContextId, ErrorReport, Extent, PayloadSink, PayloadSource, ReadChunk, Remark, RequestId,
    Table, part, part_mut,
};

/// The memory behind the one command a caller waits for.
pub(crate) struct Single<'a> {
    pub(crate) id: Option<RequestId>,
    pub(crate) read: &'a mut [u8],
    pub(crate) write: &'a [u8],
    pub(crate) on_extent: Option<&'a mut dyn FnMut(ContextId, Extent)>,
    pub(crate) on_chunk: Option<&'a mut dyn FnMut(ReadChunk)>,
    pub(crate) remark: Option<Remark>,
}

impl Single<'_> {
    pub(crate) fn none() -> Self {
        Self { id: None, read: &mut [], write: &[], on_extent: None, on_chunk: None, remark: None }
    }
}

impl PayloadSink for Single<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        if Some(id) == self.id { part_mut(self.read, at, len) } else { &mut [] }
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        if Some(id) == self.id
            && let Some(report) = &mut self.on_chunk
        {
            report(chunk);
        }
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        if Some(id) == self.id
            && let Some(report) = &mut self.on_extent
        {
            report(context, extent);
        }
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        if Some(id) == self.id {
            self.remark.get_or_insert_with(|| Remark::from(report));
        }
    }
}

impl PayloadSource for Single<'_> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        if Some(id) == self.id { part(self.write, at, len) } else { &[] }
    }
}

/// The memory behind many commands.
#[derive(Debug)]
pub(crate) struct Many<B> {
    pub(crate) buffers: Table<B>,
    pub(crate) extents: Table<Vec<(ContextId, Extent)>>,
    /// For the reads whose parts are to be reported. A part costs less memory than the
    /// bytes it came with.
    pub(crate) chunks: Table<Vec<ReadChunk>>,
    pub(crate) remarks: Table<Remark>,
}

impl<B> Many<B> {
    pub(crate) const fn new() -> Self {
        Self {
            buffers: Table::new(),
            extents: Table::new(),
            chunks: Table::new(),
            remarks: Table::new(),
        }
    }
}

impl<B: AsMut<[u8]>> PayloadSink for Many<B> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.buffers.region(id, at, len)
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        if let Some(list) = self.chunks.get_mut(id) {
            list.push(chunk);
        }
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        match self.extents.get_mut(id) {
            Some(list) => list.push((context, extent)),
            None => drop(self.extents.insert(id, vec![(context, extent)])),
        }
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        if self.remarks.get(id).is_none() {
            self.remarks.insert(id, Remark::from(report));
        }
    }
}

impl<B: AsRef<[u8]>> PayloadSource for Many<B> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.buffers.bytes(id, at, len)
    }
}
