//! libnbd's interface in C over [`nbd_handle`]: the boundary, and the only place of the workspace
//! with `unsafe`.
//!
//! | file | what |
//! |---|---|
//! | `api` | the functions, once |
//! | `lib` | what is made of one line of it |
//! | `calls` | what several of them have in common |
//! | `handle` | the handle as C has it: a lock, what is published beside it, and the way in |
//! | `callback` | callbacks of the caller's, freed exactly once |
//! | `buffer` | the caller's memory |
//! | `text` | texts and addresses, in and out |
//! | `last_error` | why the last call of a thread failed |
//!
//! A wrapper takes callbacks over first, so that they are freed on every way out; checks the
//! handle, clears the buffer of a read, checks the state and then the arguments; and never lets
//! a panic out.

mod buffer;
mod callback;
mod calls;
mod handle;
mod last_error;
mod text;

pub use callback::{
    Callback, ChunkFn, CompletionFn, ContextFn, DebugFn, Extent64Fn, ExtentFn, ListFn,
};
pub use handle::{NbdHandle, nbd_close, nbd_create, nbd_get_errno, nbd_get_error};
pub use nbd_handle::Extent;

use std::ffi::{c_char, c_int, c_void};

use nbd_handle::{Ability, Destination, Fail, OptionCall, Request, Shutdown, State};

use buffer::{Begin, clear};
use callback::Owned;
use calls::{
    block_size, fixed, is_uri, no_flags, poll, shut_down, tcp, tls_number, tls_policy, version,
    wanted,
};
use handle::{In, constant, locked, published};

/// The type in C of an argument or result of a kind.
macro_rules! c {
    (flag) => { bool };
    (int) => { c_int };
    (tls) => { c_int };
    (socket) => { c_int };
    (other_fd) => { c_int };
    (bits) => { u32 };
    (uint) => { u32 };
    (cmd_flags) => { u32 };
    (socklen) => { u32 };
    (u64) => { u64 };
    (i64) => { i64 };
    (size) => { usize };
    (ssize) => { isize };
    (word) => { usize };
    (str) => { *const c_char };
    (path) => { *const c_char };
    (strs) => { *mut *mut c_char };
    (argv) => { *mut *mut c_char };
    (buf_out) => { *mut c_void };
    (buf_in) => { *const c_void };
    (sockaddr) => { *const c_void };
    (completion) => { Callback<CompletionFn> };
    (chunk) => { Callback<ChunkFn> };
    (extent) => { Callback<ExtentFn> };
    (extent64) => { Callback<Extent64Fn> };
    (list) => { Callback<ListFn> };
    (context) => { Callback<ContextFn> };
    (debug) => { Callback<DebugFn> };
    (err) => { c_int };
    (truth) => { c_int };
    (text) => { *mut c_char };
    (fixed) => { *const c_char };
}

/// What belongs to the library from now on, however the call ends.
macro_rules! own {
    (completion, $arg:ident) => { own!(@callback $arg) };
    (chunk, $arg:ident) => { own!(@callback $arg) };
    (extent, $arg:ident) => { own!(@callback $arg) };
    (extent64, $arg:ident) => { own!(@callback $arg) };
    (list, $arg:ident) => { own!(@callback $arg) };
    (context, $arg:ident) => { own!(@callback $arg) };
    (debug, $arg:ident) => { own!(@callback $arg) };
    (socket, $arg:ident) => {
        // SAFETY: the caller gives the descriptor away.
        unsafe { text::own($arg) }
    };
    (@callback $arg:ident) => {
        // SAFETY: the caller gives functions of these types, and data for them.
        unsafe { Owned::new($arg) }
    };
    ($other:ident, $arg:ident) => { $arg };
}

