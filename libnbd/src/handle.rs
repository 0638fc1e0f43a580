//! The handle as C has it: a lock, what is published beside it, and the way in.

use std::ffi::{CStr, c_char, c_int};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nbd_handle::{Errno, Fail, Handle, Level, Published, State};

use crate::buffer::Buffer;
use crate::last_error;
use crate::text::{give, null};

/// What all locked calls share.
pub(crate) type Inner = Handle<Buffer>;

/// A handle. Nobody but this library looks into it.
#[derive(Debug)]
pub struct NbdHandle {
    published: Published,
    /// The thread that holds the lock, or 0: from there nobody can wait for it.
    owner: AtomicUsize,
    inner: Mutex<Inner>,
}

/// Which release's interface this is: an option of the build.
const LEVEL: &str = match option_env!("LIBNBD_LEVEL") {
    Some(level) => level,
    None => "1.24.0",
};

/// Which states a call is permitted in.
#[derive(Clone, Copy)]
pub(crate) enum In {
    Any,
    Created,
    Connecting,
    Negotiating,
    Connected,
    Closed,
    Dead,
    /// Connected, and negotiating too where the release says so.
    Shutdown,
}

impl In {
    fn allows(self, state: State, level: Level) -> bool {
        match self {
            Self::Any => true,
            Self::Created => state == State::Created,
            Self::Connecting => state == State::Connecting,
            Self::Negotiating => state == State::Negotiating,
            Self::Connected => state.is_connected(),
            Self::Closed => state == State::Closed,
            Self::Dead => state == State::Dead,
            Self::Shutdown => {
                state.is_connected()
                    || state == State::Negotiating && level.shuts_down_negotiating()
            }
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Any => "in any state",
            Self::Created => "newly created",
            Self::Connecting => "connecting",
            Self::Negotiating => "negotiating",
            Self::Connected | Self::Shutdown => "connected with the server",
            Self::Closed => "shut down",
            Self::Dead => "dead",
        }
    }
}

/// How a result is told to C.
pub(crate) trait Give<C> {
    fn give(self) -> C;
}

/// What stands for failure in C.
pub(crate) trait Answer {
    const FAILED: Self;
}

macro_rules! answers {
    ($($c:ty = $failed:expr, from $($own:ty => |$value:ident| $give:expr),+;)*) => {$(
        impl Answer for $c {
            const FAILED: Self = $failed;
        }
        $(impl Give<$c> for $own {
            fn give(self) -> $c {
                let $value = self;
                $give
            }
        })+
    )*};
}

answers! {
    c_int = -1, from () => |_value| 0, bool => |value| value.into(), i32 => |value| value;
    i64 = -1, from i64 => |value| value;
    isize = -1, from i64 => |value| value as isize;
    u32 = 0, from u32 => |value| value;
    u64 = 0, from u64 => |value| value;
    usize = 0, from usize => |value| value;
    *mut c_char = ptr::null_mut(), from String => |value| give(&value);
    *const c_char = ptr::null(), from &'static CStr => |value| value.as_ptr();
}

/// Something that tells threads apart, and is never 0.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.try_with(|here| ptr::from_ref(here).addr()).unwrap_or(usize::MAX)
}

#[cold]
fn failed<C: Answer>(call: &str, fail: &Fail) -> C {
    last_error::set(call, fail);
    C::FAILED
}

/// A panic is a fault of this library; it must not cross into C.
fn guarded<C: Answer, T: Give<C>>(call: &str, work: impl FnOnce() -> Result<T, Fail>) -> C {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => value.give(),
        Ok(Err(fail)) => failed(call, &fail),
        Err(_) => failed(call, &Fail::new(Errno::IO, "a fault of this library")),
    }
}

/// A call that needs no handle.
pub(crate) fn constant<C, T>(call: &str, body: impl FnOnce() -> Result<T, Fail>) -> C
where
    C: Answer,
    T: Give<C>,
{
    guarded(call, body)
}

/// A call that does not take the lock.
pub(crate) fn published<C, T>(
    handle: Option<&NbdHandle>,
    call: &str,
    states: &[In],
    body: impl FnOnce(&Published) -> Result<T, Fail>,
) -> C
where
    C: Answer,
    T: Give<C>,
{
    guarded(call, || {
        let handle = handle.ok_or_else(|| null("the handle"))?;
        check(states, handle.published.state(), level())?;
        body(&handle.published)
    })
}

