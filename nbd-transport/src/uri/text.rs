//! Percent-decoding of one part of a URI, and the checks every part shares.

use super::error::{MAX_PART_LEN, UriError};
use percent_encoding::percent_decode_str;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Decodes `raw` to bytes.
pub(super) fn decode_bytes(raw: &str) -> Vec<u8> {
    percent_decode_str(raw).collect()
}

/// Decodes `raw` to text.
pub(super) fn decode(part: &'static str, raw: &str) -> Result<String, UriError> {
    String::from_utf8(decode_bytes(raw)).map_err(|_| UriError::NotUtf8 { part })
}

/// A path is bytes, in no particular encoding.
pub(super) fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// The bytes of a path.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    OsStr::as_bytes(path.as_os_str())
}

/// Checks a part which may be empty.
pub(super) fn check(part: &'static str, bytes: &[u8]) -> Result<(), UriError> {
    if bytes.len() > MAX_PART_LEN {
        return Err(UriError::TooLong { part, len: bytes.len(), max: MAX_PART_LEN });
    }
    if bytes.contains(&0) {
        return Err(UriError::Nul { part });
    }
    Ok(())
}

/// Checks a part which must not be empty.
pub(super) fn check_given(part: &'static str, bytes: &[u8]) -> Result<(), UriError> {
    if bytes.is_empty() {
        return Err(UriError::Empty { part });
    }
    check(part, bytes)
}
