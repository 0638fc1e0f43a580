//! A part of an export as an export.

use std::io;
use std::ops::{ControlFlow, Range};

use nbd_proto::{BlockSizes, Extent};

use super::{Abilities, AllocationExtent, Attempt, Export, Zeroing};

/// A range of another export, such as one partition of a disk.
///
/// ```
/// use nbd_server::{Export, MemoryExport, Slice};
///
/// let partition = Slice::new(MemoryExport::new(1 << 30), 1 << 20..3 << 20)?;
/// assert_eq!(partition.size(), 2 << 20);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Slice<E> {
    inner: E,
    range: Range<u64>,
}

impl<E: Export> Slice<E> {
    /// The bytes of `range`, in bytes from the start of `export`.
    ///
    /// # Errors
    /// When the range is not within the export, or not a multiple of its minimum block size.
    pub fn new(export: E, range: Range<u64>) -> io::Result<Self> {
        let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let Range { start, end } = range;
        if start > end || end > export.size() {
            let size = export.size();
            return invalid(format!("{start} to {end} is not within an export of {size} bytes"));
        }
        let minimum = u64::from(export.block_sizes().minimum.max(1));
        if !start.is_multiple_of(minimum) || !end.is_multiple_of(minimum) {
            return invalid(format!("{start} to {end} is not in blocks of {minimum} bytes"));
        }
        Ok(Self { inner: export, range })
    }
}

impl<E: Export> Export for Slice<E> {
    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, self.range.start + offset)
    }

    fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        self.inner.try_read_exact_at(buf, self.range.start + offset)
    }

    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn block_sizes(&self) -> BlockSizes {
        self.inner.block_sizes()
    }

    fn description(&self) -> Option<String> {
        self.inner.description()
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(buf, self.range.start + offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.trim(self.range.start + offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        self.inner.write_zeroes(self.range.start + offset, len, zeroing)
    }

    fn cache(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.cache(self.range.start + offset, len)
    }

    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.inner.extents(self.range.start + offset, len, visit)
    }

    fn contexts(&self) -> Vec<String> {
        self.inner.contexts()
    }

    fn context_extents(
        &self,
        context: &str,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.inner.context_extents(context, self.range.start + offset, len, visit)
    }
}
