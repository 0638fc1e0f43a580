//! Why a TLS session failed.

use super::TlsRole;
use std::fmt;

/// Why a [stage](super::TlsStage) could not hand over what it decrypts.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "TLS fails, or what stands above it")]
pub enum StageError {
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What was decrypted breaks the protocol inside.
    #[error(transparent)]
    Protocol(#[from] nbd_proto::Error),
}

/// Why a TLS session failed. Each one ends the connection: there is no way back to clear text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The caller: both sides agreed on TLS, but there are no credentials for it.
    #[error("TLS was agreed on, but this connection was set up without credentials for it")]
    NotConfigured,
    /// The caller: what the certificate is to be compared with is no name.
    #[error("{0:?} is neither a host name nor an IP address that a certificate could name")]
    ServerName(String),
    /// The caller: the server has no name, and by its own configuration the library wants one.
    #[error("there is no name that the server's certificate could be compared with: give one")]
    NoServerName,
    /// The peer's certificate is not accepted.
    #[error("the {peer}'s certificate is not accepted: {fault}")]
    Certificate {
        /// Whose certificate it is.
        peer: TlsRole,
        /// What is wrong with it.
        fault: CertificateFault,
    },
    /// The peer ended the session with an alert.
    #[error("the {peer} refused: {reason}")]
    Alert {
        /// Who refused.
        peer: TlsRole,
        /// The alert in words.
        reason: String,
    },
    /// The peer closed the connection before the handshake was done, without an alert.
    #[error("the {peer} closed the connection during the TLS handshake: {suspicion}")]
    ClosedInHandshake {
        /// Who closed.
        peer: TlsRole,
        /// What it may have been displeased with.
        suspicion: &'static str,
    },
    /// The peer closed the connection right after the handshake, without an alert.
    #[error("the {peer} closed the connection right after the TLS handshake: {suspicion}")]
    ClosedAfterHandshake {
        /// Who closed.
        peer: TlsRole,
        /// What it may have been displeased with.
        suspicion: &'static str,
    },
    /// The stream ended without the mark that tells an end from a truncation.
    #[error("the TLS stream was cut off (it ended without close_notify)")]
    Truncated,
    /// The peer sent something that is not TLS, or not what TLS allows.
    #[error("the {peer} broke the TLS protocol: {reason}")]
    Misbehaved {
        /// Who did.
        peer: TlsRole,
        /// What it did.
        reason: String,
    },
    /// No protocol version, cipher suite or key exchange in common.
    #[error("TLS is impossible with this {peer}: {reason}")]
    Incompatible {
        /// The other side.
        peer: TlsRole,
        /// What is missing.
        reason: String,
    },
    /// The handshake went through without a proof that the peer knows the key.
    #[error("the {peer} did not prove that it knows the pre-shared key")]
    NotByKey {
        /// Who did not.
        peer: TlsRole,
    },
    /// The library that does TLS failed.
    #[error("TLS failed: {0}")]
    Library(String),
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateFault {
    /// There is none, and one is required.
    Missing,
    /// No trusted authority has signed it.
    UnknownIssuer,
    /// An authority of that name is trusted, but another one of the same name has signed it.
    BadSignature,
    /// It names others.
    WrongName {
        /// The name that was looked for.
        expected: String,
        /// The names in it, made safe to show.
        offered: Vec<String>,
    },
    /// Its time is over.
    Expired {
        /// Since how many seconds, if it is known.
        seconds: Option<u64>,
    },
    /// Its time is to come.
    NotYetValid {
        /// In how many seconds, if it is known.
        seconds: Option<u64>,
    },
    /// Its issuer has revoked it.
    Revoked,
    /// It is not meant for this end of a connection.
    WrongPurpose,
    /// It is an authority's, not a host's.
    IsAuthority,
    /// It has the address that was looked for, but as a host name.
    AddressAsName {
        /// The address.
        address: String,
    },
    /// It is of the first version of X.509, or the second.
    OldVersion,
    /// Its signature, or that of one between it and the authority, is not secure.
    WeakSignature {
        /// How it is signed.
        algorithm: String,
    },
    /// Its key is not secure, or of an unusual kind.
    WeakKey {
        /// What kind of key it is.
        key: String,
    },
    /// Whoever shows it did not prove that it has its key.
    NotItsKey,
    /// It has an extension that must be understood and is not.
    UnknownExtension,
    /// It is no certificate, or a broken one.
    Damaged,
    /// Anything else.
    Other(String),
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none, and one is required"),
            Self::UnknownIssuer => {
                f.write_str("no authority that is trusted here has signed it (wrong CA?)")
            }
            Self::BadSignature => f.write_str(
                "the authority of that name that is trusted here has not signed it (wrong CA?), \
                 or has too weak a key",
            ),
            Self::WrongName { expected, offered } if offered.is_empty() => write!(
                f,
                "it is not for {expected:?}: it has no subjectAltName for hosts, and the common \
                 name does not count"
            ),
            Self::WrongName { expected, offered } => {
                write!(f, "it is not for {expected:?} but for {}", offered.join(", "))
            }
            Self::Expired { seconds } => {
                f.write_str("it has expired")?;
                match seconds {
                    Some(seconds) => write!(f, " {} ago", Span(*seconds)),
                    None => Ok(()),
                }
            }
            Self::NotYetValid { seconds } => {
                f.write_str("it is not valid yet")?;
                match seconds {
                    Some(seconds) => write!(f, ", only in {}", Span(*seconds)),
                    None => Ok(()),
                }
            }
            Self::Revoked => f.write_str("it is revoked"),
            Self::WrongPurpose => f.write_str("its extended key usage does not allow this use"),
            Self::IsAuthority => {
                f.write_str("it is a CA certificate, which cannot be that of a host")
            }
            Self::AddressAsName { address } => write!(
                f,
                "it has {address} as a host name and not as an address; have it issued with \
                 IP:{address} in its subjectAltName"
            ),
            Self::OldVersion => f.write_str(
                "it is of X.509 version 1; have it issued as version 3, with a subjectAltName",
            ),
            Self::WeakSignature { algorithm } => write!(
                f,
                "it, or one between it and the authority, is signed with {algorithm}, which is \
                 not accepted; have it signed anew with SHA-256"
            ),
            Self::WeakKey { key } => {
                write!(f, "it has {key}, which is not accepted; {}", super::ACCEPTED_KEYS)
            }
            Self::NotItsKey => f.write_str("the proof that its key is there does not fit it"),
            Self::UnknownExtension => {
                f.write_str("it has a critical extension that is not known here")
            }
            Self::Damaged => f.write_str("it is damaged, or no certificate at all"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

/// A time span in the largest unit that tells enough.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match self.0 {
            seconds @ 0..=119 => (seconds, "seconds"),
            seconds @ 120..=7199 => (seconds / 60, "minutes"),
            seconds @ 7200..=172_799 => (seconds / 3600, "hours"),
            seconds => (seconds / 86400, "days"),
        };
        write!(f, "{count} {unit}")
    }
}

