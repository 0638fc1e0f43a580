//! Memory for the payload of one connection, used over and over.
//!
//! ```text
//!   write:  region() lends ─► bytes arrive ─► stored ──────► give_back
//!   read:   lend ─► filled from the store ─► bytes() leave ─► give_back
//! ```

use nbd_proto::{PayloadSink, PayloadSource, RequestId, Table};

/// The smallest buffer, in bytes, as a power of two: the usual request.
const SMALLEST: u32 = 12;

/// Classes of buffers: 4 KiB, 8 KiB, … 32 MiB. Longer ones are not kept.
const CLASSES: usize = 14;

/// Unused buffers are kept up to this many bytes in all.
const KEPT: usize = 16 << 20;

/// The payload of the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    lent: Table<Lent>,
    held: usize,
    free: [Vec<Vec<u8>>; CLASSES],
    kept: usize,
}

/// The memory of one request.
#[derive(Debug)]
struct Lent {
    /// At least as long as was asked for; what is beyond is never looked at.
    buffer: Vec<u8>,
    /// What it counts for in [`Buffers::held`].
    weight: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl Buffers {
    /// Bytes that requests hold until their replies have left.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Memory for `len` bytes of a request. What it contains is left over from
    /// others, so all of it must be written before any of it is sent.
    pub(super) fn lend(&mut self, id: RequestId, len: usize) -> &mut [u8] {
        self.give_back(id);
        let class = class_of(len);
        let kept = self.free.get_mut(class).and_then(Vec::pop);
        let buffer = match kept {
            Some(buffer) => {
                self.kept -= buffer.len();
                buffer
            }
            None => vec![0; len.next_power_of_two().max(1 << SMALLEST)],
        };
        let weight = buffer.len();
        self.held += weight;
        self.lent.insert(id, Lent { buffer, weight });
        self.region(id, 0, len)
    }

    /// Counts `weight` bytes that the reply to a request takes up elsewhere.
    pub(super) fn charge(&mut self, id: RequestId, weight: usize) {
        self.give_back(id);
        let buffer = Vec::new();
        self.held += weight;
        self.lent.insert(id, Lent { buffer, weight });
    }

    /// The request needs its memory no longer.
    pub(super) fn give_back(&mut self, id: RequestId) {
        let Some(Lent { buffer, weight }) = self.lent.remove(id) else {
            return;
        };
        self.held -= weight;
        if buffer.is_empty() || self.kept + buffer.len() > KEPT {
            return;
        }
        if let Some(class) = self.free.get_mut(class_of(buffer.len())) {
            self.kept += buffer.len();
            class.push(buffer);
        }
    }

    /// Whether memory is kept that nobody uses.
    pub(super) const fn keeps_any(&self) -> bool {
        self.kept > 0
    }

    /// Returns the memory that nobody uses to the system.
    pub(super) fn forget_unused(&mut self) {
        self.free = Default::default();
        self.kept = 0;
    }
}

impl PayloadSink for Buffers {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        // The first call for a request tells the length of all of its payload.
        if at == 0 && self.lent.get(id).is_none() {
            return self.lend(id, len);
        }
        self.lent.region(id, at, len)
    }
}

impl PayloadSource for Buffers {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.lent.bytes(id, at, len)
    }
}

/// The class of buffers for `len` bytes; [`CLASSES`] and above are not kept.
fn class_of(len: usize) -> usize {
    let bits = len.next_power_of_two().trailing_zeros();
    bits.saturating_sub(SMALLEST) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: usize = 1 << 20;

    fn id(slot: u64) -> RequestId {
        RequestId::from_cookie(slot)
    }

    #[test]
    fn a_buffer_is_used_again_for_its_class_only() {
        let mut buffers = Buffers::default();
        let first = buffers.lend(id(0), 4096).as_ptr();
        buffers.give_back(id(0));
        assert_ne!(buffers.lend(id(1), 5000).as_ptr(), first);
        assert_eq!(buffers.lend(id(2), 1).as_ptr(), first);
        assert_eq!(buffers.held(), 4096 + 8192);
    }

    #[test]
    fn memory_is_counted_while_held_and_bounded_while_kept() {
        let mut buffers = Buffers::default();
        for slot in 0..32 {
            assert_eq!(buffers.lend(id(slot), MEGABYTE).len(), MEGABYTE);
        }
        assert_eq!(buffers.held(), 32 * MEGABYTE);
        for slot in 0..32 {
            buffers.give_back(id(slot));
        }
        assert_eq!((buffers.held(), buffers.kept), (0, KEPT));
        buffers.forget_unused();
        assert!(!buffers.keeps_any());
    }

    #[test]
    fn the_first_region_of_a_request_lends_and_later_ones_do_not() {
        let mut buffers = Buffers::default();
        assert_eq!(buffers.region(id(3), 0, 10_000).len(), 10_000);
        assert_eq!(buffers.region(id(3), 0, 10_000).len(), 10_000);
        assert_eq!(buffers.region(id(3), 9_000, 1_000).len(), 1_000);
        assert_eq!(buffers.held(), 16 << 10);
        assert!(buffers.region(id(4), 5, 10).is_empty());
    }

    #[test]
    fn a_charge_counts_and_is_given_back() {
        let mut buffers = Buffers::default();
        buffers.charge(id(0), 100);
        assert_eq!(buffers.held(), 100);
        buffers.give_back(id(0));
        assert_eq!((buffers.held(), buffers.keeps_any()), (0, false));
    }
}
