//! Reading again what was written, as soon as it is acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use nbd_client_blocking::proto::RequestId;

use crate::copy::difference::Differences;
use crate::copy::piece::Slice;

/// What is read again, and what it is to be.
#[derive(Debug, Default)]
pub(super) struct Verify {
    /// Over which connection it was written, and its bytes; nothing where they are zeroes.
    expected: BTreeMap<RequestId, (u64, Option<Slice>)>,
    /// Zeroes that are to be looked at, and over which connection they were written.
    zeroes: VecDeque<(u64, Range<u64>)>,
}

impl Verify {
    /// A read was sent of what was written over this connection.
    pub(super) fn reads(&mut self, id: RequestId, connection: u64, bytes: Option<Slice>) {
        self.expected.insert(id, (connection, bytes));
    }

    /// Zeroes were written.
    pub(super) fn zeroes(&mut self, range: Range<u64>, connection: u64) {
        self.zeroes.push_back((connection, range));
    }

    /// The next zeroes to read, at most so many.
    pub(super) fn next(&mut self, most: u64) -> Option<(u64, Range<u64>)> {
        let (connection, range) = self.zeroes.front_mut()?;
        let (connection, start) = (*connection, range.start);
        range.start = range.end.min(start.saturating_add(most));
        let part = start..range.start;
        if range.is_empty() {
            self.zeroes.pop_front();
        }
        Some((connection, part))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.zeroes.is_empty()
    }

    /// Looks at what was read; returns the first byte that is not as it was written. What was
    /// written over another connection may be lost, and is written again.
    pub(super) fn look(
        &mut self,
        id: RequestId,
        offset: u64,
        read: &[u8],
        connection: u64,
    ) -> Option<u64> {
        let (written, bytes) = self.expected.remove(&id)?;
        if written != connection {
            return None;
        }
        let differences = Differences::default();
        match &bytes {
            Some(bytes) => differences.look(offset, bytes.as_ref(), read),
            None => differences.look(offset, &vec![0; read.len()], read),
        }
    }
}
