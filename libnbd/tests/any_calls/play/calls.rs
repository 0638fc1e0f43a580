//! One call of the library's, with arguments that the input chooses.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::LazyLock;

use nbd::NbdHandle;

use super::Play;
use super::callbacks::{chunk, completion, context, extent, extent64, list};
use super::input::Input;
use super::server::{CONTEXT, EXPORT, GONE};

unsafe extern "C" {
    fn free(text: *mut c_void);
}

/// Numbers of calls that wait for the server.
const WAITING: [u8; 22] =
    [13, 14, 21, 24, 25, 27, 28, 29, 30, 33, 34, 35, 36, 37, 39, 42, 43, 61, 62, 63, 64, 65];

/// Names, addresses, paths and more. NULL is one of them.
static TEXTS: [Option<&CStr>; 15] = [
    Some(c""),
    Some(c"base:allocation"),
    Some(c"\xff"),
    Some(c"base:"),
    Some(c"x"),
    None,
    Some(c"/nonexistent/directory/socket"),
    Some(c"nbd+unix:///name?socket=/nonexistent"),
    Some(c"nbds://user@localhost:1/%ff?tls-psk-file=/nonexistent&tls-verify-peer=false"),
    Some(c"nbd://localhost:1/?tls-hostname=x&tls-certificates=/nonexistent"),
    Some(c"nbd://[::1"),
    Some(c"localhost"),
    Some(c"1"),
    Some(c"/bin/true"),
    Some(c"SECURE128:-VERS-ALL"),
];

/// Longer than any name may be.
static LONG: LazyLock<CString> =
    LazyLock::new(|| CString::new(vec![b'y'; 5000]).unwrap_or_default());

fn text(input: &mut Input<'_>) -> *const c_char {
    match input.byte() {
        u8::MAX => LONG.as_ptr(),
        number => TEXTS[usize::from(number) % TEXTS.len()].map_or(ptr::null(), CStr::as_ptr),
    }
}

/// One of several functions.
fn one<T: Copy>(of: &[T], input: &mut Input<'_>) -> T {
    of[usize::from(input.byte()) % of.len()]
}

/// Functions that take a handle and no more, whose result nobody looks at.
macro_rules! plain {
    ($($name:ident)*) => {
        [$(|h| {
            // SAFETY: whoever calls one has a handle that is not closed.
            unsafe { nbd::$name(h) };
        }),*]
    };
}

const PLAIN: [fn(*mut NbdHandle); 48] = plain![
    nbd_aio_is_created nbd_aio_is_connecting nbd_aio_is_negotiating nbd_aio_is_ready
    nbd_aio_is_processing nbd_aio_is_dead nbd_aio_is_closed nbd_get_debug nbd_get_full_info
    nbd_get_handshake_flags nbd_get_nr_meta_contexts nbd_get_opt_mode nbd_get_pread_initialize
    nbd_get_private_data nbd_get_request_block_size nbd_get_request_extended_headers
    nbd_get_request_meta_context nbd_get_request_structured_replies nbd_get_strict_mode
    nbd_get_structured_replies_negotiated nbd_get_extended_headers_negotiated
    nbd_get_subprocess_pid nbd_get_tls nbd_get_tls_negotiated nbd_get_tls_verify_peer
    nbd_is_read_only nbd_is_rotational nbd_can_block_status_payload nbd_can_cache nbd_can_df
    nbd_can_fast_zero nbd_can_flush nbd_can_fua nbd_can_multi_conn nbd_can_trim nbd_can_zero
    nbd_stats_bytes_received nbd_stats_bytes_sent nbd_stats_chunks_received
    nbd_stats_chunks_sent nbd_get_size nbd_aio_get_direction nbd_aio_opt_abort
    nbd_aio_peek_command_completed nbd_aio_notify_read nbd_aio_notify_write
    nbd_clear_meta_contexts nbd_aio_in_flight
];

/// Functions that answer the same for every handle.
fn constants(h: *mut NbdHandle) {
    nbd::nbd_get_handle_size(h);
    nbd::nbd_supports_tls(h);
    nbd::nbd_supports_uri(h);
    nbd::nbd_supports_vsock(h);
    nbd::nbd_get_errno();
}

type Text<T> = unsafe extern "C" fn(*mut NbdHandle) -> T;

/// Texts that the caller frees.
const GIVEN: [Text<*mut c_char>; 9] = [
    nbd::nbd_get_export_name,
    nbd::nbd_get_canonical_export_name,
    nbd::nbd_get_export_description,
    nbd::nbd_get_handle_name,
    nbd::nbd_get_tls_username,
    nbd::nbd_get_tls_hostname,
    nbd::nbd_get_tls_priority,
    nbd::nbd_get_socket_activation_name,
    nbd::nbd_get_uri,
];

