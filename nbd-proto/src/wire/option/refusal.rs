//! Why a server refuses an option.

use core::fmt;

use super::ERROR_BIT;
use crate::errno::Errno;

/// Why a server refused an option (proto.md, "Option reply types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The option is unknown.
    Unsupported,
    /// Forbidden by the server's configuration.
    Policy,
    /// The request was malformed or came at the wrong time.
    Invalid,
    /// Not possible on the server's platform.
    Platform,
    /// TLS must be started first.
    TlsRequired,
    /// No such export.
    UnknownExport,
    /// The server is shutting down.
    Shutdown,
    /// The client must ask for block sizes first.
    BlockSizeRequired,
    /// The request is larger than the server takes.
    TooBig,
    /// Extended headers must be negotiated first.
    ExtendedHeadersRequired,
    /// An error this library does not know: bit 31 is set.
    Other(u32),
}

impl RefusalCode {
    /// Reads a reply type that has the error bit.
    pub(super) const fn from_wire(value: u32) -> Self {
        match value & !ERROR_BIT {
            1 => Self::Unsupported,
            2 => Self::Policy,
            3 => Self::Invalid,
            4 => Self::Platform,
            5 => Self::TlsRequired,
            6 => Self::UnknownExport,
            7 => Self::Shutdown,
            8 => Self::BlockSizeRequired,
            9 => Self::TooBig,
            10 => Self::ExtendedHeadersRequired,
            _ => Self::Other(value),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        ERROR_BIT
            | match self {
                Self::Unsupported => 1,
                Self::Policy => 2,
                Self::Invalid => 3,
                Self::Platform => 4,
                Self::TlsRequired => 5,
                Self::UnknownExport => 6,
                Self::Shutdown => 7,
                Self::BlockSizeRequired => 8,
                Self::TooBig => 9,
                Self::ExtendedHeadersRequired => 10,
                Self::Other(value) => value,
            }
    }

    /// The error number a caller sees.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::Invalid
            | Self::BlockSizeRequired
            | Self::TooBig
            | Self::ExtendedHeadersRequired => Errno::Inval,
            Self::Policy => Errno::Perm,
            Self::UnknownExport => Errno::NoEnt,
            Self::Shutdown => Errno::Shutdown,
            Self::Unsupported | Self::Platform | Self::TlsRequired | Self::Other(_) => {
                Errno::NotSup
            }
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "the server does not support it",
            Self::Policy => "the server's policy forbids it",
            Self::Invalid => "the server calls the request invalid",
            Self::Platform => "not possible on the server's platform",
            Self::TlsRequired => "the server wants TLS first",
            Self::UnknownExport => "the server has no such export",
            Self::Shutdown => "the server is shutting down",
            Self::BlockSizeRequired => "the server wants block sizes to be asked for",
            Self::TooBig => "the request is too large for the server",
            Self::ExtendedHeadersRequired => "the server wants extended headers first",
            Self::Other(code) => return write!(f, "unknown error {code:#010x}"),
        })
    }
}
