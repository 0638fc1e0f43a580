//! The error numbers a user of NBD meets: those that travel on the wire and
//! those a client raises by itself.

use core::fmt;

/// An error number, named as in `errno.h`.
///
/// The first nine variants are the only values the protocol lets a server send
/// (proto.md, "Error values"); the rest describe failures found on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Errno {
    /// Operation not permitted: above all a write to a read-only export.
    Perm,
    /// Input/output error.
    Io,
    /// Cannot allocate memory.
    NoMem,
    /// Invalid argument. Unknown wire values are read as this one.
    Inval,
    /// No space left on device: above all a write past the end of the export.
    NoSpc,
    /// Value too large: above all a read that cannot be answered in one chunk
    /// though it must not be fragmented.
    Overflow,
    /// Operation not supported: above all a fast zero that would be slow.
    NotSup,
    /// The server is shutting down.
    Shutdown,
    /// The connection is gone, or was never made.
    NotConn,
    /// The peer broke the protocol in a way that spoils this command only.
    Proto,
    /// The request is larger than the protocol or the limits allow.
    Range,
    /// No such export.
    NoEnt,
    /// A name or a query is longer than 4096 bytes.
    NameTooLong,
    /// Nothing arrived within the time the user allowed.
    TimedOut,
    /// No room for one more command at this moment.
    Again,
    /// The caller gave no memory for the data.
    Fault,
}

impl Errno {
    /// The number sent on the wire, if the protocol has one for this error.
    ///
    /// An error that has none travels as `EINVAL`, as the protocol text asks of
    /// whoever receives an unknown value.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::NoMem => 12,
            Self::NoSpc => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
            Self::Inval
            | Self::NotConn
            | Self::Proto
            | Self::Range
            | Self::NoEnt
            | Self::NameTooLong
            | Self::TimedOut
            | Self::Again
            | Self::Fault => 22,
        }
    }

    /// Reads a wire value; `None` for 0, which means success.
    ///
    /// proto.md, "Error values": any value not listed there is treated as `EINVAL`.
    #[must_use]
    pub const fn from_wire(value: u32) -> Option<Self> {
        match value {
            0 => None,
            1 => Some(Self::Perm),
            5 => Some(Self::Io),
            12 => Some(Self::NoMem),
            28 => Some(Self::NoSpc),
            75 => Some(Self::Overflow),
            95 => Some(Self::NotSup),
            108 => Some(Self::Shutdown),
            _ => Some(Self::Inval),
        }
    }

    /// Picks the error that tells a client most about an operating system error
    /// number of Linux, for servers that pass on what their disk said.
    #[must_use]
    pub const fn from_linux(code: i32) -> Self {
        match code {
            // EPERM, EACCES, EROFS
            1 | 13 | 30 => Self::Perm,
            12 => Self::NoMem,
            22 => Self::Inval,
            // ENOSPC, EFBIG, EDQUOT
            28 | 27 | 122 => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Io,
        }
    }

    /// The symbolic name, such as `"EPERM"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::NoMem => "ENOMEM",
            Self::Inval => "EINVAL",
            Self::NoSpc => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSup => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
            Self::NotConn => "ENOTCONN",
            Self::Proto => "EPROTO",
            Self::Range => "ERANGE",
            Self::NoEnt => "ENOENT",
            Self::NameTooLong => "ENAMETOOLONG",
            Self::TimedOut => "ETIMEDOUT",
            Self::Again => "EAGAIN",
            Self::Fault => "EFAULT",
        }
    }

    /// The same error as Linux numbers it. Other systems number some of these
    /// differently; on them translate by [`name`](Self::name).
    #[must_use]
    pub const fn to_linux(self) -> i32 {
        match self {
            Self::Perm => 1,
            Self::NoEnt => 2,
            Self::Io => 5,
            Self::Again => 11,
            Self::NoMem => 12,
            Self::Fault => 14,
            Self::Inval => 22,
            Self::NoSpc => 28,
            Self::Range => 34,
            Self::NameTooLong => 36,
            Self::Proto => 71,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::NotConn => 107,
            Self::Shutdown => 108,
            Self::TimedOut => 110,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "cannot allocate memory",
            Self::Inval => "invalid argument",
            Self::NoSpc => "no space left on device",
            Self::Overflow => "value too large",
            Self::NotSup => "operation not supported",
            Self::Shutdown => "server is shutting down",
            Self::NotConn => "not connected",
            Self::Proto => "protocol error",
            Self::Range => "request too large",
            Self::NoEnt => "no such export",
            Self::NameTooLong => "name too long",
            Self::TimedOut => "timed out",
            Self::Again => "resource temporarily unavailable",
            Self::Fault => "bad address",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.name())
    }
}

