//! Something that holds bytes and can be served, and nothing of the protocol.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the trait |
//! | `asynchronous` | the same by futures |
//! | `memory` | a sparse disk in memory |
//! | `file` | a file or a block device |
//! | `objects` | a disk of objects that are put as a whole, feature `tokio` |
//! | `qcow2` | an image in the format of QEMU, feature `qcow2` |
//! | `forward` | what is another, seen otherwise |
//! | `slice` | a part of another |
//! | `overlay` | what is written goes elsewhere |
//! | `extents` | which parts of a file hold data |
//! | `durability` | what a failed sync means for those after it |

#[macro_use]
mod forward;

mod asynchronous;
mod durability;
mod extents;
mod file;
mod memory;
#[cfg(feature = "tokio")]
mod objects;
mod overlay;
#[cfg(feature = "qcow2")]
mod qcow2;
mod slice;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;

use bitflags::bitflags;
use nbd_proto::{BlockSizes, Extent};
use rustix::io::Errno;

pub(crate) use asynchronous::AnyExport;
pub use asynchronous::{AsyncExport, BoxFuture};
pub use extents::{AllocationExtent, ExtentKind, file_extents};
pub use file::FileExport;
pub use memory::MemoryExport;
#[cfg(feature = "tokio")]
pub use objects::{ObjectExport, Objects};
pub use overlay::Overlay;
#[cfg(feature = "qcow2")]
pub use qcow2::Qcow2Export;
pub use slice::Slice;

/// A disk that can be served, by calls that return when the work is done.
///
/// Only [`size`](Self::size) and [`read_exact_at`](Self::read_exact_at) have to be written:
///
/// ```
/// use std::io;
/// use nbd_server::Export;
///
/// /// Every byte is the low byte of its offset.
/// struct Pattern;
///
/// impl Export for Pattern {
///     fn size(&self) -> u64 {
///         1 << 30
///     }
///
///     fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
///         for (i, byte) in buf.iter_mut().enumerate() {
///             *byte = (offset + i as u64) as u8;
///         }
///         Ok(())
///     }
/// }
///
/// let server = nbd_server::Server::new(Pattern).listen_tcp("127.0.0.1:0")?.start()?;
/// println!("nbdinfo {}", server.uris()[0]);
/// server.stop()?;
/// # Ok::<(), io::Error>(())
/// ```
///
/// All methods may be called from many threads at once, also for ranges that overlap; then the
/// order between them is the export's own affair. Ranges lie within [`size`](Self::size) and are
/// multiples of the minimum of [`block_sizes`](Self::block_sizes). What one call has written,
/// every later call reads, whichever connection it came from. A method may take as long as it
/// likes: it is called in one of the threads of [`Limits::max_workers`](crate::Limits::max_workers),
/// and other requests go on beside it, those of the same client too. Where it need not wait, the
/// way to such a thread can be saved: see [`try_read_exact_at`](Self::try_read_exact_at),
/// [`Abilities::NEVER_WAITS`] and [`Abilities::RARELY_WAITS`]. One that panics fails its request.
/// Errors and panics are told as [`Event::RequestFailed`](crate::Event::RequestFailed).
///
/// # Errors
///
/// An error goes to the client as the error number that is nearest, see
/// [`Errno::from_linux`](nbd_proto::Errno::from_linux), together with its message, of at most 994
/// bytes, where the client understands messages. [`io::Error::from_raw_os_error`] says the number exactly;
/// an error with a message and an [`io::ErrorKind`] is as good: [`StorageFull`] is `ENOSPC`,
/// [`PermissionDenied`] and [`ReadOnlyFilesystem`] are `EPERM`, [`InvalidInput`] is `EINVAL`,
/// [`Unsupported`] is `ENOTSUP`, [`OutOfMemory`] is `ENOMEM`, all others are `EIO`.
///
/// [`StorageFull`]: io::ErrorKind::StorageFull
/// [`PermissionDenied`]: io::ErrorKind::PermissionDenied
/// [`ReadOnlyFilesystem`]: io::ErrorKind::ReadOnlyFilesystem
/// [`InvalidInput`]: io::ErrorKind::InvalidInput
/// [`Unsupported`]: io::ErrorKind::Unsupported
/// [`OutOfMemory`]: io::ErrorKind::OutOfMemory
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served as an export",
    note = "implement `Export`, or take `FileExport::open(path)` or `MemoryExport::new(size)`",
    note = "what implements `AsyncExport` goes to `Server::new_async`, and `Exports`, such as an \
            `ExportList`, to `Server::with_exports`"
)]
pub trait Export: Send + Sync {
    /// The size in bytes, at most 2^63 - 1. It never changes while the export is open. Where it
    /// is no multiple of the smallest block, clients are told of whole blocks only.
    fn size(&self) -> u64;

