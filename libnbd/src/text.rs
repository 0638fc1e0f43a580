//! Texts and addresses, in and out.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::ptr;
use std::slice;

use nbd_handle::{Destination, Errno, Fail};

unsafe extern "C" {
    /// The allocator whose memory the caller frees.
    fn malloc(size: usize) -> *mut c_void;
}

/// An argument that must not be NULL, and is.
#[cold]
pub(crate) fn null(what: &str) -> Fail {
    Fail::new(Errno::FAULT, format!("{what} is NULL"))
}

/// A text of the caller's.
///
/// # Safety
/// NULL, or the start of a string with a NUL at its end that lives as long as `'a`.
pub(crate) unsafe fn bytes<'a>(text: *const c_char, what: &str) -> Result<&'a [u8], Fail> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: it is not NULL, so it is a string.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// The same, which must be UTF-8: what travels in the protocol is.
///
/// # Safety
/// As [`bytes`].
pub(crate) unsafe fn string<'a>(text: *const c_char, what: &str) -> Result<&'a str, Fail> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(text, what) }?;
    std::str::from_utf8(bytes).map_err(|_| Fail::invalid(format!("{what} is not UTF-8")))
}

/// The same, of any bytes.
///
/// # Safety
/// As [`bytes`].
pub(crate) unsafe fn path(text: *const c_char, what: &str) -> Result<PathBuf, Fail> {
    // SAFETY: the caller's promise.
    Ok(unsafe { bytes(text, what) }.map(OsStr::from_bytes)?.into())
}

/// A list of texts.
///
/// # Safety
/// NULL, or the start of a list of strings with NULL at its end.
pub(crate) unsafe fn list(list: *mut *mut c_char, what: &str) -> Result<Vec<OsString>, Fail> {
    if list.is_null() {
        return Err(null(what));
    }
    let mut texts = Vec::new();
    loop {
        // SAFETY: all before this one were not the end, so there is another one.
        let text = unsafe { *list.add(texts.len()) };
        if text.is_null() {
            return Ok(texts);
        }
        // SAFETY: it is a string of the list.
        let text = unsafe { CStr::from_ptr(text) };
        texts.push(OsString::from_vec(text.to_bytes().to_vec()));
    }
}

/// The same, each of which must be UTF-8.
///
/// # Safety
/// As [`list`].
pub(crate) unsafe fn strings(texts: *mut *mut c_char, what: &str) -> Result<Vec<String>, Fail> {
    // SAFETY: the caller's promise.
    let texts = unsafe { list(texts, what) }?;
    let odd = |_| Fail::invalid(format!("{what} has one that is not UTF-8"));
    texts.into_iter().map(|text| text.into_string().map_err(odd)).collect()
}

