//! A directory with one file in it, as the kernel asks for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use nbd_client_mio::Error;

use super::End;
use super::disk::Disk;
use super::requests::errno;

/// The file.
const FILE: INodeNo = INodeNo(2);

/// Nothing changes about either but the bytes.
const VALID: Duration = Duration::from_secs(3600);

/// The kernel reads and writes at least that, in bytes.
const PAGE: u32 = 4096;

/// Requests that nobody waits for are sent so many at a time.
const READ_AHEAD: u16 = 64;

/// `fallocate` of Linux: the size stays.
const KEEP_SIZE: i32 = 1;
/// The range becomes a hole.
const PUNCH_HOLE: i32 = 2;
/// The range becomes zero.
const ZERO_RANGE: i32 = 16;

/// `lseek` of Linux.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// The directory.
#[derive(Debug)]
pub(super) struct Tree {
    disk: Arc<Disk>,
    name: OsString,
    ends: Sender<End>,
    mounted: SystemTime,
}

impl Tree {
    /// With the disk under that name. `ends` is told when it was unmounted.
    pub(super) fn new(disk: Arc<Disk>, name: OsString, ends: Sender<End>) -> Self {
        Self { disk, name, ends, mounted: SystemTime::now() }
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            FILE if self.disk.is_read_only() => (FileType::RegularFile, 0o444, self.disk.size()),
            FILE => (FileType::RegularFile, 0o644, self.disk.size()),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: self.mounted,
            mtime: self.mounted,
            ctime: self.mounted,
            crtime: self.mounted,
            kind,
            perm,
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn done(result: Result<(), Error>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for Tree {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is an offer: where the kernel takes less, that is what there is.
        let longest = u32::try_from(self.disk.longest()).unwrap_or(u32::MAX);
        let _ = config.set_max_write(longest.max(PAGE));
        let _ = config.set_max_readahead(longest.max(PAGE));
        let _ = config.set_max_background(READ_AHEAD);
        // Without it who reads or writes around the page cache, and does not wait, is made to.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn destroy(&mut self) {
        // Nobody listens when the end was asked for.
        let _ = self.ends.send(End::Unmounted);
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE).filter(|_| parent == INodeNo::ROOT && name == self.name) {
            Some(attributes) => reply.entry(&VALID, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Nothing can be changed. Like a block device, the file keeps its size when it is opened for
    /// being written anew; whoever changes the size of an open file means it.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if handle.is_some() && size.is_some_and(|size| size != self.disk.size()) {
            return reply.error(Errno::EINVAL);
        }
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, OsStr::new(".")),
            (INodeNo::ROOT, FileType::Directory, OsStr::new("..")),
            (FILE, FileType::RegularFile, self.name.as_os_str()),
        ];
        for ((inode, kind, name), next) in entries.into_iter().zip(1..).skip(offset as usize) {
            if reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        match inode {
            FILE if writes && self.disk.is_read_only() => reply.error(Errno::EROFS),
            FILE => reply.opened(FileHandle(0), FopenFlags::empty()),
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.disk.read(offset, size, reply);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // What fits is written, as on a device; the file does not grow.
        let room = self.disk.size().saturating_sub(offset).min(data.len() as u64) as usize;
        if room == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        self.disk.write(&data[..room], offset, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A file that is closed is not durable for that.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.disk.flush(reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let size = self.disk.size();
        let end = offset.saturating_add(length);
        let range = offset.min(size)..end.min(size);
        match mode & !KEEP_SIZE {
            PUNCH_HOLE => done(self.disk.zero(range, true), reply),
            ZERO_RANGE if end <= size || mode & KEEP_SIZE != 0 => {
                done(self.disk.zero(range, false), reply);
            }
            // All of it is there, as far as anybody knows.
            0 if end <= size => reply.ok(),
            0 | ZERO_RANGE => reply.error(Errno::ENOSPC),
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let to_hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.disk.seek(offset, to_hole) {
            Ok(Some(at)) => reply.offset(at as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno(&error)),
        }
    }
}
