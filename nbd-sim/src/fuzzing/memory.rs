//! A server application's memory for payload, which grows as the bytes arrive.

use nbd_proto::{Buffers, PayloadSink, PayloadSource, RequestId, part_mut};

/// Payload of requests in work, both ways.
#[derive(Debug)]
pub(super) struct Memory(Buffers<Vec<u8>>);

/// Most bytes offered at once: a length that a client only claims costs nothing.
const PIECE: usize = 4096;

impl Memory {
    pub(super) fn new() -> Self {
        Self(Buffers::new())
    }

    pub(super) fn insert(&mut self, id: RequestId, bytes: Vec<u8>) {
        self.0.insert(id, bytes);
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Vec<u8> {
        self.0.remove(id).unwrap_or_default()
    }
}

impl PayloadSink for Memory {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        assert!(len > 0, "no bytes for {id:?}");
        if at == 0 {
            self.0.insert(id, Vec::new());
        }
        let len = len.min(PIECE);
        let buffer = self.0.get_mut(id).expect("payload starts at its start");
        if buffer.len() < at + len {
            buffer.resize(at + len, 0);
        }
        part_mut(buffer, at, len)
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.0.bytes(id, at, len)
    }
}
