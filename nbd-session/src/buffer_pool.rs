//! Memory for payload that is used over and over.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// The smallest piece of memory, in bytes, as a power of two: the usual request.
const SMALLEST: u32 = 12;

/// Classes of them: 4 KiB, 8 KiB, … 32 MiB.
const CLASSES: usize = 14;

/// Unused ones are kept up to this many bytes in all.
const KEPT: usize = 64 << 20;

/// So many of those that are shared are looked at for one that is not any more.
const LOOKS: usize = 8;

/// Where buffers for payload have their memory from, and give it back to.
///
/// A [buffer](PooledBuffer) has memory from the first byte that is put into it until it is
/// dropped. One that waits for its reply has none: a deep queue holds memory for what has come
/// and not for what was asked for, and what comes next goes where something has just gone from,
/// which is in the processor's caches.
///
/// Clones share the memory, also between threads. Of what is not in use 64 MiB are kept.
///
/// ```
/// use nbd_session::BufferPool;
///
/// let pool = BufferPool::new();
/// let mut waiting: Vec<_> = (0..64).map(|_| pool.buffer(256 << 10)).collect();
/// assert_eq!((waiting[0].len(), pool.in_use()), (256 << 10, 0));
/// waiting[0].fill(7);
/// assert_eq!(pool.in_use(), 256 << 10);
/// drop(waiting);
/// assert_eq!(pool.in_use(), 0);
/// ```
#[derive(Clone)]
pub struct BufferPool(Arc<Mutex<Memory>>);

/// A buffer of a [`BufferPool`]: for reads and writes of every client.
///
/// Until somebody asks for its bytes to change them it reads as zeroes and has no memory. From
/// then on it contains what others have left in it: whoever wants zeroes fills it.
pub struct PooledBuffer {
    place: Place,
    length: usize,
    pool: BufferPool,
}

/// Where the bytes of a buffer are.
enum Place {
    /// Zeroes that all of these have in common: a buffer has a length before it has memory.
    Blank(Bytes),
    /// As long as its class; what is beyond the length is never looked at.
    Own(BytesMut),
}

/// Memory that nobody uses at the moment, and what is shared with whoever keeps what was written.
#[derive(Default)]
struct Memory {
    classes: [Class; CLASSES],
    /// At least as long as any buffer so far.
    blank: Bytes,
    /// Bytes of unused memory.
    kept: usize,
    /// Bytes that buffers have.
    in_use: usize,
    /// Bytes of what is shared, and how many there may be.
    shared: usize,
    most_shared: usize,
}

/// Memory in pieces of one size.
#[derive(Default)]
struct Class {
    unused: Vec<BytesMut>,
    /// In the order in which they were shared, which is nearly that in which they come back.
    shared: VecDeque<Bytes>,
}

impl BufferPool {
    /// One that has no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::keeping(0)
    }

    /// One for those who have so many bytes of what they write
    /// [kept](crate::replay::Reconnect::keep_unflushed): what was [shared](PooledBuffer::into_bytes)
    /// for that is used again when it is not kept any more.
    #[must_use]
    pub fn keeping(kept: usize) -> Self {
        // Memory is less than twice as large as what is in it.
        let most_shared = kept.saturating_mul(2).saturating_add(KEPT);
        Self(Arc::new(Mutex::new(Memory { most_shared, ..Memory::default() })))
    }

    /// A buffer of so many bytes.
    #[must_use]
    pub fn buffer(&self, length: usize) -> PooledBuffer {
        let place = Place::Blank(self.memory().blank(length));
        PooledBuffer { place, length, pool: self.clone() }
    }

    /// Bytes of memory that buffers have now, each rounded up to a power of two.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.memory().in_use
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new()
    }
}

impl PooledBuffer {
    /// What is in it, for others to keep. The memory is used again when they have let go of it.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        match &mut self.place {
            Place::Blank(zeroes) => zeroes.slice(..self.length),
            Place::Own(bytes) => {
                let whole = std::mem::take(bytes).freeze();
                let part = whole.slice(..self.length);
                self.pool.memory().share(whole);
                part
            }
        }
    }

    /// Shortens it; without effect where it is as short already.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = match &self.place {
            Place::Blank(zeroes) => zeroes.as_ref(),
            Place::Own(bytes) => bytes.as_ref(),
        };
        bytes.get(..self.length).unwrap_or_default()
    }
}

impl DerefMut for PooledBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        if matches!(self.place, Place::Blank(_)) {
            self.place = Place::Own(self.pool.memory().take(self.length));
        }
        match &mut self.place {
            Place::Own(bytes) => bytes.get_mut(..self.length).unwrap_or_default(),
            Place::Blank(_) => &mut [],
        }
    }
}

