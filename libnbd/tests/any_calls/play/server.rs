//! What a server says that is in order: one of fixed newstyle without TLS and extended headers,
//! but with structured replies, and an export of 64 KiB that can do everything.

pub(super) const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
pub(super) const NO_EXTENDED_HEADERS: &[u8] =
    b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0b\x80\0\0\x01\0\0\0\0";
pub(super) const STRUCTURED: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0";
pub(super) const CONTEXT: &[u8] =
    b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x04\0\0\0\x13\0\0\0\x01base:allocation\
    \0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x01\0\0\0\0";
pub(super) const EXPORT: &[u8] =
    b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\x01\0\0\x07\xfd";
pub(super) const GONE: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0";
