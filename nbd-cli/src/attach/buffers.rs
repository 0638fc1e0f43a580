//! Payload on its way, in memory that is used over and over.

use nbd_client_mio::proto::{Buffers, PayloadSink, RequestId, part_mut};

/// The smallest buffer, in bytes, as a power of two: the usual request.
const SMALLEST: u32 = 12;

/// Classes of buffers: 4 KiB, 8 KiB, … 32 MiB.
const CLASSES: usize = 14;

/// Unused ones are kept up to this many bytes in all.
const KEPT: usize = 64 << 20;

/// The payload of one request.
#[derive(Debug)]
pub(super) struct Buffer {
    /// As long as its class; what is beyond `length` is never looked at.
    bytes: Vec<u8>,
    length: usize,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

/// Buffers that nobody uses at the moment.
#[derive(Debug, Default)]
pub(super) struct Spare {
    classes: [Vec<Vec<u8>>; CLASSES],
    kept: usize,
}

impl Spare {
    /// One for so many bytes. What it contains is left over from others.
    pub(super) fn take(&mut self, length: usize) -> Buffer {
        let class = class_of(length);
        let kept = self.classes.get_mut(class).and_then(Vec::pop);
        if let Some(bytes) = kept {
            self.kept -= bytes.len();
            return Buffer { bytes, length };
        }
        let size = if class < CLASSES { 1 << (SMALLEST as usize + class) } else { length };
        Buffer { bytes: vec![0; size], length }
    }

    pub(super) fn give_back(&mut self, buffer: Buffer) {
        let size = buffer.bytes.len();
        if self.kept + size > KEPT {
            return;
        }
        if let Some(class) = self.classes.get_mut(class_of(size)) {
            self.kept += size;
            class.push(buffer.bytes);
        }
    }
}

/// The class whose buffers are large enough; the last one for what is larger than any.
fn class_of(length: usize) -> usize {
    let power = length.max(1).next_power_of_two().trailing_zeros();
    (power.saturating_sub(SMALLEST) as usize).min(CLASSES)
}

/// Where the payload of writes arrives.
#[derive(Debug)]
pub(super) struct Arrivals<'a> {
    pub(super) buffers: &'a mut Buffers<Buffer>,
    pub(super) spare: &'a mut Spare,
}

impl PayloadSink for Arrivals<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        // At the start of a write the length is that of the whole.
        if at == 0 && self.buffers.get(id).is_none() {
            self.buffers.insert(id, self.spare.take(len));
        }
        let buffer = self.buffers.get_mut(id);
        buffer.map_or(&mut [], |buffer| part_mut(buffer.as_mut(), at, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_long_as_asked_for_and_used_again() {
        for length in [1, 512, 4096, 4097, 131_072, 33 << 20] {
            let mut spare = Spare::default();
            let buffer = spare.take(length);
            assert_eq!(buffer.as_ref().len(), length);
            spare.give_back(buffer);
            // Larger ones than any class are not kept.
            assert_eq!(spare.kept > 0, length <= 32 << 20, "{length}");
            assert_eq!(spare.take(length).as_ref().len(), length);
            assert_eq!(spare.kept, 0);
        }
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let mut spare = Spare::default();
        let all: Vec<_> = (0..5).map(|_| spare.take(16 << 20)).collect();
        all.into_iter().for_each(|buffer| spare.give_back(buffer));
        assert_eq!(spare.kept, KEPT);
    }
}
