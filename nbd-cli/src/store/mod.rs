//! The disk side of a server: something that holds bytes, and nothing of the
//! protocol.
//!
//! ```text
//!   server ──▶ dyn Store ──┬──▶ MemoryStore   sparse pages in memory
//!                          └──▶ FileStore     a file or a block device
//! ```
//!
//! A store has a fixed size in bytes, not rounded to any sector. All methods
//! take `&self` and may be called from many threads at once. What one call
//! wrote, every later call reads, whichever connection it came from, and one
//! [`flush`](Store::flush) covers the completed writes of all of them.
//!
//! Errors that a server passes on to its peer carry the operating system's
//! error number ([`io::Error::raw_os_error`]):
//!
//! | number       | meaning                                                   |
//! |--------------|-----------------------------------------------------------|
//! | `EPERM`      | a change asked of a read-only store                       |
//! | `EINVAL`     | a read, trim, cache or extents range past the end         |
//! | `ENOSPC`     | a write or zeroes range past the end, or storage used up  |
//! | `EOPNOTSUPP` | zeroes asked for [`Zeroing::fast_only`] would be slow     |
//! | `EIO`        | the file has become shorter than it was when opened       |
//! | others       | as the operating system reported them                     |
//!
//! A range of length zero that starts within the store, or at its end, is a
//! success without effect.

mod durability;
mod extents;
mod file;
mod memory;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;

use rustix::io::Errno;

pub(crate) use extents::{ExtentKind, StoreExtent, file_extents};
pub(crate) use file::FileStore;
pub(crate) use memory::MemoryStore;

/// A disk of fixed size.
pub(crate) trait Store: Send + Sync {
    /// The size in bytes. It never changes.
    fn size(&self) -> u64;

    /// Whether every change is refused with `EPERM`.
    fn read_only(&self) -> bool;

    /// What the store can do beyond reading and writing.
    fn capabilities(&self) -> Capabilities;

    /// The length in bytes that requests should be multiples of to be fast: a
    /// power of two, from 512 bytes to 1 MiB.
    fn preferred_block(&self) -> u32 {
        4096
    }

    /// Fills the whole of `buf` from `offset` (bytes), or fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes the whole of `buf` at `offset` (bytes). After an error any part
    /// of the range may have been written.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when every write that has completed would survive a power cut,
    /// as far as this kind of store survives one at all. Once it has failed it
    /// fails for ever: nobody knows what was lost.
    fn flush(&self) -> io::Result<()>;

    /// Says that the `len` bytes at `offset` are no longer needed. Advisory:
    /// afterwards each byte reads as before or as zero.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the `len` bytes at `offset` read as zero.
    fn write_zeroes(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()>;

    /// Says that the `len` bytes at `offset` will be read soon.
    fn cache(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Visits the extents of the `len` bytes at `offset`, in order and without
    /// gaps, until `visit` breaks. The last extent ends where the range ends.
    /// No two neighbours are of one kind, unless the store was changed
    /// meanwhile.
    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(StoreExtent) -> ControlFlow<()>,
    ) -> io::Result<()>;
}

/// What a store can do beyond reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// [`Store::trim`] may free storage.
    pub(crate) trim: bool,
    /// [`Store::write_zeroes`] may be faster than writing. Each request for
    /// [`Zeroing::fast_only`] is still decided by itself.
    pub(crate) fast_zero: bool,
    /// [`Store::cache`] has an effect.
    pub(crate) cache: bool,
}

/// How zeroes may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zeroing {
    /// The range may become a hole. When false the range must be fully
    /// provisioned, so that a later write into it cannot run out of space.
    pub(crate) may_punch: bool,
    /// Fail at once with `EOPNOTSUPP`, with nothing changed, unless zeroing is
    /// faster than writing the same range would be.
    pub(crate) fast_only: bool,
}

/// Refuses a range that does not lie within a store of `size` bytes, with the
/// error number `beyond`.
fn check_range(size: u64, offset: u64, len: u64, beyond: Errno) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(beyond.into()),
    }
}
