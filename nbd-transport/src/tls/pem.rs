//! Credentials in files or in memory.

use super::config_error::{Origin, PemFault, TlsConfigError};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that is read of one file, in bytes. System-wide stores take less than a megabyte.
const MAX_FILE: u64 = 16 << 20;

/// Certificates, keys or revocation lists in PEM form.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// To be read from a file.
    File(PathBuf),
    /// The text itself.
    Text(Vec<u8>),
}

/// The text may be a secret.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.debug_tuple("Text").finish_non_exhaustive(),
        }
    }
}

#[cfg(feature = "x509")]
impl Pem {
    /// The text, and where it comes from.
    pub(super) fn load(&self, what: &'static str) -> Result<(Vec<u8>, Origin), TlsConfigError> {
        let (text, origin) = match self {
            Self::File(path) => (read(what, path)?, Origin::File(path.clone())),
            Self::Text(text) => (text.clone(), Origin::Memory(what)),
        };
        if text.trim_ascii().is_empty() {
            let fault = PemFault::Empty;
            return Err(TlsConfigError::Pem { origin, fault });
        }
        Ok((text, origin))
    }
}

/// Reads a whole file, unless it is far too long for what it should be.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|source| TlsConfigError::Unreadable { what, path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(TlsConfigError::Pem {
            origin: Origin::File(path.to_owned()),
            fault: PemFault::TooLong(MAX_FILE),
        });
    }
    Ok(bytes)
}

/// The files of a directory of credentials, by the names that other NBD programs use.
pub(super) const CA: &str = "ca-cert.pem";
pub(super) const CRL: &str = "ca-crl.pem";

/// A file of the directory, if it is there.
pub(super) fn optional(dir: &Path, name: &str) -> Result<Option<Pem>, TlsConfigError> {
    let path = dir.join(name);
    match path.try_exists() {
        Ok(true) => Ok(Some(Pem::File(path))),
        Ok(false) => Ok(None),
        Err(source) => Err(TlsConfigError::Unreadable { what: "the file", path, source }),
    }
}

/// A certificate and its key, in two files of the directory: both or none.
pub(super) fn pair(
    dir: &Path,
    certificate: &str,
    key: &str,
) -> Result<Option<(Pem, Pem)>, TlsConfigError> {
    match (optional(dir, certificate)?, optional(dir, key)?) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(TlsConfigError::Half { present: dir.join(certificate), missing: dir.join(key) })
        }
        (None, Some(_)) => {
            Err(TlsConfigError::Half { present: dir.join(key), missing: dir.join(certificate) })
        }
    }
}
