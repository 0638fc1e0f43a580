//! What was agreed on in a TLS handshake.

use nbd_proto::escape;
use std::fmt;

/// A protocol version. Older ones are never agreed on (proto.md, "TLS versions").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

/// How the peer proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsPeer {
    /// It did not: a client without a certificate.
    Anonymous,
    /// By a certificate. Whether it was verified is a matter of the configuration.
    Certificate {
        /// The certificate in DER form.
        der: Vec<u8>,
        /// The host names in it, as they stand there: `*.disk.example` may be among them.
        names: Vec<String>,
    },
    /// By knowing the key of this user, as we did.
    PresharedKey {
        /// The user's name.
        username: String,
    },
}

/// What was agreed on in a TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The protocol version.
    pub version: TlsVersion,
    /// The cipher suite by the name its library has for it, such as
    /// `TLS13_AES_256_GCM_SHA384` or `TLS_AES_128_GCM_SHA256`.
    pub cipher_suite: String,
    /// Who the peer is.
    pub peer: TlsPeer,
}

impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.version, self.cipher_suite)?;
        match &self.peer {
            TlsPeer::Anonymous => Ok(()),
            TlsPeer::Certificate { .. } => f.write_str(", by certificate"),
            TlsPeer::PresharedKey { username } => {
                write!(f, ", by the key of {}", escape(username.as_bytes()))
            }
        }
    }
}

/// Which end a machine is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two ends")]
pub enum TlsRole {
    /// The one that connected.
    Client,
    /// The one that was connected to.
    Server,
}

impl TlsRole {
    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl fmt::Display for TlsRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}
