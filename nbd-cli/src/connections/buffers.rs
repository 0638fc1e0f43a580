//! Payload on its way, in memory that is used over and over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use nbd_client_mio::proto::{Buffers, PayloadSink, RequestId, part_mut};

/// The smallest piece of memory, in bytes, as a power of two: the usual request.
const SMALLEST: u32 = 12;

/// Classes of them: 4 KiB, 8 KiB, … 32 MiB.
const CLASSES: usize = 14;

/// Unused ones are kept up to this many bytes in all.
const KEPT: usize = 64 << 20;

/// So many of those that are shared are looked at for one that is not any more.
const LOOKS: usize = 8;

/// The payload of one request, in memory from the first byte that comes to the last that goes.
///
/// A request that waits for its reply has none: so what comes next goes where something has just
/// gone from, which is in the processor's cache, however many requests are under way.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    length: usize,
    spare: Spare,
}

#[derive(Debug)]
enum Memory {
    /// Zeroes that all of these have in common: a buffer has a length before it has memory.
    Blank(Bytes),
    /// As long as its class; what is beyond the length is never looked at.
    Own(BytesMut),
}

/// Memory that nobody uses at the moment, and what is shared with whoever keeps what was written.
#[derive(Clone, Debug)]
pub(crate) struct Spare(Arc<Mutex<Pool>>);

#[derive(Debug)]
struct Pool {
    classes: [Class; CLASSES],
    /// At least as long as any buffer so far.
    blank: Bytes,
    /// Bytes of unused memory.
    kept: usize,
    /// Bytes of what is shared, and how many there may be.
    shared: usize,
    most_shared: usize,
}

/// Memory in pieces of one size.
#[derive(Debug, Default)]
struct Class {
    unused: Vec<BytesMut>,
    /// In the order in which they were shared, which is nearly that in which they come back.
    shared: VecDeque<Bytes>,
}

