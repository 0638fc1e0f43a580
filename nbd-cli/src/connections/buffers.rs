//! Payload on its way, in memory that is used over and over.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use nbd_client_mio::proto::{Buffers, PayloadSink, RequestId, part_mut};

/// The smallest buffer, in bytes, as a power of two: the usual request.
const SMALLEST: u32 = 12;

/// Classes of buffers: 4 KiB, 8 KiB, … 32 MiB.
const CLASSES: usize = 14;

/// Unused ones are kept up to this many bytes in all.
const KEPT: usize = 64 << 20;

/// So many of those that are shared are looked at for one that is not any more.
const LOOKS: usize = 8;

/// The payload of one request.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// As long as its class; what is beyond `length` is never looked at.
    bytes: BytesMut,
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

/// Buffers that nobody uses at the moment, and those that are shared with whoever keeps what
/// was written.
#[derive(Debug)]
pub(crate) struct Spare {
    classes: [Class; CLASSES],
    /// Bytes of unused buffers.
    kept: usize,
    /// Bytes of shared ones, and how many there may be.
    shared: usize,
    most_shared: usize,
}

/// Buffers of one size.
#[derive(Debug, Default)]
struct Class {
    unused: Vec<BytesMut>,
    /// In the order in which they were shared, which is nearly that in which they come back.
    shared: VecDeque<Bytes>,
}

impl Spare {
    /// Where so many bytes of what is written are kept.
    pub(crate) fn new(kept: usize) -> Self {
        // A buffer is less than twice as large as what is in it.
        let most_shared = kept.saturating_mul(2).saturating_add(KEPT);
        Self { classes: Default::default(), kept: 0, shared: 0, most_shared }
    }

    /// One for so many bytes. What it contains is left over from others.
    pub(crate) fn take(&mut self, length: usize) -> Buffer {
        let number = class_of(length);
        let Some(class) = self.classes.get_mut(number) else {
            return Buffer { bytes: BytesMut::zeroed(length), length };
        };
        if let Some(bytes) = class.unused.pop() {
            self.kept -= bytes.len();
            return Buffer { bytes, length };
        }
        if let Some(bytes) = class.returned() {
            self.shared -= bytes.len();
            return Buffer { bytes, length };
        }
        let mut bytes = BytesMut::zeroed(1 << (SMALLEST as usize + number));
        // From here on it can be shared and come back without anything being allocated.
        drop(bytes.split_off(bytes.len()));
        Buffer { bytes, length }
    }

    /// One that nobody needs any more.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        let size = buffer.bytes.len();
        if self.kept + size > KEPT {
            return;
        }
        if let Some(class) = self.classes.get_mut(class_of(size)) {
            self.kept += size;
            class.unused.push(buffer.bytes);
        }
    }

    /// What is in a buffer, for others to keep. It is used again when they have let go of it.
    pub(crate) fn share(&mut self, buffer: Buffer) -> Bytes {
        let Buffer { bytes, length } = buffer;
        let whole = bytes.freeze();
        let part = whole.slice(..length);
        if self.shared + whole.len() <= self.most_shared
            && let Some(class) = self.classes.get_mut(class_of(whole.len()))
        {
            self.shared += whole.len();
            class.shared.push_back(whole);
        }
        part
    }
}

impl Class {
    /// A buffer that was shared and is not any more.
    fn returned(&mut self) -> Option<BytesMut> {
        for _ in 0..self.shared.len().min(LOOKS) {
            match self.shared.pop_front()?.try_into_mut() {
                Ok(bytes) => return Some(bytes),
                Err(bytes) => self.shared.push_back(bytes),
            }
        }
        None
    }
}

/// The class whose buffers are large enough; the last one for what is larger than any.
fn class_of(length: usize) -> usize {
    let power = length.max(1).next_power_of_two().trailing_zeros();
    (power.saturating_sub(SMALLEST) as usize).min(CLASSES)
}

/// Where the payload of writes arrives.
#[derive(Debug)]
pub(crate) struct Arrivals<'a> {
    pub(crate) buffers: &'a mut Buffers<Buffer>,
    pub(crate) spare: &'a mut Spare,
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
            let mut spare = Spare::new(0);
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
    fn what_is_shared_is_the_same_memory_and_comes_back() {
        let mut spare = Spare::new(1 << 20);
        let mut buffer = spare.take(5000);
        buffer.as_mut().fill(7);
        let place = buffer.as_ref().as_ptr();
        let shared = spare.share(buffer);
        assert_eq!((shared.len(), shared.as_ptr()), (5000, place));
        let other = spare.take(5000);
        assert_ne!(other.as_ref().as_ptr(), place, "somebody keeps that one");
        assert_eq!(&shared[..], [7; 5000]);
        drop(shared);
        let again = spare.take(8192);
        assert_eq!(again.as_ref().as_ptr(), place);
        assert_eq!((again.as_ref().len(), spare.shared), (8192, 0));
    }

    #[test]
    fn one_that_is_kept_for_long_does_not_keep_the_others() {
        let mut spare = Spare::new(1 << 20);
        let [first, second] = [(); 2].map(|()| spare.take(4096)).map(|one| spare.share(one));
        let place = second.as_ptr();
        drop(second);
        assert_eq!(spare.take(4096).as_ref().as_ptr(), place);
        drop(first);
    }

    #[test]
    fn no_more_is_shared_than_may_be_kept() {
        let mut spare = Spare::new(0);
        let all: Vec<_> = (0..5).map(|_| spare.take(16 << 20)).collect();
        let all: Vec<_> = all.into_iter().map(|buffer| spare.share(buffer)).collect();
        assert_eq!((all.len(), spare.shared), (5, KEPT));
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let mut spare = Spare::new(0);
        let all: Vec<_> = (0..5).map(|_| spare.take(16 << 20)).collect();
        all.into_iter().for_each(|buffer| spare.give_back(buffer));
        assert_eq!(spare.kept, KEPT);
    }
}
