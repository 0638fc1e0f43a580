//! Callbacks of the caller's: three words each, freed exactly once.

use std::ffi::{c_char, c_int, c_uint, c_void};

use nbd_handle::{
    Chunk, ChunkCallback, CompletionCallback, ContextCallback, DebugCallback, Extent,
    ExtentCallback, Fail, ListCallback,
};

use crate::text::{c_text, null};

/// A callback as it is passed by value: a function, its data, and what frees the data.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Callback<F> {
    callback: Option<F>,
    user_data: *mut c_void,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
}

impl<F> Callback<F> {
    /// These three words.
    #[must_use]
    pub const fn new(
        callback: Option<F>,
        user_data: *mut c_void,
        free: Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> Self
    where
        F: Copy,
    {
        Self { callback, user_data, free }
    }
}

/// `nbd_completion_callback`.
pub type CompletionFn = unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int;
/// `nbd_chunk_callback`.
pub type ChunkFn =
    unsafe extern "C" fn(*mut c_void, *const c_void, usize, u64, c_uint, *mut c_int) -> c_int;
/// `nbd_extent_callback`.
pub type ExtentFn =
    unsafe extern "C" fn(*mut c_void, *const c_char, u64, *mut u32, usize, *mut c_int) -> c_int;
/// `nbd_extent64_callback`.
pub type Extent64Fn =
    unsafe extern "C" fn(*mut c_void, *const c_char, u64, *mut Extent, usize, *mut c_int) -> c_int;
/// `nbd_list_callback`.
pub type ListFn = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> c_int;
/// `nbd_context_callback`.
pub type ContextFn = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;
/// `nbd_debug_callback`.
pub type DebugFn = ListFn;

/// A callback that belongs to the library: its data is freed when this is dropped.
pub(crate) struct Owned<F>(Callback<F>);

// SAFETY: whoever gives a callback to the library promises that it may be called and freed in
// whichever thread drives the handle.
unsafe impl<F> Send for Owned<F> {}

impl<F> Drop for Owned<F> {
    fn drop(&mut self) {
        if let Some(free) = self.0.free {
            // SAFETY: the caller gave this function for this data, and it is called once, here.
            unsafe { free(self.0.user_data) }
        }
    }
}

impl<F: Copy> Owned<F> {
    /// # Safety
    /// The functions must be what they are said to be, and take this data, until it is freed.
    pub(crate) const unsafe fn new(callback: Callback<F>) -> Self {
        Self(callback)
    }

    const fn data(&self) -> *mut c_void {
        self.0.user_data
    }

    /// NULL means that nothing is there, not even something to be freed.
    fn function(&self, what: &str) -> Result<Option<F>, Fail> {
        match (self.0.callback, self.0.free) {
            (None, None) => Err(null(what)),
            (function, _) => Ok(function),
        }
    }
}

impl Owned<CompletionFn> {
    /// The only one that may be absent. Its data is freed as if it were not.
    pub(crate) fn optional(self) -> Option<CompletionCallback> {
        match (self.0.callback, self.0.free) {
            (None, None) => None,
            (function, _) => Some(Box::new(move |errno| {
                let data = self.data();
                // SAFETY: see `Owned::new`; the number lives as long as the call.
                function.map_or(0, |function| unsafe { function(data, errno) })
            })),
        }
    }
}

impl Owned<ChunkFn> {
    pub(crate) fn required(self, what: &str) -> Result<ChunkCallback, Fail> {
        let function = self.function(what)?;
        Ok(Box::new(move |bytes: &[u8], offset, kind: Chunk, errno| {
            let data = self.data();
            let Some(function) = function else { return 0 };
            let (begin, count) = (bytes.as_ptr().cast(), bytes.len());
            // SAFETY: see `Owned::new`; bytes and number live as long as the call.
            unsafe { function(data, begin, count, offset, kind as c_uint, errno) }
        }))
    }
}

impl Owned<ExtentFn> {
    pub(crate) fn required(self, what: &str) -> Result<ExtentCallback, Fail> {
        let function = self.function(what)?;
        Ok(Box::new(move |context: &str, offset, extents: &[Extent], errno| {
            let data = self.data();
            let Some(function) = function else { return 0 };
            let (context, mut pairs) = (c_text(context), narrow(extents));
            if pairs.is_empty() && !extents.is_empty() {
                *errno = nbd_handle::Errno::OVERFLOW.raw_os_error();
                return -1;
            }
            let (begin, count) = (pairs.as_mut_ptr(), pairs.len());
            // SAFETY: see `Owned::new`; all that is pointed to lives as long as the call.
            unsafe { function(data, context.as_ptr(), offset, begin, count, errno) }
        }))
    }
}

impl Owned<Extent64Fn> {
    pub(crate) fn required(self, what: &str) -> Result<ExtentCallback, Fail> {
        let function = self.function(what)?;
        Ok(Box::new(move |context: &str, offset, extents: &[Extent], errno| {
            let data = self.data();
            let Some(function) = function else { return 0 };
            // The caller may write to them.
            let (context, mut extents) = (c_text(context), extents.to_vec());
            let (begin, count) = (extents.as_mut_ptr(), extents.len());
            // SAFETY: as above.
            unsafe { function(data, context.as_ptr(), offset, begin, count, errno) }
        }))
    }
}

impl Owned<ListFn> {
    pub(crate) fn required(self, what: &str) -> Result<ListCallback, Fail> {
        let function = self.function(what)?;
        Ok(Box::new(move |name: &str, description: &str| {
            let data = self.data();
            let Some(function) = function else { return };
            let (name, description) = (c_text(name), c_text(description));
            // SAFETY: as above. What it returns means nothing.
            unsafe { function(data, name.as_ptr(), description.as_ptr()) };
        }))
    }

    /// The same types of arguments: the name of a call, and a line about it.
    pub(crate) fn lines(self, what: &str) -> Result<DebugCallback, Fail> {
        self.required(what)
    }
}

impl Owned<ContextFn> {
    pub(crate) fn required(self, what: &str) -> Result<ContextCallback, Fail> {
        let function = self.function(what)?;
        Ok(Box::new(move |name: &str| {
            let data = self.data();
            let Some(function) = function else { return };
            let name = c_text(name);
            // SAFETY: as above.
            unsafe { function(data, name.as_ptr()) };
        }))
    }
}

/// Pairs of 32 bits. What does not fit is cut off, as a server may do itself: a length to what
/// stays aligned, and everything behind it; a status with what follows.
fn narrow(extents: &[Extent]) -> Vec<u32> {
    /// The longest that is a multiple of any block size.
    const LONGEST: u32 = 0u32.wrapping_sub(64 << 20);
    let mut pairs = Vec::with_capacity(extents.len() * 2);
    for extent in extents {
        let Ok(status) = u32::try_from(extent.flags) else { break };
        match u32::try_from(extent.length) {
            Ok(length) => pairs.extend([length, status]),
            Err(_) => {
                pairs.extend([LONGEST, status]);
                break;
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_cut_where_they_do_not_fit() {
        let extent = |length, flags| Extent { length, flags };
        assert_eq!(narrow(&[extent(1, 2), extent(3, 4)]), [1, 2, 3, 4]);
        assert_eq!(narrow(&[extent(1 << 32, 1), extent(3, 4)]), [0xfc00_0000, 1]);
        assert_eq!(narrow(&[extent(512, 0), extent(512, 1 << 32), extent(512, 0)]), [512, 0]);
        assert!(narrow(&[extent(512, 1 << 32)]).is_empty());
    }
}
