//! Memory of a server for the payload of writes.

use nbd_proto::{Buffers, PayloadSink, RequestId, part_mut};

/// Makes it as the payload arrives: what is announced alone takes none.
pub(crate) struct Arrivals<'a>(pub(crate) &'a mut Buffers<Vec<u8>>);

impl PayloadSink for Arrivals<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        if self.0.get(id).is_none() {
            self.0.insert(id, Vec::new());
        }
        let Some(buffer) = self.0.get_mut(id) else {
            return &mut [];
        };
        if buffer.len() < at + len {
            buffer.resize(at + len, 0);
        }
        part_mut(buffer, at, len)
    }
}