    /// Fills the whole of `buf` from `offset` (bytes), or fails.
    ///
    /// # Errors
    /// Whatever keeps it from that; what is in `buf` then goes nowhere.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Reads like [`read_exact_at`](Self::read_exact_at), if that takes no waiting, as for bytes
    /// in memory or in a cache; else the read is done where it may wait. Called where the request
    /// arrives, for short reads: it must not wait. By default nobody knows.
    ///
    /// # Errors
    /// As [`read_exact_at`](Self::read_exact_at).
    fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        let _ = (buf, offset);
        Ok(Attempt::Unknown)
    }

    /// What can be done beyond reading. By default nothing: the export is read-only.
    fn abilities(&self) -> Abilities {
        Abilities::empty()
    }

    /// Which lengths in bytes requests must be and should be multiples of. By default anything
    /// goes and 4096 is best. What the protocol does not have is brought to what it has, without
    /// a word: the minimum to a power of two of at most 64 KiB, the preferred size to one between
    /// that (512 at least) and the maximum, the maximum to at least 64 KiB and to what the server
    /// takes ([`Limits::max_payload`](crate::Limits::max_payload)). The size is rounded down to
    /// the minimum.
    ///
    /// ```
    /// # use nbd_server::BlockSizes;
    /// let sizes = BlockSizes { minimum: 4096, preferred: 64 << 10, maximum: 32 << 20 };
    /// ```
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes { minimum: 1, preferred: 4096, maximum: u32::MAX }
    }

    /// What the export is, for people. One of more than 4096 bytes, or with a NUL, cannot travel,
    /// and clients are told nothing.
    fn description(&self) -> Option<String> {
        None
    }

    /// Writes the whole of `buf` at `offset` (bytes). After an error any part of the range may
    /// have been written.
    ///
    /// Writes that do not overlap must not disturb one another, also inside one block of your own:
    /// hold a lock while you read it, change it and put it back.
    ///
    /// # Errors
    /// Whatever keeps it from that; by default that the export is read-only.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let _ = (buf, offset);
        Err(Errno::ROFS.into())
    }

    /// Returns when everything whose completion was told before, by any method of this export,
    /// would survive a power cut, as far as this kind of storage survives one at all. By default
    /// that is always so. Also called behind each write, trim and write of zeroes that a client
    /// wants to be safe at once (`NBD_CMD_FLAG_FUA`), before that is answered.
    ///
    /// # Errors
    /// When it would not. An export that may have lost data must fail all later flushes too:
    /// each of them vouches for the same data.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// The `len` bytes at `offset` are no longer needed. Advisory: afterwards each byte reads as
    /// before or as zero. Only called with [`Abilities::TRIM`].
    ///
    /// # Errors
    /// Not where it merely has no effect.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }

    /// Makes the `len` bytes at `offset` read as zero, which may be all of the export. By default
    /// it writes them, 256 KiB at a time, one after the other: override it where blocks are
    /// larger, or where zeroes need not be stored.
    ///
    /// # Errors
    /// As [`write_all_at`](Self::write_all_at), and [`io::ErrorKind::Unsupported`] when it is to
    /// be fast and is not.
    fn write_zeroes(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        if zeroing.fast_only {
            return Err(Errno::OPNOTSUPP.into());
        }
        let (mut offset, end) = (offset, offset.saturating_add(len));
        while offset < end {
            let length = (end - offset).min(ZEROES.len() as u64);
            self.write_all_at(&ZEROES[..length as usize], offset)?;
            offset += length;
        }
        Ok(())
    }

    /// The `len` bytes at `offset` will be read soon. Only called with [`Abilities::CACHE`].
    ///
    /// # Errors
    /// Not where it merely has no effect.
    fn cache(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }

    /// Visits the allocation of the `len` bytes at `offset`, in order and without gaps, until
    /// `visit` breaks; what it visits last may reach beyond the range. Clients see it as
    /// `base:allocation`, and holes in long reads are not sent. By default all is data.
    ///
    /// # Errors
    /// When nobody can tell, which fails reads too: call it data rather than that.
    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let _ = offset;
        let _: ControlFlow<()> = visit(AllocationExtent { length: len, kind: ExtentKind::Data });
        Ok(())
    }

    /// Names of meta contexts it has beside `base:allocation`, as `NAMESPACE:NAME`.
    fn contexts(&self) -> Vec<String> {
        Vec::new()
    }

    /// Visits the extents of a context of [`contexts`](Self::contexts), as
    /// [`extents`](Self::extents) does.
    ///
    /// # Errors
    /// When nobody can tell.
    fn context_extents(
        &self,
        context: &str,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let _ = (context, offset, len, visit);
        Err(Errno::INVAL.into())
    }
}