impl Buffer {
    /// What is in it, for others to keep. The memory is used again when they have let go of it.
    pub(crate) fn share(mut self) -> Bytes {
        self.as_mut();
        match &mut self.memory {
            Memory::Blank(zeroes) => zeroes.slice(..self.length),
            Memory::Own(bytes) => {
                let whole = std::mem::take(bytes).freeze();
                let part = whole.slice(..self.length);
                self.spare.pool().share(whole);
                part
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        let bytes = match &self.memory {
            Memory::Blank(zeroes) => zeroes.as_ref(),
            Memory::Own(bytes) => bytes.as_ref(),
        };
        bytes.get(..self.length).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    /// What is in it at first is left over from others.
    fn as_mut(&mut self) -> &mut [u8] {
        if matches!(self.memory, Memory::Blank(_)) {
            self.memory = Memory::Own(self.spare.pool().take(self.length));
        }
        match &mut self.memory {
            Memory::Own(bytes) => bytes.get_mut(..self.length).unwrap_or_default(),
            Memory::Blank(_) => &mut [],
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Memory::Own(bytes) = &mut self.memory {
            let bytes = std::mem::take(bytes);
            self.spare.pool().give_back(bytes);
        }
    }
}

impl Spare {
    /// Where so many bytes of what is written are kept.
    pub(crate) fn new(kept: usize) -> Self {
        // Memory is less than twice as large as what is in it.
        let most_shared = kept.saturating_mul(2).saturating_add(KEPT);
        let (classes, blank) = (Default::default(), Bytes::new());
        Self(Arc::new(Mutex::new(Pool { classes, blank, kept: 0, shared: 0, most_shared })))
    }

    /// A buffer for so many bytes.
    pub(crate) fn buffer(&self, length: usize) -> Buffer {
        let memory = Memory::Blank(self.pool().blank(length));
        Buffer { memory, length, spare: self.clone() }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn blank(&mut self, length: usize) -> Bytes {
        if self.blank.len() < length {
            self.blank = BytesMut::zeroed(length.next_power_of_two()).freeze();
        }
        self.blank.clone()
    }

    /// Memory for so many bytes.
    fn take(&mut self, length: usize) -> BytesMut {
        let number = class_of(length);
        let Some(class) = self.classes.get_mut(number) else { return BytesMut::zeroed(length) };
        if let Some(bytes) = class.unused.pop() {
            self.kept -= bytes.len();
            return bytes;
        }
        if let Some(bytes) = class.returned() {
            self.shared -= bytes.len();
            return bytes;
        }
        let mut bytes = BytesMut::zeroed(1 << (SMALLEST as usize + number));
        // From here on it can be shared and come back without anything being allocated.
        drop(bytes.split_off(bytes.len()));
        bytes
    }

    /// Memory that nobody needs any more.
    fn give_back(&mut self, bytes: BytesMut) {
        let size = bytes.len();
        if size == 0 || self.kept + size > KEPT {
            return;
        }
        if let Some(class) = self.classes.get_mut(class_of(size)) {
            self.kept += size;
            class.unused.push(bytes);
        }
    }

    fn share(&mut self, whole: Bytes) {
        if self.shared + whole.len() <= self.most_shared
            && let Some(class) = self.classes.get_mut(class_of(whole.len()))
        {
            self.shared += whole.len();
            class.shared.push_back(whole);
        }
    }
}

impl Class {
    /// Memory that was shared and is not any more.
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
    pub(crate) spare: &'a Spare,
}

impl PayloadSink for Arrivals<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        // At the start of a write the length is that of the whole.
        if at == 0 && self.buffers.get(id).is_none() {
            self.buffers.insert(id, self.spare.buffer(len));
        }
        let buffer = self.buffers.get_mut(id);
        buffer.map_or(&mut [], |buffer| part_mut(buffer.as_mut(), at, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has memory.
    fn taken(spare: &Spare, length: usize) -> Buffer {
        let mut buffer = spare.buffer(length);
        assert_eq!(buffer.as_mut().len(), length);
        buffer
    }

    #[test]
    fn memory_is_as_long_as_asked_for_and_used_again() {
        for length in [1, 512, 4096, 4097, 131_072, 33 << 20] {
            let spare = Spare::new(0);
            drop(taken(&spare, length));
            // More than any class has is not kept.
            assert_eq!(spare.pool().kept > 0, length <= 32 << 20, "{length}");
            let again = taken(&spare, length);
            assert_eq!((again.as_ref().len(), spare.pool().kept), (length, 0));
        }
    }

    #[test]
    fn a_buffer_that_nothing_has_come_for_has_a_length_and_no_memory() {
        let spare = Spare::new(0);
        let mut first = taken(&spare, 5000);
        first.as_mut().fill(7);
        let place = first.as_ref().as_ptr();
        let waiting: Vec<_> = [5000, 100, 0, 70_000].map(|length| spare.buffer(length)).into();
        let lengths: Vec<_> = waiting.iter().map(|buffer| buffer.as_ref().len()).collect();
        assert_eq!(lengths, [5000, 100, 0, 70_000]);
        drop(first);
        for mut buffer in waiting.into_iter().take(1).chain([spare.buffer(8192)]) {
            assert_eq!(buffer.as_mut().as_ptr(), place, "what has just gone is used next");
        }
        assert_eq!(&spare.buffer(3).share()[..].len(), &3);
    }

    #[test]
    fn what_is_shared_is_the_same_memory_and_comes_back() {
        let spare = Spare::new(1 << 20);
        let mut buffer = taken(&spare, 5000);
        buffer.as_mut().fill(7);
        let place = buffer.as_ref().as_ptr();
        let shared = buffer.share();
        assert_eq!((shared.len(), shared.as_ptr()), (5000, place));
        let other = taken(&spare, 5000);
        assert_ne!(other.as_ref().as_ptr(), place, "somebody keeps that one");
        assert_eq!(&shared[..], [7; 5000]);
        drop(shared);
        let again = taken(&spare, 8192);
        assert_eq!(again.as_ref().as_ptr(), place);
        assert_eq!((again.as_ref().len(), spare.pool().shared), (8192, 0));
    }

    #[test]
    fn one_that_is_kept_for_long_does_not_keep_the_others() {
        let spare = Spare::new(1 << 20);
        let [first, second] = [(); 2].map(|()| taken(&spare, 4096).share());
        let place = second.as_ptr();
        drop(second);
        assert_eq!(taken(&spare, 4096).as_ref().as_ptr(), place);
        drop(first);
    }

    #[test]
    fn no_more_is_shared_than_may_be_kept() {
        let spare = Spare::new(0);
        let all: Vec<_> = (0..5).map(|_| taken(&spare, 16 << 20).share()).collect();
        assert_eq!((all.len(), spare.pool().shared), (5, KEPT));
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let spare = Spare::new(0);
        let all: Vec<_> = (0..5).map(|_| taken(&spare, 16 << 20)).collect();
        drop(all);
        assert_eq!(spare.pool().kept, KEPT);
    }
}