unsafe extern "C" fn last_error(_: *mut NbdHandle) -> *const c_char {
    nbd::nbd_get_error()
}

/// Texts that the library keeps.
const KEPT: [Text<*const c_char>; 6] = [
    last_error,
    nbd::nbd_get_protocol,
    nbd::nbd_connection_state,
    nbd::nbd_get_package_name,
    nbd::nbd_get_version,
    nbd::nbd_get_version_extra,
];

type With<A> = unsafe extern "C" fn(*mut NbdHandle, A) -> c_int;

const SET_BITS: [With<u32>; 3] =
    [nbd::nbd_set_strict_mode, nbd::nbd_set_handshake_flags, nbd::nbd_set_uri_allow_transports];

const SET_NUMBER: [With<c_int>; 2] = [nbd::nbd_set_tls, nbd::nbd_set_uri_allow_tls];

const SET_FLAG: [With<bool>; 10] = [
    nbd::nbd_set_opt_mode,
    nbd::nbd_set_full_info,
    nbd::nbd_set_pread_initialize,
    nbd::nbd_set_request_block_size,
    nbd::nbd_set_request_extended_headers,
    nbd::nbd_set_request_meta_context,
    nbd::nbd_set_request_structured_replies,
    nbd::nbd_set_tls_verify_peer,
    nbd::nbd_set_uri_allow_local_file,
    nbd::nbd_set_uri_allow_tls_priority,
];

const TAKE_TEXT: [With<*const c_char>; 10] = [
    nbd::nbd_set_export_name,
    nbd::nbd_set_handle_name,
    nbd::nbd_set_socket_activation_name,
    nbd::nbd_set_tls_certificates,
    nbd::nbd_set_tls_hostname,
    nbd::nbd_set_tls_priority,
    nbd::nbd_set_tls_psk_file,
    nbd::nbd_set_tls_username,
    nbd::nbd_add_meta_context,
    nbd::nbd_is_uri,
];

/// Options whose outcome only a completion callback is told.
const OPTIONS: [With<nbd::Callback<nbd::CompletionFn>>; 5] = [
    nbd::nbd_aio_opt_go,
    nbd::nbd_aio_opt_starttls,
    nbd::nbd_aio_opt_extended_headers,
    nbd::nbd_aio_opt_structured_reply,
    nbd::nbd_aio_opt_info,
];

/// A text is one, to its end.
///
/// # Safety
/// NULL, or a text.
unsafe fn read(text: *const c_char) {
    if !text.is_null() {
        // SAFETY: as the caller says.
        std::hint::black_box(unsafe { CStr::from_ptr(text) }.to_bytes().len());
    }
}

