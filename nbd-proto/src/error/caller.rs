//! What a caller did wrong, or is told about one command.

use super::ReplyFault;
use crate::errno::Errno;

/// The caller broke the contract of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiMisuse {
    /// More bytes were reported as received than were asked for.
    #[error("more bytes reported as received than there was room for")]
    ReceivedTooMuch,
    /// More bytes were reported as sent than were offered.
    #[error("more bytes reported as sent than were offered")]
    SentTooMuch,
    /// The source has no bytes for a write that is due to be sent.
    #[error("no payload for a write that is due to be sent")]
    PayloadMissing,
    /// An option was asked for while another one is under way, or outside the
    /// negotiation.
    #[error("no option can be sent in this state")]
    WrongState,
    /// A name or query is longer than 4096 bytes.
    #[error("a name or query longer than 4096 bytes")]
    NameTooLong,
    /// A name or query contains NUL.
    #[error("a name or query with NUL in it")]
    BadName,
    /// A meta context whose name has no namespace, that no query asks for, or that was granted
    /// already.
    #[error("a meta context without a namespace, not asked for, or granted twice")]
    BadContext,
    /// Block sizes that make no sense ([`BlockSizes::are_sane`](crate::BlockSizes::are_sane)),
    /// or a minimum beyond [`Limits::max_payload`](crate::Limits::max_payload).
    #[error("block sizes that make no sense")]
    BadBlockSizes,
    /// More meta contexts were granted than the 256 that clients put up with.
    #[error("more than 256 meta contexts")]
    TooManyContexts,
    /// The id names no request, or one in another state.
    #[error("no such request")]
    NoSuchRequest,
    /// The reply does not fit the request.
    #[error("a reply that does not fit the request")]
    WrongReply,
    /// `tls_ready` without an upgrade under way.
    #[error("no upgrade to TLS is under way")]
    NotUpgrading,
    /// The configuration requires TLS, and the connection is in clear.
    #[error(
        "nothing is asked for in clear where TLS is required: start TLS first, or do not require it"
    )]
    TlsRequired,
}

impl ApiMisuse {
    /// The error number a user of libnbd would see.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NameTooLong => Errno::NameTooLong,
            Self::ReceivedTooMuch
            | Self::SentTooMuch
            | Self::PayloadMissing
            | Self::WrongState
            | Self::BadName
            | Self::BadContext
            | Self::BadBlockSizes
            | Self::TooManyContexts
            | Self::NoSuchRequest
            | Self::WrongReply
            | Self::NotUpgrading
            | Self::TlsRequired => Errno::Inval,
        }
    }
}

/// Why one command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The server said so.
    #[error("server error: {0}")]
    Server(Errno),
    /// The server's reply broke the protocol.
    #[error("protocol violation by the peer: {0}")]
    Fault(#[from] ReplyFault),
    /// The connection ended before the reply; whether the command had an effect
    /// is unknown.
    #[error("connection lost before the reply")]
    ConnectionLost,
    /// The caller: the [`PayloadSink`](crate::PayloadSink) had no memory for the
    /// data.
    #[error("no memory was given for the data")]
    NoDestination,
}

impl CommandError {
    /// The error number: the server's own, `EPROTO` or `ENOTCONN`.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Server(errno) => *errno,
            Self::Fault(_) => Errno::Proto,
            Self::ConnectionLost => Errno::NotConn,
            Self::NoDestination => Errno::Fault,
        }
    }
}

#[cfg(feature = "std")]
impl From<CommandError> for std::io::Error {
    fn from(error: CommandError) -> Self {
        Self::new(error.errno().into(), error)
    }
}

/// Why a command was not accepted. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many commands are in flight as [`Limits`](crate::Limits) allows; take a completion.
    #[error("too many commands in flight")]
    Full,
    /// The connection is gone.
    #[error("not connected")]
    NotConnected,
    /// A disconnect was asked for, by the caller or by the server's shutdown.
    #[error("the connection is being closed")]
    Disconnecting,
    /// The export is read-only.
    #[error("the export is read-only")]
    ReadOnly,
    /// The export does not offer this command.
    #[error("the server does not support this command for this export")]
    Unsupported,
    /// The export does not offer this flag.
    #[error("the server does not support this flag for this export")]
    UnsupportedFlag,
    /// Block status without structured replies or without meta contexts.
    #[error(
        "block status needs structured replies and a meta context that the server has granted: \
         `meta_context` asks for one while connecting"
    )]
    NoMetaContext,
    /// A flag that this command does not have.
    #[error("a flag that this command does not have")]
    BadFlag,
    /// A length of 0.
    #[error("a length of 0")]
    ZeroLength,
    /// A range beyond the end of the export, for a command that reads.
    #[error("the range reaches beyond the end of the export")]
    OutOfBounds,
    /// A range beyond the end of the export, for a command that writes.
    #[error("the range reaches beyond the end of the export")]
    NoSpace,
    /// Offset or length is no multiple of the minimum block size.
    #[error("offset or length is not a multiple of the minimum block size")]
    Unaligned,
    /// The payload is longer than the server or the limits allow.
    #[error("the payload is too long for one command")]
    PayloadTooLong,
    /// The length needs more bits than the negotiated headers have.
    #[error("the length needs extended headers")]
    LengthTooLong,
    /// A context filter that cannot be sent.
    #[error("the contexts cannot be selected per command on this connection")]
    NoFilter,
    /// A filter names a context that was not negotiated.
    #[error("a meta context that was not negotiated")]
    UnknownContext,
}

impl SubmitError {
    /// The error number a user of libnbd would see.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Full => Errno::Again,
            Self::NotConnected => Errno::NotConn,
            Self::ReadOnly => Errno::Perm,
            Self::NoMetaContext | Self::NoFilter => Errno::NotSup,
            Self::NoSpace => Errno::NoSpc,
            Self::PayloadTooLong | Self::LengthTooLong => Errno::Range,
            Self::Disconnecting
            | Self::Unsupported
            | Self::UnsupportedFlag
            | Self::BadFlag
            | Self::ZeroLength
            | Self::OutOfBounds
            | Self::Unaligned
            | Self::UnknownContext => Errno::Inval,
        }
    }
}

#[cfg(feature = "std")]
impl From<SubmitError> for std::io::Error {
    fn from(error: SubmitError) -> Self {
        Self::new(error.errno().into(), error)
    }
}
