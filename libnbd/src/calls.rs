//! What several calls have in common.

use std::ffi::{CStr, CString, c_int};
use std::os::fd::BorrowedFd;
use std::sync::LazyLock;
use std::time::Duration;

use nbd_handle::{Destination, Fail, OptionCall, Shutdown, State, TlsPolicy, Woken};

use crate::handle::{Inner, version_text};

/// `LIBNBD_SHUTDOWN_ABANDON_PENDING`.
const ABANDON_PENDING: u32 = 0x1_0000;

pub(crate) fn tls_policy(number: c_int) -> Result<TlsPolicy, Fail> {
    match number {
        0 => Ok(TlsPolicy::Disable),
        1 => Ok(TlsPolicy::Allow),
        2 => Ok(TlsPolicy::Require),
        other => Err(Fail::invalid(format!("{other} is none of LIBNBD_TLS_"))),
    }
}

pub(crate) const fn tls_number(policy: TlsPolicy) -> c_int {
    match policy {
        TlsPolicy::Disable => 0,
        TlsPolicy::Allow => 1,
        TlsPolicy::Require => 2,
    }
}

/// The meta contexts that are asked for.
pub(crate) fn wanted(handle: &Inner) -> Vec<String> {
    handle.meta_contexts().to_vec()
}

pub(crate) fn tcp(host: &str, port: &str) -> Destination {
    Destination::Tcp { host: host.to_owned(), port: port.to_owned() }
}

pub(crate) fn is_uri(text: &str) -> bool {
    nbd_handle::is_uri(text)
}

/// Texts that live as long as the program.
pub(crate) fn fixed(text: &'static str) -> &'static CStr {
    const TEXTS: [&CStr; 10] = [
        c"oldstyle",
        c"newstyle",
        c"newstyle-fixed",
        c"created",
        c"connecting",
        c"negotiating",
        c"ready",
        c"processing",
        c"dead",
        c"closed",
    ];
    TEXTS.into_iter().find(|known| known.to_bytes() == text.as_bytes()).unwrap_or_default()
}

pub(crate) fn version() -> &'static CStr {
    static VERSION: LazyLock<CString> =
        LazyLock::new(|| CString::new(version_text()).unwrap_or_default());
    &VERSION
}

pub(crate) fn block_size(handle: &Inner, which: c_int) -> Result<i64, Fail> {
    let number = u32::try_from(which).map_err(|_| Fail::invalid("no such block size"))?;
    handle.block_size(number)
}

pub(crate) fn no_flags(flags: u32) -> Result<(), Fail> {
    if flags == 0 { Ok(()) } else { Err(Fail::invalid("this call has no flags")) }
}

pub(crate) fn shut_down(handle: &mut Inner, flags: u32) -> Result<(), Fail> {
    let how = match flags {
        0 => Shutdown::AfterRequests,
        ABANDON_PENDING => Shutdown::AbandonPending,
        other => return Err(Fail::invalid(format!("flags {other:#x} mean nothing here"))),
    };
    if handle.state() == State::Negotiating {
        return handle.option(OptionCall::abort()).map(drop);
    }
    handle.shutdown(how)
}

pub(crate) fn poll(
    handle: &mut Inner,
    other: Option<BorrowedFd<'_>>,
    milliseconds: c_int,
) -> Result<i32, Fail> {
    // A negative time is for ever.
    let timeout = u64::try_from(milliseconds).ok().map(Duration::from_millis);
    Ok(match handle.poll(timeout, other)? {
        Woken::Progress => 1,
        Woken::Other => 2,
        Woken::TimedOut => 0,
    })
}