#[cfg(feature = "std")]
impl From<Errno> for std::io::ErrorKind {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::Perm => Self::PermissionDenied,
            Errno::NoMem => Self::OutOfMemory,
            Errno::Inval | Errno::Range | Errno::NameTooLong | Errno::Fault => Self::InvalidInput,
            Errno::NoSpc => Self::StorageFull,
            Errno::NotSup => Self::Unsupported,
            Errno::NotConn | Errno::Shutdown => Self::NotConnected,
            Errno::Proto => Self::InvalidData,
            Errno::NoEnt => Self::NotFound,
            Errno::TimedOut => Self::TimedOut,
            Errno::Again => Self::WouldBlock,
            Errno::Io | Errno::Overflow => Self::Other,
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use alloc::string::ToString;
    use std::io::ErrorKind;

    use super::*;

    /// Number on the wire and in Linux, name, words, the kind that `std` has for it.
    #[rustfmt::skip]
    const TABLE: [(Errno, u32, i32, &str, ErrorKind); 16] = [
        (Errno::Perm, 1, 1, "operation not permitted (EPERM)", ErrorKind::PermissionDenied),
        (Errno::Io, 5, 5, "input/output error (EIO)", ErrorKind::Other),
        (Errno::NoMem, 12, 12, "cannot allocate memory (ENOMEM)", ErrorKind::OutOfMemory),
        (Errno::Inval, 22, 22, "invalid argument (EINVAL)", ErrorKind::InvalidInput),
        (Errno::NoSpc, 28, 28, "no space left on device (ENOSPC)", ErrorKind::StorageFull),
        (Errno::Overflow, 75, 75, "value too large (EOVERFLOW)", ErrorKind::Other),
        (Errno::NotSup, 95, 95, "operation not supported (ENOTSUP)", ErrorKind::Unsupported),
        (Errno::Shutdown, 108, 108, "server is shutting down (ESHUTDOWN)", ErrorKind::NotConnected),
        (Errno::NotConn, 22, 107, "not connected (ENOTCONN)", ErrorKind::NotConnected),
        (Errno::Proto, 22, 71, "protocol error (EPROTO)", ErrorKind::InvalidData),
        (Errno::Range, 22, 34, "request too large (ERANGE)", ErrorKind::InvalidInput),
        (Errno::NoEnt, 22, 2, "no such export (ENOENT)", ErrorKind::NotFound),
        (Errno::NameTooLong, 22, 36, "name too long (ENAMETOOLONG)", ErrorKind::InvalidInput),
        (Errno::TimedOut, 22, 110, "timed out (ETIMEDOUT)", ErrorKind::TimedOut),
        (Errno::Again, 22, 11, "resource temporarily unavailable (EAGAIN)", ErrorKind::WouldBlock),
        (Errno::Fault, 22, 14, "bad address (EFAULT)", ErrorKind::InvalidInput),
    ];

    #[test]
    fn every_error_has_its_numbers_and_its_words() {
        for (errno, wire, linux, text, kind) in TABLE {
            assert_eq!(errno.to_wire(), wire, "{errno:?}");
            assert_eq!(errno.to_linux(), linux, "{errno:?}");
            assert_eq!(errno.to_string(), text, "{errno:?}");
            assert_eq!(ErrorKind::from(errno), kind, "{errno:?}");
        }
    }

    #[test]
    fn wire_values_are_those_of_the_protocol_text() {
        for (errno, value, ..) in &TABLE[..8] {
            assert_eq!(Errno::from_wire(*value), Some(*errno));
        }
        assert_eq!(Errno::from_wire(0), None);
        assert_eq!(Errno::from_wire(71), Some(Errno::Inval));
        assert_eq!(Errno::from_wire(u32::MAX), Some(Errno::Inval));
    }

    #[test]
    fn what_a_disk_says_travels_as_what_comes_nearest() {
        for (errno, _, linux, ..) in &TABLE[..8] {
            assert_eq!(Errno::from_linux(*linux), *errno);
        }
        // EACCES, EROFS; EFBIG, EDQUOT; ENOENT, ENXIO, EILSEQ.
        let others = [
            (13, Errno::Perm),
            (30, Errno::Perm),
            (27, Errno::NoSpc),
            (122, Errno::NoSpc),
            (2, Errno::Io),
            (6, Errno::Io),
            (84, Errno::Io),
        ];
        for (linux, errno) in others {
            assert_eq!(Errno::from_linux(linux), errno, "{linux}");
        }
    }
}