/// An alert in words, by its number (RFC 8446, 6.2). `ours` names what we showed to the peer.
#[cfg(any(feature = "x509", feature = "psk"))]
pub(super) fn describe_alert(code: u8, ours: &str) -> String {
    match code {
        40 => format!("no protocol version, cipher suite or key in common, or {ours} is wrong"),
        42..=46 => format!("it does not accept our certificate ({})", alert_name(code)),
        48 => String::from("it does not know the CA of our certificate"),
        49 => format!("{ours} gives no access"),
        51 => format!("a signature or key does not fit (wrong {ours}?)"),
        70 | 86 => String::from("it takes neither TLS 1.2 nor TLS 1.3, and no other is used here"),
        71 => String::from("it wants better ciphers than there are here"),
        115 => format!("it does not know {ours}"),
        116 => String::from("it requires a client certificate, and there is none here"),
        _ => alert_name(code).to_owned(),
    }
}

#[cfg(any(feature = "x509", feature = "psk"))]
const fn alert_name(code: u8) -> &'static str {
    match code {
        0 => "close notify",
        10 => "unexpected message",
        20 => "bad record MAC",
        22 => "record overflow",
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "certificate revoked",
        45 => "certificate expired",
        46 => "certificate unknown",
        47 => "illegal parameter",
        50 => "decode error",
        80 => "internal error",
        90 => "user canceled",
        100 => "no renegotiation",
        109 => "missing extension",
        110 => "unsupported extension",
        112 => "unrecognized name",
        _ => "an alert of another kind",
    }
}