/// An argument as it is used, once it is known to be one.
macro_rules! checked {
    (str, $arg:ident) => {
        // SAFETY: the caller gives NULL or a string, which outlives the call.
        unsafe { text::string($arg, stringify!($arg)) }?
    };
    (path, $arg:ident) => {
        // SAFETY: as of a string.
        unsafe { text::path($arg, stringify!($arg)) }?
    };
    (strs, $arg:ident) => {
        // SAFETY: the caller gives NULL or a list of strings that ends in NULL.
        unsafe { text::strings($arg, stringify!($arg)) }?
    };
    (argv, $arg:ident) => {
        // SAFETY: as of a list of strings.
        unsafe { text::list($arg, stringify!($arg)) }?
    };
    (buf_out, $arg:ident) => {
        // SAFETY: the caller lends the buffer until the command is retired.
        unsafe { Begin::new($arg, stringify!($arg)) }?
    };
    (buf_in, $arg:ident) => {
        // SAFETY: the caller lends the buffer until the command is retired, and it is written
        // from only.
        unsafe { Begin::new($arg, stringify!($arg)) }?
    };
    (sockaddr, $arg:ident) => {
        // SAFETY: the caller gives NULL or an address, with its length.
        unsafe { text::Address::new($arg, stringify!($arg)) }?
    };
    (other_fd, $arg:ident) => {
        // SAFETY: the caller keeps the descriptor open during the call.
        unsafe { text::lend($arg) }
    };
    (socket, $arg:ident) => {
        $arg.ok_or_else(|| Fail::new(nbd_handle::Errno::BADF, "no descriptor"))?
    };
    (tls, $arg:ident) => {
        tls_policy($arg)?
    };
    (completion, $arg:ident) => {
        $arg.optional()
    };
    (chunk, $arg:ident) => {
        $arg.required(stringify!($arg))?
    };
    (extent, $arg:ident) => {
        $arg.required(stringify!($arg))?
    };
    (extent64, $arg:ident) => {
        $arg.required(stringify!($arg))?
    };
    (list, $arg:ident) => {
        $arg.required(stringify!($arg))?
    };
    (context, $arg:ident) => {
        $arg.required(stringify!($arg))?
    };
    (debug, $arg:ident) => {
        $arg.lines(stringify!($arg))?
    };
    ($other:ident, $arg:ident) => {
        $arg
    };
}

/// A state in which a call is permitted.
macro_rules! state {
    (any) => {
        In::Any
    };
    (created) => {
        In::Created
    };
    (connecting) => {
        In::Connecting
    };
    (negotiating) => {
        In::Negotiating
    };
    (connected) => {
        In::Connected
    };
    (closed) => {
        In::Closed
    };
    (dead) => {
        In::Dead
    };
    (shutdown) => {
        In::Shutdown
    };
}

/// The function of one line.
macro_rules! function {
    ([$($doc:literal)*] $name:ident [$($arg:ident: $kind:ident)*] $ret:ident [$($state:ident)*]
     [$($buf:ident $len:ident)?] bare |$h:ident| $body:expr) => {};
    ([$($doc:literal)*] $name:ident [$($arg:ident: $kind:ident)*] $ret:ident [$($state:ident)*]
     [$($buf:ident $len:ident)?] constant |$h:ident| $body:expr) => {
        $(#[doc = $doc])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(_: *mut NbdHandle) -> c!($ret) {
            constant(stringify!($name), || $body)
        }
    };
    ([$($doc:literal)*] $name:ident [$($arg:ident: $kind:ident)*] $ret:ident [$($state:ident)*]
     [$($buf:ident $len:ident)?] published |$h:ident| $body:expr) => {
        $(#[doc = $doc])*
        ///
        /// # Safety
        /// `h` is NULL or a handle that is not closed meanwhile.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(h: *mut NbdHandle $(, $arg: c!($kind))*) -> c!($ret) {
            // SAFETY: NULL, or a handle made by `nbd_create`.
            let handle = unsafe { h.as_ref() };
            published(handle, stringify!($name), &[$(state!($state)),*], |$h| $body)
        }
    };
    ([$($doc:literal)*] $name:ident [$($arg:ident: $kind:ident)*] $ret:ident [$($state:ident)*]
     [$($buf:ident $len:ident)?] locked |$h:ident| $body:expr) => {
        $(#[doc = $doc])*
        ///
        /// # Safety
        /// `h` is NULL or a handle that is not closed meanwhile; other pointers are NULL or lead
        /// to what the header says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(h: *mut NbdHandle $(, $arg: c!($kind))*) -> c!($ret) {
            $(let $arg = own!($kind, $arg);)*
            // SAFETY: NULL, or a handle made by `nbd_create`.
            let handle = unsafe { h.as_ref() };
            let clear = || {
                $(
                    // SAFETY: the caller lends the buffer to be read into.
                    unsafe { clear($buf, $len) }
                )?
            };
            locked(handle, stringify!($name), &[$(state!($state)),*], clear, |$h| {
                $(let $arg = checked!($kind, $arg);)*
                $body
            })
        }
    };
}

macro_rules! functions {
    ($(
        $(#[doc = $doc:literal])*
        $since:literal $name:ident($($arg:ident: $kind:ident),*) -> $ret:ident
        [$($state:ident)*] $(, clears ($buf:ident, $len:ident))?
        $how:ident |$h:ident| $body:expr;
    )*) => {
        $(function! {
            [$($doc)*] $name [$($arg: $kind)*] $ret [$($state)*] [$($buf $len)?]
            $how |$h| $body
        })*
    };
}

include!("api.rs");