impl Play<'_> {
    /// One call.
    pub(super) fn call(&mut self, input: &mut Input<'_>) {
        let h = self.handle;
        let name = text(input);
        let mut names = [name.cast_mut(), ptr::null_mut()];
        let names = names.as_mut_ptr();
        let number = input.byte() % 77;
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
                52 => self.server_speaks(input.byte()),
                53 => one(&PLAIN, input)(h),
                54 => constants(h),
                55 => {
                    let given = one(&GIVEN, input)(h);
                    read(given);
                    free(given.cast());
                }
                56 => read(one(&KEPT, input)(h)),
                57 => drop(one(&SET_BITS, input)(h, input.word())),
                58 => drop(one(&SET_NUMBER, input)(h, input.word() as c_int)),
                59 => drop(one(&SET_FLAG, input)(h, input.byte() & 1 != 0)),
                60 => drop(one(&TAKE_TEXT, input)(h, name)),
                61 => self.connect(name, input),
                62 => {
                    let (count, offset) = (input.long(), input.long());
                    let extents = self.callback(extent as nbd::ExtentFn, input);
                    nbd::nbd_block_status(h, count, offset, extents, input.word());
                }
                63 => {
                    let each = self.callback(context as nbd::ContextFn, input);
                    nbd::nbd_opt_list_meta_context_queries(h, names, each);
                }
                64 => {
                    let each = self.callback(context as nbd::ContextFn, input);
                    match input.byte() & 1 {
                        0 => nbd::nbd_opt_set_meta_context(h, each),
                        _ => nbd::nbd_opt_set_meta_context_queries(h, names, each),
                    };
                }
                65 => drop(nbd::nbd_opt_extended_headers(h)),
                66 => {
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    one(&OPTIONS, input)(h, done);
                }
                67 => {
                    let each = self.callback(context as nbd::ContextFn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    match input.byte() & 1 {
                        0 => nbd::nbd_aio_opt_list_meta_context_queries(h, names, each, done),
                        _ => nbd::nbd_aio_opt_list_meta_context(h, each, done),
                    };
                }
                68 => {
                    let each = self.callback(context as nbd::ContextFn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_opt_set_meta_context(h, each, done);
                }
                69 => {
                    let (count, offset) = (input.long(), input.long());
                    let extents = self.callback(extent64 as nbd::Extent64Fn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_block_status_64(h, count, offset, extents, done, input.word());
                }
                70 => {
                    let (count, offset, flags) = (input.long(), input.long(), input.word());
                    let extents = self.callback(extent64 as nbd::Extent64Fn, input);
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    nbd::nbd_aio_block_status_filter(h, count, offset, names, extents, done, flags);
                }
                71 | 72 => {
                    let (count, offset) = (input.long(), input.long());
                    let done = self.callback(completion as nbd::CompletionFn, input);
                    match number {
                        71 => nbd::nbd_aio_trim(h, count, offset, done, input.word()),
                        _ => nbd::nbd_aio_cache(h, count, offset, done, input.word()),
                    };
                }
                73 => {
                    let other = if input.byte() == 0 { -1 } else { self.server.as_raw_fd() };
                    nbd::nbd_poll2(h, other, i32::from(input.byte() & 1));
                }
                74 => {
                    let given = nbd::nbd_get_meta_context(h, input.word() as usize);
                    read(given);
                    free(given.cast());
                }
                // Never without a callback, so that nothing is printed.
                75 => {
                    let lines = self.callback(list as nbd::DebugFn, input);
                    let heard = nbd::nbd_set_debug_callback(h, lines) == 0;
                    nbd::nbd_set_debug(h, heard && input.byte() & 1 != 0);
                }
                _ => {
                    nbd::nbd_set_debug(h, false);
                    nbd::nbd_clear_debug_callback(h);
                }
            }
        }
    }

    /// The server says something more.
    fn server_speaks(&mut self, what: u8) {
        match what {
            0 => self.say(&[EXPORT, GONE].concat()),
            1 => self.say(CONTEXT),
            2 => self.hush(),
            more => {
                let more = usize::from(more).min(self.said.len());
                let (now, later) = self.said.split_at(more);
                self.said = later;
                self.say(now);
            }
        }
    }

    /// Connects to the server, to nobody, or to a program that is none. By vsock nobody refuses
    /// at once, so it is not waited for.
    fn connect(&mut self, name: *const c_char, input: &mut Input<'_>) {
        let h = self.handle;
        let mut argv = [c"/bin/true".as_ptr().cast_mut(), name.cast_mut(), ptr::null_mut()];
        let argv = argv[usize::from(input.byte()) % 3..].as_mut_ptr();
        let mut address = [0; 130];
        // SAFETY: as of `call`; the socket is given away, and the address is as long as it is
        // said to be.
        unsafe {
            match input.byte() % 16 {
                0 => drop(nbd::nbd_connect_socket(h, self.give_away())),
                1 => drop(nbd::nbd_aio_connect_socket(h, self.give_away())),
                2 => drop(nbd::nbd_connect_uri(h, name)),
                3 => drop(nbd::nbd_aio_connect_uri(h, name)),
                4 => drop(nbd::nbd_connect_unix(h, name)),
                5 => drop(nbd::nbd_aio_connect_unix(h, name)),
                6 => drop(nbd::nbd_connect_tcp(h, c"localhost".as_ptr(), name)),
                7 => drop(nbd::nbd_aio_connect_tcp(h, name, c"1".as_ptr())),
                8 => drop(nbd::nbd_connect_command(h, argv)),
                9 => drop(nbd::nbd_aio_connect_command(h, argv)),
                10 => drop(nbd::nbd_connect_systemd_socket_activation(h, argv)),
                11 => drop(nbd::nbd_aio_connect_systemd_socket_activation(h, argv)),
                12 if nbd::nbd_aio_is_created(h) == 0 => drop(nbd::nbd_connect_vsock(h, 1, 1)),
                12 | 13 => drop(nbd::nbd_aio_connect_vsock(h, 1, input.word())),
                _ => {
                    // Of no family that leads out of this machine.
                    address[..2].copy_from_slice(&u16::from(input.byte() % 2).to_ne_bytes());
                    address[2..].fill_with(|| input.byte());
                    nbd::nbd_aio_connect(h, address.as_ptr().cast(), input.word().min(130));
                }
            }
        }
    }
}