bitflags! {
    /// What an [`Export`] can do beyond reading. Flush is always offered, and needs nothing here.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Abilities: u32 {
        /// It can be written to.
        const WRITE = 1;
        /// [`Export::trim`] may free storage.
        const TRIM = 2;
        /// [`Export::write_zeroes`] may be faster than writing. Each request for
        /// [`Zeroing::fast_only`] is still decided by itself.
        const FAST_ZERO = 4;
        /// [`Export::cache`] has an effect.
        const CACHE = 8;
        /// [`Export::flush`] covers what was completed on any connection, and all connections see
        /// the same bytes: a client may use several. An export without [`Self::WRITE`]
        /// has it by itself.
        const MULTI_CONN = 16;
        /// It behaves like a disk that rotates.
        const ROTATIONAL = 32;
        /// No method ever waits for a disk, a network, or a lock that somebody holds who does:
        /// all is in memory. So requests are carried out where they arrive, which costs no switch
        /// of threads. An export that says so and waits all the same holds up everything else its
        /// client has asked for, and in tasks ([`Server::spawn`](crate::Server::spawn)) other
        /// clients too. Clients are not told.
        const NEVER_WAITS = 64;
        /// Methods may wait and rarely do, as for a file whose changes end in the page cache. In a
        /// server in threads ([`Server::start`](crate::Server::start)) requests are carried
        /// out in the thread of their client while the last eight of the kind have been quick, which
        /// costs no switch of threads; when one does wait, what else this client asks for
        /// waits behind it. Never a flush, nor what has to be safe at once, and nothing in tasks.
        /// Clients are not told.
        const RARELY_WAITS = 128;
    }
}

/// What became of a read that was not to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempt {
    /// It is done.
    Done,
    /// It would have to wait. Nothing is read.
    WouldWait,
    /// Nobody knows whether it would have to wait. Nothing is read.
    Unknown,
}

/// How zeroes may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Zeroing {
    /// The range may become a hole. When false the range must be fully
    /// provisioned, so that a later write into it cannot run out of space. Storage that cannot
    /// set space aside writes zeroes as best it can.
    #[doc(alias = "NO_HOLE")]
    pub may_punch: bool,
    /// Fail at once with `EOPNOTSUPP`, with nothing changed, unless zeroing is
    /// faster than writing the same range would be.
    pub fast_only: bool,
}

impl Zeroing {
    /// The quickest way there is: the range may become a hole, and writing is as good.
    pub const ANY: Self = Self { may_punch: true, fast_only: false };
    /// So that a later write into the range cannot run out of space.
    pub const PROVISIONED: Self = Self { may_punch: false, fast_only: false };
}

/// What is written where there is no quicker way to zero.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// Refuses a range that does not lie within an export of `size` bytes, with the
/// error number `beyond`.
fn check_range(size: u64, offset: u64, len: u64, beyond: Errno) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(beyond.into()),
    }
}

impl<E: Export + ?Sized> Export for std::sync::Arc<E> {
    forward!(self => **self, offset => offset);
}

impl<E: Export + ?Sized> Export for Box<E> {
    forward!(self => **self, offset => offset);
}

impl<E: Export + ?Sized> Export for &E {
    forward!(self => **self, offset => offset);
}