/// A call that holds the lock.
pub(crate) fn locked<C, T>(
    handle: Option<&NbdHandle>,
    call: &str,
    states: &[In],
    clear: impl FnOnce(),
    body: impl FnOnce(&mut Inner) -> Result<T, Fail>,
) -> C
where
    C: Answer,
    T: Give<C>,
{
    let Some(handle) = handle else { return failed(call, &null("the handle")) };
    let here = this_thread();
    if handle.owner.load(Ordering::Relaxed) == here {
        let text = "called by a callback of the same handle, which would wait for itself";
        return failed(call, &Fail::new(Errno::DEADLK, text));
    }
    // A thread that panicked with it has ended the handle.
    let mut inner = handle.inner.lock().unwrap_or_else(PoisonError::into_inner);
    handle.owner.store(here, Ordering::Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        inner.tell(call, "enter");
        if inner.pread_initialize() {
            clear();
        }
        let outcome = check(states, inner.state(), inner.level()).and_then(|()| body(&mut inner));
        if inner.is_debugged() {
            let line = match &outcome {
                Ok(_) => "leave".to_owned(),
                Err(fail) => format!("leave: error=\"{fail}\""),
            };
            inner.tell(call, &line);
        }
        outcome
    }));
    let answer = match outcome {
        Ok(Ok(value)) => value.give(),
        Ok(Err(fail)) => failed(call, &fail),
        Err(_) => {
            // What ends it may panic again.
            let _ = catch_unwind(AssertUnwindSafe(|| inner.give_up("a fault of this library")));
            failed(call, &Fail::new(Errno::IO, "a fault of this library has ended the handle"))
        }
    };
    inner.publish(&handle.published);
    handle.owner.store(0, Ordering::Relaxed);
    answer
}

fn check(states: &[In], state: State, level: Level) -> Result<(), Fail> {
    if states.iter().any(|allowed| allowed.allows(state, level)) {
        return Ok(());
    }
    let names: Vec<_> = states.iter().map(|allowed| allowed.name()).collect();
    let text = format!("the handle must be {}, and is {}", names.join(" or "), state.name());
    Err(match state {
        State::Created => Fail::new(Errno::NOTCONN, text),
        _ => Fail::invalid(text),
    })
}

/// The level as the numbers that it begins with say.
pub(crate) fn level() -> Level {
    let minor = LEVEL.split('.').nth(1).and_then(|minor| minor.parse().ok());
    minor.map_or(Level::NEWEST, Level::new)
}

pub(crate) const fn version_text() -> &'static str {
    LEVEL
}

/// Makes a handle.
#[unsafe(no_mangle)]
pub extern "C" fn nbd_create() -> *mut NbdHandle {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let made = catch_unwind(|| {
        let name = format!("nbd{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let inner = Handle::new(level(), name);
        let published = Published::default();
        inner.publish(&published);
        Box::new(NbdHandle { published, owner: AtomicUsize::new(0), inner: Mutex::new(inner) })
    });
    match made {
        Ok(handle) => Box::into_raw(handle),
        Err(_) => {
            last_error::set("nbd_create", &Fail::new(Errno::IO, "a fault of this library"));
            ptr::null_mut()
        }
    }
}

/// Closes a handle.
///
/// # Safety
/// NULL, or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbd_close(h: *mut NbdHandle) {
    // SAFETY: NULL, or a handle that was made by `nbd_create` and not closed yet.
    let Some(shared) = (unsafe { h.as_ref() }) else { return };
    if shared.owner.load(Ordering::Relaxed) == this_thread() {
        let text = "called by a callback of the same handle, which stays as it is";
        return last_error::set("nbd_close", &Fail::new(Errno::DEADLK, text));
    }
    // A callback that is freed, or called for the last time, may still ask it for its state.
    shared.owner.store(this_thread(), Ordering::Relaxed);
    let closed = catch_unwind(AssertUnwindSafe(|| {
        let mut inner = shared.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let used = mem::replace(&mut *inner, Handle::new(level(), ""));
        used.close();
    }));
    if closed.is_err() {
        last_error::set("nbd_close", &Fail::new(Errno::IO, "a fault of this library"));
    }
    // SAFETY: as above; nobody else has it any more, and `shared` is not used again.
    drop(unsafe { Box::from_raw(h) });
}

/// Why the last call of this thread failed.
#[unsafe(no_mangle)]
pub extern "C" fn nbd_get_error() -> *const c_char {
    last_error::text()
}

/// Its error number.
#[unsafe(no_mangle)]
pub extern "C" fn nbd_get_errno() -> c_int {
    last_error::errno()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_handle_with_an_error() {
        let handle = nbd_create();
        // SAFETY: it was just made.
        let shared = unsafe { handle.as_ref() };
        let answer: c_int = locked(
            shared,
            "nbd_test",
            &[In::Any],
            || {},
            |_| -> Result<(), Fail> {
                panic!("a fault");
            },
        );
        assert_eq!((answer, nbd_get_errno()), (-1, Errno::IO.raw_os_error()));
        let state = |shared: Option<&NbdHandle>| shared.map(|handle| handle.published.state());
        assert_eq!(state(shared), Some(State::Dead));
        let again: c_int = locked(shared, "nbd_test", &[In::Created], || {}, |_| Ok(()));
        assert_eq!((again, nbd_get_errno()), (-1, Errno::INVAL.raw_os_error()));
        // SAFETY: nobody uses it any more.
        unsafe { nbd_close(handle) };
    }
}
