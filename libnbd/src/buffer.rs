//! The caller's memory.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::slice;

use nbd_handle::{Fail, Memory};

use crate::text::null;

/// Where a buffer of the caller's begins.
#[derive(Clone, Copy)]
pub(crate) struct Begin(NonNull<u8>);

impl Begin {
    /// # Safety
    /// The memory must be there, for as many bytes as the caller says along with it, until the
    /// command that it belongs to is retired or refused, or the handle is closed. Only a buffer
    /// that is read into may be written to, and nobody else may write to either meanwhile.
    pub(crate) unsafe fn new(pointer: *const c_void, what: &str) -> Result<Self, Fail> {
        NonNull::new(pointer.cast_mut().cast()).map(Self).ok_or_else(|| null(what))
    }

    /// So many bytes.
    pub(crate) const fn of(self, count: usize) -> Buffer {
        Buffer { begin: self.0, count }
    }
}

/// Memory of the caller's, as long as its command is under way.
#[derive(Debug)]
pub(crate) struct Buffer {
    begin: NonNull<u8>,
    count: usize,
}

// SAFETY: whoever calls the library promises that nobody else uses the memory meanwhile, in
// whichever thread.
unsafe impl Send for Buffer {}

impl Buffer {
    /// A part of it that exists: where it begins, and how long it is.
    fn part(&self, at: usize, len: usize) -> (NonNull<u8>, usize) {
        let at = at.min(self.count);
        // No object is longer than that, whatever the caller says.
        let len = len.min(self.count - at).min(isize::MAX as usize);
        // SAFETY: `at` is within the buffer, which is there (see `Begin::new`), or right behind it.
        (unsafe { self.begin.add(at) }, len)
    }
}

impl Memory for Buffer {
    fn len(&self) -> usize {
        self.count
    }

    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        let (begin, len) = self.part(at, len);
        // SAFETY: the part is within the buffer, which nobody writes to meanwhile (see
        // `Begin::new`); the slice lives no longer than the borrow of `self`.
        unsafe { slice::from_raw_parts(begin.as_ptr(), len) }
    }

    fn region(&mut self, at: usize, len: usize) -> &mut [u8] {
        let (begin, len) = self.part(at, len);
        // SAFETY: as above; the handle asks for regions of buffers only that are read into, and
        // for one at a time.
        unsafe { slice::from_raw_parts_mut(begin.as_ptr(), len) }
    }
}

/// No command is longer, in bytes; one that says so is refused.
const LONGEST: usize = 64 << 20;

/// Clears a buffer of the caller's, unless it is NULL or longer than any command.
///
/// # Safety
/// As [`Begin::new`], and it must be one that is read into.
pub(crate) unsafe fn clear(pointer: *mut c_void, count: usize) {
    if !pointer.is_null() && count <= LONGEST {
        // SAFETY: the caller says that there are so many bytes to be written to.
        unsafe { pointer.cast::<u8>().write_bytes(0, count) }
    }
}