/// Takes over a descriptor; `None` if it cannot be one.
///
/// # Safety
/// If it is open, nobody else may own it.
pub(crate) unsafe fn own(fd: c_int) -> Option<OwnedFd> {
    // SAFETY: it is the caller's to give.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Borrows a descriptor; `None` if it cannot be one, which stands for none.
///
/// # Safety
/// If it is open, it must stay so for as long as `'a`.
pub(crate) const unsafe fn lend<'a>(fd: c_int) -> Option<BorrowedFd<'a>> {
    if fd < 0 {
        return None;
    }
    // SAFETY: it stays open for the call.
    Some(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// An address of the caller's, whose length comes along with it.
pub(crate) struct Address(*const u8);

impl Address {
    /// # Safety
    /// NULL, or the start of an address that has as many bytes as the caller says with it.
    pub(crate) unsafe fn new(address: *const c_void, what: &str) -> Result<Self, Fail> {
        if address.is_null() { Err(null(what)) } else { Ok(Self(address.cast())) }
    }

    /// Where it leads.
    pub(crate) fn of(self, len: u32) -> Result<Destination, Fail> {
        /// The longest address there is: `struct sockaddr_storage`.
        const LONGEST: u32 = 128;
        if len > LONGEST {
            return Err(Fail::invalid(format!("an address of {len} bytes")));
        }
        // SAFETY: it has so many bytes (see `new`), and is read before the call returns.
        let bytes = unsafe { slice::from_raw_parts(self.0, len as usize) };
        destination(bytes)
    }
}

/// Of an address as the system has it.
fn destination(bytes: &[u8]) -> Result<Destination, Fail> {
    // By their numbers in Linux.
    const UNIX: u16 = 1;
    const INET: u16 = 2;
    const INET6: u16 = 10;
    const VSOCK: u16 = 40;
    let short = || Fail::invalid("an address that is too short");
    let (family, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    match u16::from_ne_bytes(*family) {
        UNIX => match rest {
            [] => Err(short()),
            [0, name @ ..] => Ok(Destination::UnixAbstract(name.to_vec())),
            path => {
                let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                Ok(Destination::Unix(OsStr::from_bytes(path).into()))
            }
        },
        INET => {
            let (port, rest) = rest.split_first_chunk().ok_or_else(short)?;
            let (ip, _) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let ip = IpAddr::V4(Ipv4Addr::from(*ip));
            Ok(Destination::Address(SocketAddr::new(ip, u16::from_be_bytes(*port))))
        }
        INET6 => {
            let (port, rest) = rest.split_first_chunk().ok_or_else(short)?;
            let (flow, rest) = rest.split_first_chunk().ok_or_else(short)?;
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let (scope, _) = rest.split_first_chunk().ok_or_else(short)?;
            let (port, flow) = (u16::from_be_bytes(*port), u32::from_be_bytes(*flow));
            let scope = u32::from_ne_bytes(*scope);
            let address = SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope);
            Ok(Destination::Address(address.into()))
        }
        VSOCK => {
            let (_, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
            let (port, rest) = rest.split_first_chunk().ok_or_else(short)?;
            let (cid, _) = rest.split_first_chunk().ok_or_else(short)?;
            let (cid, port) = (u32::from_ne_bytes(*cid), u32::from_ne_bytes(*port));
            Ok(Destination::Vsock { cid, port })
        }
        family => {
            let text = format!("addresses of family {family} cannot be connected to");
            Err(Fail::new(Errno::AFNOSUPPORT, text))
        }
    }
}

/// As C has it: up to its first NUL, which texts of a server never have.
pub(crate) fn c_text(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(text.get(..end).unwrap_or_default()).unwrap_or_default()
}

/// A copy that the caller frees; NULL when there is no memory.
pub(crate) fn give(text: &str) -> *mut c_char {
    let text = c_text(text);
    let bytes = text.as_bytes_with_nul();
    // SAFETY: any size may be asked for.
    let copy = unsafe { malloc(bytes.len()) }.cast::<u8>();
    if !copy.is_null() {
        // SAFETY: the copy is new and has as many bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len()) };
    }
    copy.cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let address = |family: u16, rest: &[u8]| {
            let mut bytes = family.to_ne_bytes().to_vec();
            bytes.extend_from_slice(rest);
            destination(&bytes)
        };
        let tcp = address(2, &[0x2a, 0x39, 127, 0, 0, 1]).unwrap();
        assert!(matches!(tcp, Destination::Address(a) if a.to_string() == "127.0.0.1:10809"));
        let unix = address(1, b"/run/nbd\0rest").unwrap();
        assert!(matches!(unix, Destination::Unix(path) if path.as_os_str() == "/run/nbd"));
        let hidden = address(1, b"\0name").unwrap();
        assert!(matches!(hidden, Destination::UnixAbstract(name) if name == b"name"));
        assert!(address(2, &[0x2a]).is_err() && destination(&[]).is_err());
        assert_eq!(address(99, &[0; 30]).unwrap_err().errno(), Errno::AFNOSUPPORT.raw_os_error());
    }
}
