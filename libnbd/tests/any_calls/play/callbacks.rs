//! Functions that the library calls back.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nbd::{Extent, NbdHandle};

/// What a callback does, and how often it was freed.
pub(super) struct Note {
    pub(super) freed: AtomicU32,
    pub(super) handle: *mut NbdHandle,
    pub(super) answer: c_int,
    pub(super) errno: c_int,
}

pub(super) unsafe extern "C" fn free(data: *mut c_void) {
    // SAFETY: each note outlives the handle.
    let note = unsafe { &*data.cast::<Note>() };
    note.freed.fetch_add(1, Ordering::Relaxed);
}

/// What all callbacks do.
unsafe fn called(data: *mut c_void, errno: *mut c_int) -> c_int {
    // SAFETY: each note outlives the handle.
    let note = unsafe { &*data.cast::<Note>() };
    assert_eq!(note.freed.load(Ordering::Relaxed), 0, "called after it was freed");
    // SAFETY: the handle is not closed yet; what it cannot answer from here it says so.
    unsafe {
        nbd::nbd_aio_is_ready(note.handle);
        assert_eq!(nbd::nbd_get_size(note.handle), -1);
        if !errno.is_null() && note.errno != 0 {
            *errno = note.errno;
        }
    }
    note.answer
}

pub(super) unsafe extern "C" fn completion(data: *mut c_void, errno: *mut c_int) -> c_int {
    // SAFETY: as of `called`.
    unsafe { called(data, errno) }
}

pub(super) unsafe extern "C" fn chunk(
    data: *mut c_void,
    bytes: *const c_void,
    count: usize,
    _: u64,
    _: c_uint,
    errno: *mut c_int,
) -> c_int {
    // SAFETY: the library says that there are so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), count) };
    std::hint::black_box(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    // SAFETY: as of `called`.
    unsafe { called(data, errno) }
}

pub(super) unsafe extern "C" fn extent(
    data: *mut c_void,
    _: *const c_char,
    _: u64,
    entries: *mut u32,
    count: usize,
    errno: *mut c_int,
) -> c_int {
    // SAFETY: the library says that there are so many, which may be written to.
    unsafe { std::slice::from_raw_parts_mut(entries, count) }.fill(0);
    // SAFETY: as of `called`.
    unsafe { called(data, errno) }
}

pub(super) unsafe extern "C" fn extent64(
    data: *mut c_void,
    _: *const c_char,
    _: u64,
    entries: *mut Extent,
    count: usize,
    errno: *mut c_int,
) -> c_int {
    // SAFETY: the library says that there are so many.
    let entries = unsafe { std::slice::from_raw_parts(entries, count) };
    assert!(entries.iter().all(|entry| entry.length <= i64::MAX as u64));
    // SAFETY: as of `called`.
    unsafe { called(data, errno) }
}

pub(super) unsafe extern "C" fn list(
    data: *mut c_void,
    _: *const c_char,
    _: *const c_char,
) -> c_int {
    // SAFETY: as of `called`.
    unsafe { called(data, ptr::null_mut()) }
}

pub(super) unsafe extern "C" fn context(data: *mut c_void, _: *const c_char) -> c_int {
    // SAFETY: as of `called`.
    unsafe { called(data, ptr::null_mut()) }
}
