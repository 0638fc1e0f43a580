//! A file or a block device as an export.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nbd_proto::BlockSizes;
use rustix::fs::{Advice, FallocateFlags, OFlags, SeekFrom, fadvise, fallocate, seek};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::durability::Durability;
use super::{
    Abilities, AllocationExtent, Attempt, Export, ZEROES, Zeroing, check_range, file_extents,
};

/// A regular file or a block device of the size it had when it was opened. No
/// request makes it longer.
///
/// What is in the page cache is read without waiting, where the file system can tell. What is
/// written ends in the page cache, so it has [`Abilities::RARELY_WAITS`]: in a server in threads
/// a client's write that does wait, since there is more to write back than there may be, holds up
/// what else this client has asked for.
#[derive(Debug)]
pub struct FileExport {
    file: File,
    size: u64,
    read_only: bool,
    block_device: bool,
    preferred_block: u32,
    durability: Durability,
    /// The file system cannot tell what is in the page cache.
    cache_unknown: AtomicBool,
}

impl FileExport {
    /// Opens the file or block device at `path`, to read and write. Nothing is created.
    ///
    /// # Errors
    ///
    /// When the path cannot be opened or is neither; the message names it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), false, OFlags::empty())
    }

    /// Opens it to read only.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), true, OFlags::empty())
    }

    /// Opens it unless it is a symbolic link.
    pub(crate) fn open_no_follow(path: &Path, read_only: bool) -> io::Result<Self> {
        Self::open_with(path, read_only, OFlags::NOFOLLOW)
    }

    fn open_with(path: &Path, read_only: bool, flags: OFlags) -> io::Result<Self> {
        Self::open_unnamed(path, read_only, flags).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
        })
    }

    fn open_unnamed(path: &Path, read_only: bool, flags: OFlags) -> io::Result<Self> {
        // A pipe would be waited for otherwise. For files it means nothing.
        let flags = (flags | OFlags::NONBLOCK).bits() as i32;
        let file =
            OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        let block_device = is_block_device(&metadata)?;
        // The metadata of a block device says that its size is zero.
        let size = seek(&file, SeekFrom::End(0))?;
        Ok(Self {
            file,
            size,
            read_only,
            block_device,
            preferred_block: preferred_block(&metadata),
            durability: Durability::default(),
            cache_unknown: AtomicBool::new(false),
        })
    }

    /// Refuses a change of a range, before anything is changed.
    fn check_change(&self, offset: u64, len: u64, beyond: Errno) -> io::Result<()> {
        if self.read_only {
            return Err(Errno::PERM.into());
        }
        check_range(self.size, offset, len, beyond)
    }

    /// Runs `fallocate` and tells whether it was done. False means that this
    /// file, or this alignment of the range, does not support `mode`, and that
    /// nothing was changed.
    fn try_fallocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
        loop {
            match fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                // The range itself is valid, so EINVAL can only mean that a
                // block device wants whole sectors.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Zeroes a valid range by writing.
    pub(super) fn write_zeroes_slowly(&self, mut offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        while offset < end {
            let length = (end - offset).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..length as usize], offset).map_err(with_number)?;
            offset += length;
        }
        Ok(())
    }
}

impl Export for FileExport {
    fn size(&self) -> u64 {
        self.size
    }

    fn abilities(&self) -> Abilities {
        let mut abilities = Abilities::CACHE | Abilities::MULTI_CONN | Abilities::RARELY_WAITS;
        abilities.set(Abilities::WRITE | Abilities::TRIM | Abilities::FAST_ZERO, !self.read_only);
        abilities
    }

    fn block_sizes(&self) -> BlockSizes {
        BlockSizes { minimum: 1, preferred: self.preferred_block, maximum: u32::MAX }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64, Errno::INVAL)?;
        self.file.read_exact_at(buf, offset).map_err(with_number)
    }

    /// What is in the page cache takes no waiting, where the file system can tell.
    fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        check_range(self.size, offset, buf.len() as u64, Errno::INVAL)?;
        if self.cache_unknown.load(Ordering::Relaxed) {
            return Ok(Attempt::Unknown);
        }
        let wanted = buf.len();
        match preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(n) if n == wanted => Ok(Attempt::Done),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.cache_unknown.store(true, Ordering::Relaxed);
                Ok(Attempt::Unknown)
            }
            // What else is wrong shows where the read may wait.
            Ok(_) | Err(_) => Ok(Attempt::WouldWait),
        }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_change(offset, buf.len() as u64, Errno::NOSPC)?;
        self.file.write_all_at(buf, offset).map_err(with_number)
    }

    fn flush(&self) -> io::Result<()> {
        self.durability.sync(|| self.file.sync_data())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_change(offset, len, Errno::INVAL)?;
        if len > 0 {
            // Advice that the file system cannot take is no error.
            self.try_fallocate(FallocateFlags::PUNCH_HOLE, offset, len)?;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        self.check_change(offset, len, Errno::NOSPC)?;
        if len == 0 {
            return Ok(());
        }
        if zeroing.may_punch && self.try_fallocate(FallocateFlags::PUNCH_HOLE, offset, len)? {
            return Ok(());
        }
        // On a block device without an offload the kernel itself writes the
        // zeroes, which is not fast.
        let surely_fast = !self.block_device;
        if (surely_fast || !zeroing.fast_only)
            && self.try_fallocate(FallocateFlags::ZERO_RANGE, offset, len)?
        {
            return Ok(());
        }
        if zeroing.fast_only {
            return Err(Errno::OPNOTSUPP.into());
        }
        self.write_zeroes_slowly(offset, len)
    }

    fn cache(&self, offset: u64, len: u64) -> io::Result<()> {
        check_range(self.size, offset, len, Errno::INVAL)?;
        match NonZeroU64::new(len) {
            Some(len) => Ok(fadvise(&self.file, offset, Some(len), Advice::WillNeed)?),
            // A length of zero would mean "to the end of the file".
            None => Ok(()),
        }
    }

    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        check_range(self.size, offset, len, Errno::INVAL)?;
        file_extents(&self.file, offset, len, visit)
    }
}

/// Tells a block device from a regular file, and refuses all else.
fn is_block_device(metadata: &Metadata) -> io::Result<bool> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(kind.is_block_device());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is neither a regular file nor a block device",
    ))
}

/// What the file system calls the preferred size, where that makes sense.
fn preferred_block(metadata: &Metadata) -> u32 {
    let size = u32::try_from(metadata.blksize()).unwrap_or(u32::MAX);
    size.clamp(4 << 10, 1 << 20).next_power_of_two()
}

/// Gives an error number to the errors that the standard library makes up: the
/// end of the file came before the end of the export.
fn with_number(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => Errno::IO.into(),
    }
}