impl AsRef<[u8]> for PooledBuffer {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for PooledBuffer {
    #[inline]
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl From<PooledBuffer> for Bytes {
    fn from(buffer: PooledBuffer) -> Self {
        buffer.into_bytes()
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Place::Own(bytes) = &mut self.place {
            let bytes = std::mem::take(bytes);
            self.pool.memory().give_back(bytes);
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { kept, in_use, shared, .. } = &*self.memory();
        f.debug_struct("BufferPool")
            .field("in_use", in_use)
            .field("kept", kept)
            .field("shared", shared)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Memory {
    fn blank(&mut self, length: usize) -> Bytes {
        if self.blank.len() < length {
            self.blank = BytesMut::zeroed(length.next_power_of_two()).freeze();
        }
        self.blank.clone()
    }

    /// Memory for so many bytes.
    fn take(&mut self, length: usize) -> BytesMut {
        let bytes = self.find(length);
        self.in_use += bytes.len();
        bytes
    }

    fn find(&mut self, length: usize) -> BytesMut {
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
        self.in_use -= size;
        if size == 0 || self.kept + size > KEPT {
            return;
        }
        if let Some(class) = self.classes.get_mut(class_of(size)) {
            self.kept += size;
            class.unused.push(bytes);
        }
    }

    fn share(&mut self, whole: Bytes) {
        self.in_use -= whole.len();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has memory.
    fn taken(pool: &BufferPool, length: usize) -> PooledBuffer {
        let mut buffer = pool.buffer(length);
        assert_eq!(buffer.as_mut().len(), length);
        buffer
    }

    #[test]
    fn memory_is_as_long_as_asked_for_and_used_again() {
        for length in [1, 512, 4096, 4097, 131_072, 33 << 20] {
            let pool = BufferPool::new();
            drop(taken(&pool, length));
            // More than any class has is not kept.
            assert_eq!(pool.memory().kept > 0, length <= 32 << 20, "{length}");
            let again = taken(&pool, length);
            assert_eq!((again.len(), pool.memory().kept), (length, 0));
            assert!(pool.in_use() >= length && pool.in_use() < 4096 + 2 * length);
        }
    }

    #[test]
    fn a_buffer_that_nothing_has_come_for_has_a_length_and_no_memory() {
        let pool = BufferPool::new();
        let mut first = taken(&pool, 5000);
        first.fill(7);
        let place = first.as_ptr();
        let waiting: Vec<_> = [5000, 100, 0, 70_000].map(|length| pool.buffer(length)).into();
        let lengths: Vec<_> = waiting.iter().map(|buffer| buffer.len()).collect();
        assert_eq!((lengths.as_slice(), pool.in_use()), (&[5000, 100, 0, 70_000][..], 8192));
        drop(first);
        for mut buffer in waiting.into_iter().take(1).chain([pool.buffer(8192)]) {
            assert_eq!(buffer.as_mut().as_ptr(), place, "what has just gone is used next");
        }
        assert_eq!(pool.buffer(3).into_bytes(), [0; 3][..]);
    }

    #[test]
    fn one_that_is_shorter_than_it_was_is_still_its_own() {
        let pool = BufferPool::new();
        let mut buffer = taken(&pool, 5000);
        buffer.fill(7);
        buffer.truncate(3);
        buffer.truncate(6000);
        assert_eq!(buffer[..], [7; 3]);
        assert_eq!(buffer.into_bytes(), [7; 3][..]);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn what_is_shared_is_the_same_memory_and_comes_back() {
        let pool = BufferPool::keeping(1 << 20);
        let mut buffer = taken(&pool, 5000);
        buffer.fill(7);
        let place = buffer.as_ptr();
        let shared = buffer.into_bytes();
        assert_eq!((shared.len(), shared.as_ptr()), (5000, place));
        let other = taken(&pool, 5000);
        assert_ne!(other.as_ptr(), place, "somebody keeps that one");
        assert_eq!(&shared[..], [7; 5000]);
        drop(shared);
        let again = taken(&pool, 8192);
        assert_eq!(again.as_ptr(), place);
        assert_eq!((again.len(), pool.memory().shared), (8192, 0));
    }

    #[test]
    fn one_that_is_kept_for_long_does_not_keep_the_others() {
        let pool = BufferPool::keeping(1 << 20);
        let [first, second] = [(); 2].map(|()| taken(&pool, 4096).into_bytes());
        let place = second.as_ptr();
        drop(second);
        assert_eq!(taken(&pool, 4096).as_ptr(), place);
        drop(first);
    }

    #[test]
    fn no_more_is_shared_than_may_be_kept() {
        let pool = BufferPool::new();
        let all: Vec<_> = (0..5).map(|_| taken(&pool, 16 << 20).into_bytes()).collect();
        assert_eq!((all.len(), pool.memory().shared), (5, KEPT));
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let pool = BufferPool::new();
        let all: Vec<_> = (0..5).map(|_| taken(&pool, 16 << 20)).collect();
        drop(all);
        assert_eq!(pool.memory().kept, KEPT);
    }
}
