//! Any sequence of calls with any arguments, against a server that says anything: for the test
//! beside this, and for the fuzzer.
//!
//! Whatever happens, every call returns, memory that was not lent stays as it is, and data of
//! callbacks is freed once.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nbd::{Callback, Extent, NbdHandle};

/// Memory that is lent. What lies behind it is watched.
const LENT: usize = 4096;
const WATCHED: usize = 64;

/// A server of fixed newstyle that has no TLS and no extended headers, but structured replies,
/// and an export of 64 KiB that can do everything.
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
const NO_EXTENDED_HEADERS: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0b\x80\0\0\x01\0\0\0\0";
const STRUCTURED: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0";
const CONTEXT: &[u8] =
    b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x04\0\0\0\x13\0\0\0\x01base:allocation\
    \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x01\0\0\0\0";
const EXPORT: &[u8] =
    b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\x01\0\0\x07\xfd";
const GONE: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0";

/// Calls of [`Play::call`] that wait for the server.
const WAITING: [u8; 17] = [13, 14, 21, 24, 25, 27, 28, 29, 30, 33, 34, 35, 36, 37, 39, 42, 43];

/// Bytes that decide.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u32 {
        // Mostly small.
        match self.byte() {
            0 => u32::MAX,
            1 => u32::from(self.byte()) << 24 | u32::from(self.byte()),
            small => u32::from(small) - 2,
        }
    }

    fn long(&mut self) -> u64 {
        match self.byte() {
            0 => u64::MAX,
            1 => u64::from(self.word()) << 32 | u64::from(self.word()),
            2..128 => u64::from(self.byte()) * 512,
            _ => u64::from(self.word()),
        }
    }

    /// No longer than what is lent, or so long that no command is.
    fn count(&mut self) -> usize {
        match self.byte() {
            0 => usize::MAX,
            1 => (64 << 20) + 1,
            2 => 0,
            more => usize::from(more) * 16 % (LENT + 1),
        }
    }
}

/// What a callback does, and how often it was freed.
struct Note {
    freed: AtomicU32,
    handle: *mut NbdHandle,
    answer: c_int,
    errno: c_int,
}

