//! What is wrong with credentials. All of it is found before any connection is made.

use super::CertificateFault;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// What is wrong with credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    #[error("cannot read {what} {}: {error}", path.display())]
    Unreadable {
        /// What the file should contain.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file or what was given in its place does not contain what it should.
    #[error("{origin} {fault}")]
    Credentials {
        /// The file, or what was given in its place.
        origin: Origin,
        /// What is wrong.
        fault: CredentialsFault,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{} is there but {} is not: both are needed", present.display(), missing.display())]
    Half {
        /// What is there.
        present: PathBuf,
        /// What is not.
        missing: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error("the key in {key} does not belong to the certificate in {certificate}")]
    Mismatch {
        /// Where the certificate is.
        certificate: Origin,
        /// Where the key is.
        key: Origin,
    },
    /// The system's store of trusted authorities is empty or cannot be read.
    #[error("the system has no trusted certificate authorities ({0}); name a directory instead")]
    NoSystemStore(String),
    /// A line of a file of pre-shared keys is wrong.
    #[error("{}, line {line}: {fault}", path.display())]
    PskLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        fault: PskFault,
    },
    /// A file of pre-shared keys has no key for the user.
    #[error("{} has no key for user {username:?}", path.display())]
    PskUser {
        /// The file.
        path: PathBuf,
        /// The user.
        username: String,
    },
    /// A pre-shared key given by the caller is wrong.
    #[error("the pre-shared key is wrong: {0}")]
    Psk(PskFault),
    /// No user name was given, and the environment does not tell one.
    #[error("whose pre-shared key? Give a user name (neither LOGNAME nor /etc/passwd tells one)")]
    NoUsername,
    /// What the server's certificate is to be compared with is no name.
    #[error("{0:?} is neither a host name nor an IP address that a certificate could name")]
    ServerName(String),
    /// To verify clients takes an authority to verify them with.
    #[error("clients cannot be verified without a CA certificate")]
    NoClientAuthority,
    /// This program was built without what it takes.
    #[error(
        "this program was built without {what}: build it with feature `{feature}` of \
         nbd-transport, which nbd-cli, nbd-server and the client crates have by the same \
         name{needs}"
    )]
    NotBuilt {
        /// What is missing.
        what: &'static str,
        /// The feature that has it.
        feature: &'static str,
        /// What that needs in turn.
        needs: &'static str,
    },
    /// The library that does TLS failed.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
}

#[cfg(not(feature = "x509"))]
pub(super) const fn no_certificates() -> TlsConfigError {
    TlsConfigError::NotBuilt { what: "TLS with certificates", feature: "tls", needs: "" }
}

#[cfg(not(feature = "psk"))]
pub(super) const fn no_keys() -> TlsConfigError {
    TlsConfigError::NotBuilt {
        what: "TLS with pre-shared keys",
        feature: "psk",
        needs: "; it needs the files for developers of OpenSSL (libssl-dev)",
    }
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// The memory of the caller; what it should contain.
    Memory(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory(what) => write!(f, "{what} that was given"),
        }
    }
}

/// What is wrong with certificates, a key or revocation lists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsFault {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// There is something, but not what is needed.
    #[error("contains no {0} in PEM form")]
    Without(&'static str),
    /// There is something else.
    #[error("contains no {wanted} in PEM form but {found}")]
    Other {
        /// What is needed.
        wanted: &'static str,
        /// What is there, by the lines with which it begins.
        found: String,
    },
    /// It is binary.
    #[error(
        "contains no {0} in PEM form but bytes; if they are DER, `openssl` with `-inform der` converts them"
    )]
    Binary(&'static str),
    /// What begins does not end.
    #[error("is cut off: the line -----END {0}----- is missing")]
    CutOff(String),
    /// What is between the first and the last line is not base64.
    #[error("is damaged: what is between its BEGIN and its END is not base64")]
    NotBase64,
    /// Far more than credentials ever take.
    #[error("is longer than {0} bytes")]
    TooLong(u64),
    /// The key is protected by a password.
    #[error("is encrypted; remove its password, for example with `openssl pkey`")]
    EncryptedKey,
    /// There are several keys where one belongs, or none.
    #[error("has {0} keys, and not one")]
    ManyKeys(usize),
    /// The key is of a kind that is not accepted.
    #[error("is {kind}, which is not accepted; {}", super::ACCEPTED_KEYS)]
    WeakKey {
        /// The kind.
        kind: String,
    },
    /// It is damaged, or something else by another name.
    #[error("is damaged, or no {0} at all")]
    Damaged(&'static str),
    /// The certificate cannot be used.
    #[error("cannot be used: {0}")]
    Certificate(CertificateFault),
    /// It cannot be used for another reason.
    #[error("cannot be used: {0}")]
    Invalid(String),
}

/// What is wrong with a pre-shared key or its user's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PskFault {
    /// No colon.
    #[error("not of the form username:hexkey")]
    NoColon,
    /// Not UTF-8, or with NUL in it.
    #[error("not text")]
    NotText,
    /// The name is empty.
    #[error("the user name is empty")]
    NoName,
    /// The name is too long.
    #[error("the user name is longer than {} bytes", super::psk::MAX_NAME)]
    LongName,
    /// The key is empty.
    #[error("the key is empty")]
    NoKey,
    /// The key is too long.
    #[error("the key is longer than {} bytes", super::psk::MAX_KEY)]
    LongKey,
    /// The key is not in hexadecimal form.
    #[error("the key is not an even number of hexadecimal digits")]
    NotHex,
}
