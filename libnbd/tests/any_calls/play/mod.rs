//! Any sequence of calls with any arguments, against a server that says anything: for the test
//! beside this, and for the fuzzer.
//!
//! Whatever happens, every call returns, memory that was not lent stays as it is, and data of
//! callbacks is freed once.

mod callbacks;
mod calls;
mod input;
mod server;

use std::ffi::{c_int, c_void};
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nbd::{Callback, NbdHandle};

use callbacks::{Note, free};
use input::Input;
use server::{CONTEXT, EXPORT, GONE, GREETING, NO_EXTENDED_HEADERS, STRUCTURED};

/// Memory that is lent. What lies behind it is watched.
const LENT: usize = 4096;
const WATCHED: usize = 64;

/// One handle, from its creation to its end.
struct Play<'a> {
    handle: *mut NbdHandle,
    #[expect(clippy::vec_box, reason = "the library keeps their addresses")]
    notes: Vec<Box<Note>>,
    memory: Vec<u8>,
    server: UnixStream,
    /// The client's end of it, until it is given away.
    ours: Option<OwnedFd>,
    /// What the server has not said yet.
    said: &'a [u8],
}

impl Play<'_> {
    /// The server says something. It may have gone already, or there may be no room.
    fn say(&mut self, words: &[u8]) {
        let _ = self.server.write(words);
    }

    /// The server says all that is left, and no more: nobody waits for it in vain.
    fn hush(&mut self) {
        let rest = std::mem::take(&mut self.said);
        self.say(rest);
        let _ = self.server.shutdown(Shutdown::Write);
    }

    /// The client's end of the connection; later, no descriptor.
    fn give_away(&mut self) -> c_int {
        self.ours.take().map_or(-1, IntoRawFd::into_raw_fd)
    }

    fn callback<F: Copy>(&mut self, function: F, input: &mut Input<'_>) -> Callback<F> {
        let kind = input.byte();
        if kind == 0 {
            return Callback::new(None, ptr::null_mut(), None);
        }
        let answer = [0, 1, -1, 7][usize::from(kind & 3)];
        let errno = if kind & 4 == 0 { 0 } else { 28 };
        let note = Note { freed: AtomicU32::new(0), handle: self.handle, answer, errno };
        self.notes.push(Box::new(note));
        let data = self.notes.last().map_or(ptr::null(), |note| ptr::from_ref(&**note));
        let function = (kind & 8 == 0).then_some(function);
        Callback::new(function, data.cast_mut().cast(), Some(free))
    }

    fn buffer(&mut self, input: &mut Input<'_>) -> *mut c_void {
        if input.byte() == 0 { ptr::null_mut() } else { self.memory.as_mut_ptr().cast() }
    }
}

/// Plays one input. Whether commands were accepted at first.
pub(crate) fn play(data: &[u8]) -> bool {
    let mut input = Input(data);
    let mode = input.byte();
    let program = usize::from(input.byte()) * 4;
    let (program, said) = input.0.split_at(program.min(input.0.len()));
    let (ours, server) = UnixStream::pair().expect("there is a socket");
    server.set_nonblocking(true).expect("it is a socket");

    let handle = nbd::nbd_create();
    let memory = vec![0x5a; LENT + WATCHED];
    let ours = Some(OwnedFd::from(ours));
    let mut play = Play { handle, notes: Vec::new(), memory, server, ours, said };
    // SAFETY: the handle is new.
    unsafe {
        nbd::nbd_set_opt_mode(handle, mode & 2 != 0);
        nbd::nbd_set_request_meta_context(handle, mode & 4 != 0);
        nbd::nbd_add_meta_context(handle, c"base:allocation".as_ptr());
    }
    // Some programs set more and connect by themselves.
    if mode & 16 == 0 {
        let fd = play.give_away();
        // SAFETY: the handle is not closed, and the descriptor given away.
        unsafe { nbd::nbd_aio_connect_socket(handle, fd) };
    }
    let context = if mode & 6 == 4 { CONTEXT } else { &[] };
    let export = if mode & 2 == 0 { [EXPORT, GONE].concat() } else { Vec::new() };
    if mode & 1 != 0 {
        for part in [GREETING, NO_EXTENDED_HEADERS, STRUCTURED, context, &export] {
            play.say(part);
            // SAFETY: the handle is not closed.
            unsafe { nbd::nbd_poll(handle, 0) };
        }
    }
    // SAFETY: the handle is not closed.
    let ready = unsafe { nbd::nbd_aio_is_ready(handle) } == 1;
    let mut program = Input(program);
    while !program.0.is_empty() {
        play.call(&mut program);
    }
    // SAFETY: nobody uses it any more.
    unsafe { nbd::nbd_close(handle) };
    drop(play.server);
    for note in &play.notes {
        assert_eq!(note.freed.load(Ordering::Relaxed), 1, "freed exactly once");
    }
    assert!(play.memory[LENT..].iter().all(|byte| *byte == 0x5a), "written beyond what was lent");
    ready
}
