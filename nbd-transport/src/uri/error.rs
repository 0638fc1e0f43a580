//! What can be wrong with a URI, in words and as an errno.

use rustix::io::Errno;
use thiserror::Error;

/// Longest text accepted in one part of a URI, in bytes after decoding.
///
/// The protocol limits names to 4096 bytes (proto.md, "Values": "String values"), and that is
/// also the longest path a system call takes, so one limit serves every part.
pub const MAX_PART_LEN: usize = 4096;

/// Longest URI accepted, in bytes. Every part at its limit and fully percent-encoded still fits.
pub const MAX_URI_LEN: usize = 128 * 1024;

/// A URI that cannot be used. The caller erred; nothing has been connected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// There is no `scheme://` at the start.
    #[error("{input:?} is not an NBD URI: {hint}")]
    MissingScheme {
        /// The text given, shortened.
        input: String,
        /// What was probably meant.
        hint: String,
    },
    /// The scheme is not one of the eight this library knows.
    #[error(
        "unknown URI scheme {0:?}: use nbd, nbds, nbd+unix, nbds+unix, nbd+vsock, nbds+vsock, \
         nbd+ssh or nbds+ssh"
    )]
    UnknownScheme(String),
    /// A character which RFC 3986 does not allow where it stands.
    #[error("{found:?} at byte {index} of the URI is not allowed there: percent-encode it")]
    Character {
        /// The character.
        found: char,
        /// Where it is, in bytes from the start of the URI.
        index: usize,
    },
    /// The URI ends where something must follow.
    #[error("the URI ends too early")]
    Truncated,
    /// A `%` which two hexadecimal digits do not follow.
    #[error("\"%\" at byte {index} of the URI is not followed by two hexadecimal digits")]
    PercentEncoding {
        /// Where it is, in bytes from the start of the URI.
        index: usize,
    },
    /// The text between brackets is not an IPv6 address.
    #[error("{0:?} is not an IPv6 address: write it as [2001:db8::1] or [fe80::1%25eth0]")]
    Ipv6(String),
    /// The URI has a `#fragment`, for which NBD has no use.
    #[error("an NBD URI has no fragment: write \"#\" in a name as %23")]
    Fragment,
    /// The user information holds a password, for which NBD has no use.
    #[error("an NBD URI carries no password: write \":\" in a user name as %3A")]
    Password,
    /// A part is not UTF-8 once decoded.
    #[error("the {part} is not UTF-8")]
    NotUtf8 {
        /// Which part.
        part: &'static str,
    },
    /// A part contains a NUL character.
    #[error("the {part} contains a NUL character")]
    Nul {
        /// Which part.
        part: &'static str,
    },
    /// A part must not be empty.
    #[error("the {part} is empty")]
    Empty {
        /// Which part.
        part: &'static str,
    },
    /// A part is longer than allowed.
    #[error("the {part} has {len} bytes, more than the {max} allowed")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A port, a context id or a boolean cannot be read.
    #[error("{value:?} is not a valid {part}: expected {expected}")]
    Value {
        /// Which part.
        part: &'static str,
        /// The text given.
        value: String,
        /// What would be valid.
        expected: &'static str,
    },
    /// A scheme needs something the URI does not give.
    #[error("a {scheme} URI needs {what}")]
    Missing {
        /// The scheme as written in the canonical form.
        scheme: &'static str,
        /// What is missing, with an example.
        what: &'static str,
    },
    /// A part is meaningless for the scheme.
    #[error("{part} cannot be used in a {scheme} URI")]
    Misplaced {
        /// The scheme as written in the canonical form.
        scheme: &'static str,
        /// The part that does not belong.
        part: &'static str,
    },
    /// A host or user name which `ssh` could take for an option or hand to a shell.
    #[error(
        "the {part} {value:?} starts with \"-\" or holds a character special to a shell: ssh could \
         take it for an option or run it"
    )]
    SshUnsafe {
        /// Which part.
        part: &'static str,
        /// The text given.
        value: String,
    },
    /// A query parameter nobody knows (uri.md: such parameters "SHOULD be diagnosed").
    #[error("unknown query parameter {0:?}: prefix experimental ones with \"x-\"")]
    UnknownParameter(String),
    /// A query parameter which other clients know and this one does not offer.
    #[error("query parameter {name:?} is not supported: {instead}")]
    Unsupported {
        /// The parameter.
        name: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The endpoint cannot be written as a URI.
    #[error("{0} has no URI")]
    NoUri(String),
    /// The policy does not allow the URI.
    #[error("the URI policy does not allow {what}")]
    Policy {
        /// What is not allowed.
        what: &'static str,
    },
}

impl UriError {
    /// The errno that a C interface would report: `EPERM` for a violation of the policy,
    /// `ENAMETOOLONG` for a text too long, `ENOTSUP` for a known but unsupported parameter and
    /// `EINVAL` for the rest.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        let errno = match self {
            Self::Policy { .. } => Errno::PERM,
            Self::TooLong { .. } => Errno::NAMETOOLONG,
            Self::Unsupported { .. } => Errno::NOTSUP,
            Self::MissingScheme { .. }
            | Self::UnknownScheme(_)
            | Self::Character { .. }
            | Self::Truncated
            | Self::PercentEncoding { .. }
            | Self::Ipv6(_)
            | Self::Fragment
            | Self::Password
            | Self::NotUtf8 { .. }
            | Self::Nul { .. }
            | Self::Empty { .. }
            | Self::Value { .. }
            | Self::Missing { .. }
            | Self::Misplaced { .. }
            | Self::SshUnsafe { .. }
            | Self::UnknownParameter(_)
            | Self::NoUri(_) => Errno::INVAL,
        };
        errno.raw_os_error()
    }
}

/// The start of `text`, short enough for an error message.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
