//! Why the last call of a thread failed.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::ptr;

use nbd_handle::Fail;

use crate::text::c_text;

thread_local! {
    static LAST: RefCell<Option<(CString, c_int)>> = const { RefCell::new(None) };
}

/// A call has failed. Its name comes before the text.
#[cold]
pub(crate) fn set(call: &str, fail: &Fail) {
    let text = c_text(&format!("{call}: {fail}"));
    // A thread that is about to end has nobody who could ask any more.
    let _ = LAST.try_with(|last| last.replace(Some((text, fail.errno()))));
}

/// Good until the next call of this thread fails.
pub(crate) fn text() -> *const c_char {
    let text = LAST.try_with(|last| last.borrow().as_ref().map(|(text, _)| text.as_ptr()));
    text.ok().flatten().unwrap_or(ptr::null())
}

pub(crate) fn errno() -> c_int {
    LAST.try_with(|last| last.borrow().as_ref().map_or(0, |(_, errno)| *errno)).unwrap_or(0)
}
