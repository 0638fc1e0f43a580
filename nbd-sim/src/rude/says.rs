//! The messages of a client that breaks rules, written by hand: nothing here checks
//! what it writes.

use crate::hostile::bytes::{join, opt};

/// `NBD_OPT_ABORT`.
pub const ABORT: u32 = 2;
/// `NBD_OPT_PEEK_EXPORT`, which was withdrawn.
pub const PEEK_EXPORT: u32 = 4;

/// `NBD_CMD_READ`.
pub const READ: u16 = 0;
/// `NBD_CMD_WRITE`.
pub const WRITE: u16 = 1;
/// `NBD_CMD_DISC`.
pub const DISC: u16 = 2;
/// `NBD_CMD_FLUSH`.
pub const FLUSH: u16 = 3;
/// `NBD_CMD_TRIM`.
pub const TRIM: u16 = 4;
/// `NBD_CMD_CACHE`.
pub const CACHE: u16 = 5;
/// `NBD_CMD_WRITE_ZEROES`.
pub const WRITE_ZEROES: u16 = 6;
/// `NBD_CMD_BLOCK_STATUS`.
pub const BLOCK_STATUS: u16 = 7;

/// `NBD_CMD_FLAG_PAYLOAD_LEN`.
pub const PAYLOAD_LEN: u16 = 0x20;

/// The cookie of the requests.
pub const COOKIE: u64 = u64::from_be_bytes(*b"a cookie");

/// Sound client flags.
#[must_use]
pub fn flags() -> Vec<u8> {
    3u32.to_be_bytes().to_vec()
}

/// An option whose length field says `length`.
#[must_use]
pub fn option_claim(option: u32, length: u32, data: &[u8]) -> Vec<u8> {
    join(&[b"IHAVEOPT", &option.to_be_bytes(), &length.to_be_bytes(), data])
}

/// An option.
#[must_use]
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    option_claim(option, data.len() as u32, data)
}

/// `NBD_OPT_EXPORT_NAME`.
#[must_use]
pub fn export_name(name: &[u8]) -> Vec<u8> {
    option(opt::EXPORT_NAME, name)
}

/// `NBD_OPT_GO`, asking for nothing.
#[must_use]
pub fn go(name: &[u8]) -> Vec<u8> {
    option(opt::GO, &join(&[&(name.len() as u32).to_be_bytes(), name, &[0, 0]]))
}

/// `NBD_OPT_SET_META_CONTEXT` of the default export with one query.
#[must_use]
pub fn set_context() -> Vec<u8> {
    let query = b"base:allocation";
    let count = 1u32.to_be_bytes();
    let data = join(&[&[0; 4], &count, &(query.len() as u32).to_be_bytes(), query]);
    option(opt::SET_META_CONTEXT, &data)
}

/// The header of a request, compact or extended.
#[must_use]
pub fn request(
    extended: bool,
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    length: u64,
) -> Vec<u8> {
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let length = length.to_be_bytes();
    join(&[
        &magic.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        if extended { &length } else { &length[4..] },
    ])
}

/// A compact request with flags.
#[must_use]
pub fn flagged(flags: u16, kind: u16, offset: u64, length: u32) -> Vec<u8> {
    request(false, flags, kind, COOKIE, offset, u64::from(length))
}

/// A compact request.
#[must_use]
pub fn compact(kind: u16, offset: u64, length: u32) -> Vec<u8> {
    flagged(0, kind, offset, length)
}
