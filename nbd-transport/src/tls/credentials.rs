//! Credentials in files or in memory.

use super::config_error::{CredentialsFault, Origin, TlsConfigError};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that is read of one file, in bytes. System-wide stores take less than a megabyte.
const MAX_FILE: u64 = 16 << 20;

/// Certificates, a key, or revocation lists: where they are, or they themselves.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A file in PEM form.
    File(PathBuf),
    /// Text in PEM form.
    Pem(Vec<u8>),
    /// Each in DER form. There is only one key, in any of the forms PKCS #8, PKCS #1 and SEC1;
    /// of certificates, that of the host comes first.
    Der(Vec<Vec<u8>>),
}

/// They may be a secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Pem(_) => f.debug_tuple("Pem").finish_non_exhaustive(),
            Self::Der(_) => f.debug_tuple("Der").finish_non_exhaustive(),
        }
    }
}

/// Reads a whole file, unless it is far too long for what it should be.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| TlsConfigError::Unreadable { what, path: path.to_owned(), error })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(TlsConfigError::Credentials {
            origin: Origin::File(path.to_owned()),
            fault: CredentialsFault::TooLong(MAX_FILE),
        });
    }
    Ok(bytes)
}

/// The files of a directory of credentials, by the names that other NBD programs use.
pub(super) const CA: &str = "ca-cert.pem";
pub(super) const CRL: &str = "ca-crl.pem";

/// A file of the directory, if it is there.
pub(super) fn optional(dir: &Path, name: &str) -> Result<Option<Credentials>, TlsConfigError> {
    let path = dir.join(name);
    match path.try_exists() {
        Ok(true) => Ok(Some(Credentials::File(path))),
        Ok(false) => Ok(None),
        Err(error) => Err(TlsConfigError::Unreadable { what: "the file", path, error }),
    }
}

/// A certificate and its key, in two files of the directory: both or none.
pub(super) fn pair(
    dir: &Path,
    certificate: &str,
    key: &str,
) -> Result<Option<(Credentials, Credentials)>, TlsConfigError> {
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
