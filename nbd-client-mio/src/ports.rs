//! Where payload lands and where it comes from.

use nbd_proto::{
    ContextId, ErrorReport, Extent, PayloadSink, PayloadSource, Remark, RequestId, Table,
};

/// What belongs to the commands in flight, by slot.
#[derive(Debug)]
pub(crate) struct Ports<B> {
    pub(crate) buffers: Table<B>,
    pub(crate) extents: Table<Vec<(ContextId, Extent)>>,
    pub(crate) remarks: Table<Remark>,
}

impl<B> Ports<B> {
    pub(crate) const fn new() -> Self {
        Self { buffers: Table::new(), extents: Table::new(), remarks: Table::new() }
    }
}

impl<B: AsMut<[u8]>> PayloadSink for Ports<B> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.buffers.region(id, at, len)
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

impl<B: AsRef<[u8]>> PayloadSource for Ports<B> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.buffers.bytes(id, at, len)
    }
}