unsafe extern "C" fn free(data: *mut c_void) {
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

unsafe extern "C" fn completion(data: *mut c_void, errno: *mut c_int) -> c_int {
    // SAFETY: as of `called`.
    unsafe { called(data, errno) }
}

unsafe extern "C" fn chunk(
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

unsafe extern "C" fn extent(
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

unsafe extern "C" fn extent64(
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

unsafe extern "C" fn list(data: *mut c_void, _: *const c_char, _: *const c_char) -> c_int {
    // SAFETY: as of `called`.
    unsafe { called(data, ptr::null_mut()) }
}

unsafe extern "C" fn context(data: *mut c_void, _: *const c_char) -> c_int {
    // SAFETY: as of `called`.
    unsafe { called(data, ptr::null_mut()) }
}

/// One handle, from its creation to its end.
struct Play<'a> {
    handle: *mut NbdHandle,
    #[expect(clippy::vec_box, reason = "the library keeps their addresses")]
    notes: Vec<Box<Note>>,
    memory: Vec<u8>,
    server: UnixStream,
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

    /// One call.
    fn call(&mut self, input: &mut Input<'_>) {
        let h = self.handle;
        let names = [c"", c"base:allocation", c"\xff", c"base:", c"x"];
        let name = names[usize::from(input.byte()) % names.len()].as_ptr();
        let mut names = [name.cast_mut(), ptr::null_mut()];
        let names = names.as_mut_ptr();
        let number = input.byte() % 53;
        if WAITING.contains(&number) {
            self.hush();
        }
        // SAFETY: the handle is not closed; memory is lent for as long as it lives, and has as
        // many bytes as any command may be long; names are texts, and lists end in NULL.
        unsafe {
            match number {
                0 => drop(nbd::nbd_get_size(h)),
                1 => drop(nbd::nbd_set_export_name(h, name)),
                2 => drop(nbd::nbd_add_meta_context(h, name)),
                3 => drop(nbd::nbd_clear_meta_contexts(h)),
                4 => drop(nbd::nbd_set_strict_mode(h, input.word())),
                5 => drop(nbd::nbd_set_pread_initialize(h, input.byte() & 1 != 0)),
                6 => drop(nbd::nbd_poll(h, i32::from(input.byte() & 1))),
                7 => drop(nbd::nbd_aio_notify_read(h)),
                8 => drop(nbd::nbd_aio_notify_write(h)),
                9 => drop(nbd::nbd_aio_command_completed(h, input.long())),
                10 => drop(nbd::nbd_aio_peek_command_completed(h)),
                11 => drop(nbd::nbd_can_meta_context(h, name)),
                12 => drop(nbd::nbd_get_block_size(h, input.word() as c_int)),
                13 => {
                    let (buf, count) = (self.buffer(input), input.count());
                    nbd::nbd_pread(h, buf, count, input.long(), input.word());
                }
                14 => {
                    let (buf, count) = (self.buffer(input), input.count());
                    nbd::nbd_pwrite(h, buf, count, input.long(), input.word());
                }
                15 | 16 => {
                    let (buf, count, offset) = (self.buffer(input), input.count(), input.long());
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_pread(h, buf, count, offset, done, input.word());
                }
                17 | 18 => {
                    let (buf, count, offset) = (self.buffer(input), input.count(), input.long());
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_pwrite(h, buf, count, offset, done, input.word());
                }
                19 | 20 => {
                    let (buf, count, offset) = (self.buffer(input), input.count(), input.long());
                    let part = self.callback(chunk as nbd::ChunkFn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_pread_structured(h, buf, count, offset, part, done, input.word());
                }
                21 => {
                    let (buf, count, offset) = (self.buffer(input), input.count(), input.long());
                    let part = self.callback(chunk as nbd::ChunkFn, input);
                    nbd::nbd_pread_structured(h, buf, count, offset, part, input.word());
                }
                22 | 23 => {
                    let (count, offset) = (input.long(), input.long());
                    let extents = self.callback(extent as nbd::ExtentFn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_block_status(h, count, offset, extents, done, input.word());
                }
                24 => {
                    let (count, offset) = (input.long(), input.long());
                    let extents = self.callback(extent64 as nbd::Extent64Fn, input);
                    nbd::nbd_block_status_64(h, count, offset, extents, input.word());
                }
                25 => {
                    let (count, offset) = (input.long(), input.long());
                    let extents = self.callback(extent64 as nbd::Extent64Fn, input);
                    nbd::nbd_block_status_filter(h, count, offset, names, extents, input.word());
                }
                26 => {
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_flush(h, done, input.word());
                }
                27 => drop(nbd::nbd_flush(h, input.word())),
                28 => drop(nbd::nbd_trim(h, input.long(), input.long(), input.word())),
                29 => drop(nbd::nbd_zero(h, input.long(), input.long(), input.word())),
                30 => drop(nbd::nbd_cache(h, input.long(), input.long(), input.word())),
                31 => {
                    let (count, offset) = (input.long(), input.long());
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_zero(h, count, offset, done, input.word());
                }
                32 => drop(nbd::nbd_aio_disconnect(h, input.word())),
                33 => drop(nbd::nbd_shutdown(h, input.word() << 16)),
                34 => drop(nbd::nbd_opt_go(h)),
                35 => drop(nbd::nbd_opt_info(h)),
                36 => drop(nbd::nbd_opt_abort(h)),
                37 => drop(nbd::nbd_opt_list(h, self.callback(list as nbd::ListFn, input))),
                38 => {
                    let names = self.callback(list as nbd::ListFn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_opt_list(h, names, done);
                }
                39 => {
                    let each = self.callback(context as nbd::ContextFn, input);
                    nbd::nbd_opt_list_meta_context(h, each);
                }
                40 => {
                    let each = self.callback(context as nbd::ContextFn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_opt_set_meta_context_queries(h, names, each, done);
                }
                41 => {
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_opt_go(h, done);
                }
                42 => drop(nbd::nbd_opt_starttls(h)),
                43 => drop(nbd::nbd_opt_structured_reply(h)),
                44 => {
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_opt_starttls(h, done);
                }
                45 => drop(nbd::nbd_aio_get_fd(h)),
                46 => drop(nbd::nbd_aio_in_flight(h)),
                47 => drop(nbd::nbd_set_full_info(h, input.byte() & 1 != 0)),
                48 => drop(nbd::nbd_kill_subprocess(h, input.word() as c_int)),
                49 => drop(nbd::nbd_set_private_data(h, input.long() as usize)),
                50 => drop(nbd::nbd_aio_get_direction(h)),
                51 => drop(nbd::nbd_set_tls(h, input.word() as c_int)),
                _ => match input.byte() {
                    0 => self.say(&[EXPORT, GONE].concat()),
                    1 => self.say(CONTEXT),
                    2 => self.hush(),
                    more => {
                        let more = usize::from(more).min(self.said.len());
                        let (now, later) = self.said.split_at(more);
                        self.said = later;
                        self.say(now);
                    }
                },
            }
        }
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
    let mut play = Play { handle, notes: Vec::new(), memory, server, said };
    let fd = OwnedFd::from(ours).into_raw_fd();
    // SAFETY: the handle is new, and the descriptor given away.
    unsafe {
        nbd::nbd_set_opt_mode(handle, mode & 2 != 0);
        nbd::nbd_set_request_meta_context(handle, mode & 4 != 0);
        nbd::nbd_add_meta_context(handle, c"base:allocation".as_ptr());
        nbd::nbd_aio_connect_socket(handle, fd);
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
