//! Where the payload of the kernel's writes arrives.

use nbd_client_mio::proto::{Buffers, PayloadSink, RequestId, part_mut};
use nbd_client_mio::{BufferPool, PooledBuffer};

/// Buffers for writes, made when their first bytes come.
#[derive(Debug)]
pub(super) struct Arrivals<'a> {
    pub(super) buffers: &'a mut Buffers<PooledBuffer>,
    pub(super) memory: &'a BufferPool,
}

impl PayloadSink for Arrivals<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        // At the start of a write the length is that of the whole.
        if at == 0 && self.buffers.get(id).is_none() {
            self.buffers.insert(id, self.memory.buffer(len));
        }
        let buffer = self.buffers.get_mut(id);
        buffer.map_or(&mut [], |buffer| part_mut(buffer.as_mut(), at, len))
    }
}
