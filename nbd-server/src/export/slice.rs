//! A part of an export as an export.

use std::io;
use std::ops::Range;

use super::Export;

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

    forward!(self => self.inner, offset => self.range.start + offset, but size);
}
