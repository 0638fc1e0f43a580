//! Which parts of an export hold data, and how a file tells.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// One run of bytes of the same kind. It starts where the one before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a length and what is there")]
pub struct AllocationExtent {
    /// The length in bytes, never zero.
    pub length: u64,
    /// What the bytes are.
    pub kind: ExtentKind,
}

/// What is known of the bytes of an extent without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentKind {
    /// They may have any value.
    Data,
    /// They read as zero and take up no storage.
    Hole,
    /// They read as zero and have storage set aside.
    Zero,
}

/// Visits the extents of the `len` bytes at `offset` of an open file, in order
/// and without gaps, until `visit` breaks.
///
/// The file system is asked with `SEEK_DATA` and `SEEK_HOLE`. Where it does not
/// know holes, all is [`Data`](ExtentKind::Data). Space that is set aside but
/// was never written may be called a [`Hole`](ExtentKind::Hole); a file is
/// never said to have [`Zero`](ExtentKind::Zero) extents.
///
/// This moves the file's own offset, so only positioned reads and writes go
/// together with it. Several threads may call it on one file: each answer comes
/// back from the call itself, not from the offset left behind.
///
/// # Errors
///
/// Those of seeking in the file, other than "there are no holes to be known".
pub fn file_extents(
    file: &File,
    offset: u64,
    len: u64,
    visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
) -> io::Result<()> {
    let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
    let mut position = offset;
    while position < end {
        let (kind, until) = extent_at(file, position, end)?;
        let extent = AllocationExtent { length: until - position, kind };
        if visit(extent).is_break() {
            break;
        }
        position = until;
    }
    Ok(())
}

/// The kind of the byte at `position` and where its extent ends: after
/// `position`, and at `end` at the latest.
fn extent_at(file: &File, position: u64, end: u64) -> io::Result<(ExtentKind, u64)> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(data) if data > position => return Ok((ExtentKind::Hole, data.min(end))),
        Ok(_) => {}
        // No data at or after the position: the hole at the end of the file. In
        // a file that was cut short meanwhile there is no such hole, and only
        // a read can report that.
        Err(Errno::NXIO) if seek(file, SeekFrom::End(0))? >= end => {
            return Ok((ExtentKind::Hole, end));
        }
        Err(Errno::NXIO) => return Ok((ExtentKind::Data, end)),
        Err(errno) if knows_no_holes(errno) => return Ok((ExtentKind::Data, end)),
        Err(errno) => return Err(errno.into()),
    }
    match seek(file, SeekFrom::Hole(position)) {
        Ok(hole) if hole > position => Ok((ExtentKind::Data, hole.min(end))),
        // The data has just been punched out, or the file cut short. To call
        // the rest data is always true, and always comes to an end.
        Ok(_) | Err(Errno::NXIO) => Ok((ExtentKind::Data, end)),
        Err(errno) if knows_no_holes(errno) => Ok((ExtentKind::Data, end)),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a failed search for data or holes means that this file, often a
/// block device, does not answer such questions.
fn knows_no_holes(errno: Errno) -> bool {
    [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS].contains(&errno)
}
