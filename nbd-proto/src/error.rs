//! Errors, sorted by who erred.
//!
//! | type | who erred |
//! |---|---|
//! | [`InvalidMessage`] | the wire: the bytes form no message |
//! | [`PeerMisbehaved`] | the peer: a sound message at the wrong place |
//! | [`PeerIncompatible`] | nobody: the two sides have no common ground |
//! | [`Refusal`] | nobody: the server said no |
//! | [`ApiMisuse`] | the caller |
//! | [`Error::Internal`] | this library |
//! | [`CommandError`] | any of them, but only one command is lost |

use alloc::string::String;
use core::fmt;

use crate::errno::Errno;
use crate::types::RequestId;
use crate::wire::option::{OptionCode, RefusalCode};

/// What ends a connection or a negotiation. Once a machine has returned one, it
/// returns the same again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes form no message of the protocol.
    #[error("invalid message from the peer: {0}")]
    Invalid(#[from] InvalidMessage),
    /// The peer broke a rule.
    #[error("protocol violation by the peer: {0}")]
    Misbehaved(#[from] PeerMisbehaved),
    /// The two sides cannot work together.
    #[error("incompatible peer: {0}")]
    Incompatible(#[from] PeerIncompatible),
    /// The server refused what the connection needs.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caller broke the contract of the machine.
    #[error("wrong use of the library: {0}")]
    Misuse(#[from] ApiMisuse),
    /// The library contradicts itself: neither the peer nor the caller is to blame. Nothing
    /// it could say would be certain any more, so the connection ends.
    #[error("a fault of this library, which deserves a report: {0}")]
    Internal(&'static str),
}

/// What cannot be has come to pass. A build with debug assertions stops here; any other ends
/// the connection and says why, rather than go on with a stream it has lost.
#[cold]
pub(crate) fn internal(what: &'static str) -> Error {
    broken(what);
    Error::Internal(what)
}

/// The same where nothing can be returned, and nothing is lost by going on.
#[cold]
pub(crate) fn broken(what: &'static str) {
    debug_assert!(false, "{what}");
}

impl Error {
    /// The error number that commands of a dead connection and failed attempts
    /// to connect are reported with.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Invalid(_) => Errno::Proto,
            Self::Misbehaved(PeerMisbehaved::Closed | PeerMisbehaved::ClosedMidMessage) => {
                Errno::NotConn
            }
            Self::Misbehaved(_) => Errno::Proto,
            Self::Incompatible(_) => Errno::NotSup,
            Self::Refused(refusal) => refusal.code.errno(),
            Self::Misuse(misuse) => misuse.errno(),
            Self::Internal(_) => Errno::Io,
        }
    }

    /// Whether another connection may do better: this one was closed without a reason, or
    /// the server said that it is shutting down. A peer that broke the protocol, or said no,
    /// would do so again.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Misbehaved(fault) => {
                matches!(fault, PeerMisbehaved::Closed | PeerMisbehaved::ClosedMidMessage)
            }
            Self::Refused(refusal) => matches!(refusal.code, RefusalCode::Shutdown),
            Self::Invalid(_) | Self::Incompatible(_) | Self::Misuse(_) | Self::Internal(_) => false,
        }
    }
}

#[cfg(feature = "std")]
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Misbehaved(PeerMisbehaved::Closed | PeerMisbehaved::ClosedMidMessage) => {
                std::io::ErrorKind::UnexpectedEof
            }
            _ => error.errno().into(),
        };
        Self::new(kind, error)
    }
}

/// The bytes form no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// The first bytes are not `NBDMAGIC`.
    #[error("not an NBD server (it does not start with NBDMAGIC)")]
    NotNbd,
    /// The second magic number is neither of the two known ones.
    #[error("unknown second magic number in the greeting")]
    GreetingMagic,
    /// Handshake flags where oldstyle has only transmission flags.
    #[error("oldstyle greeting with bits set that only newstyle has")]
    OldstyleFlags,
    /// An option request does not start with `IHAVEOPT`.
    #[error("wrong magic number in an option request")]
    OptionMagic,
    /// An option reply does not start with its magic number.
    #[error("wrong magic number in an option reply")]
    OptionReplyMagic,
    /// A request does not start with the magic number that was agreed on.
    #[error("wrong magic number in a request")]
    RequestMagic,
    /// A reply starts with no known magic number.
    #[error("wrong magic number in a reply")]
    ReplyMagic,
    /// A field reaches beyond the end of its message.
    #[error("a field reaches beyond the end of its message")]
    Truncated,
    /// Bytes are left over after the last field.
    #[error("bytes left over at the end of a message")]
    TrailingBytes,
    /// A string is longer than 4096 bytes.
    #[error("a string longer than 4096 bytes")]
    StringTooLong,
    /// A string is not UTF-8 or contains NUL.
    #[error("a string that is not UTF-8 or contains NUL")]
    NotText,
    /// A meta context's name has no namespace.
    #[error("a meta context whose name has no namespace")]
    ContextName,
    /// A chunk's length is impossible for its type.
    #[error("a reply chunk whose length does not fit its type")]
    ChunkLength,
    /// An error chunk's message is longer than the chunk.
    #[error("an error message longer than the chunk that carries it")]
    ErrorMessageLength,
    /// The number of extents does not fit the chunk's length.
    #[error("a block status count that does not fit the chunk's length")]
    ExtentCount,
}

/// The peer broke a rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// The connection ended between two messages while something was expected.
    #[error("the connection was closed")]
    Closed,
    /// The connection ended inside a message.
    #[error("the connection was closed in the middle of a message")]
    ClosedMidMessage,
    /// An option reply that names another option.
    #[error("a reply to an option that was not asked for")]
    WrongOption,
    /// An option reply of a kind this option does not have.
    #[error("an option reply of the wrong kind")]
    WrongReplyType,
    /// An acknowledgement with data.
    #[error("an acknowledgement that carries data")]
    AckWithData,
    /// An option reply, a message or a request beyond [`Limits`](crate::Limits).
    #[error("a message longer than the limit")]
    TooLong,
    /// More replies to one option than [`Limits`](crate::Limits) allows.
    #[error("more replies to one option than the limit")]
    TooManyReplies,
    /// An export was confirmed without its size.
    #[error("the server confirmed an export without telling its size and flags")]
    NoExportInfo,
    /// An export without any transmission flag, or, under
    /// [`strict_peer`](crate::ClientConfig::strict_peer), without `HAS_FLAGS`.
    #[error("the server sent transmission flags without HAS_FLAGS")]
    NoFlags,
    /// Block sizes that contradict each other, under
    /// [`strict_peer`](crate::ClientConfig::strict_peer); they are ignored otherwise.
    #[error("block sizes that make no sense")]
    BlockSizes,
    /// Two meta contexts with one number, or one that was not asked for.
    #[error("an inconsistent selection of meta contexts")]
    MetaContexts,
    /// TLS was acknowledged a second time.
    #[error("TLS acknowledged although it is in use already")]
    TlsTwice,
    /// Bytes in clear after TLS was agreed on.
    #[error("plaintext after the acknowledgement of STARTTLS")]
    PlaintextAfterStartTls,
    /// A client flag the server did not offer.
    #[error("client flags that were not offered")]
    UnknownClientFlags,
    /// `NBD_OPT_EXPORT_NAME` from a client that was granted extended headers.
    #[error("NBD_OPT_EXPORT_NAME after extended headers were agreed on")]
    ExportNameTooLate,
    /// A reply in a form that was not negotiated.
    #[error("a reply in a form that was not negotiated")]
    WrongReplyForm,
    /// A reply to no command in flight, where a payload may or may not follow.
    #[error("a reply to an unknown request, of unknown length")]
    UnknownCookie,
    /// A chunk of a type that is unknown and no error.
    #[error("a reply chunk of unknown type")]
    UnknownChunkType,
    /// A chunk that cannot answer the command.
    #[error("a reply chunk of a type that does not fit the command")]
    UnexpectedChunkType,
    /// `NBD_REPLY_TYPE_NONE` that does not end its reply.
    #[error("an empty reply chunk that is not the last one")]
    NoneNotDone,
    /// Data or a hole outside the range that was asked for.
    #[error("a reply chunk outside the range that was asked for")]
    ChunkOutsideRequest,
    /// Anything else, with strict checking of the peer switched on.
    #[error("{0}")]
    Strict(ReplyFault),
}

/// The two sides have no common ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerIncompatible {
    /// TLS is required and the server cannot negotiate it.
    #[error("TLS is required but the server speaks an older protocol without it")]
    NoTls,
    /// The server wants TLS and it is not enabled on this side.
    #[error("the server wants TLS, which is not enabled")]
    TlsWanted,
    /// Meta contexts need structured replies.
    #[error("meta contexts need structured replies, which were not negotiated")]
    NoStructuredReplies,
    /// The option needs fixed newstyle negotiation.
    #[error("the server does not speak fixed newstyle negotiation")]
    NotFixedNewstyle,
    /// The only way left to choose an export is forbidden once extended headers
    /// were agreed on.
    #[error("the server knows extended headers but not NBD_OPT_GO")]
    NoGoWithExtendedHeaders,
    /// The client does not speak fixed newstyle negotiation and the server insists.
    #[error("the client does not speak fixed newstyle negotiation")]
    ClientNotFixed,
}

/// A server's refusal of an option, with its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The option that was refused.
    pub option: OptionCode,
    /// The reason as a number.
    pub code: RefusalCode,
    /// The server's explanation, control characters escaped; often empty.
    pub message: String,
}

impl Refusal {
    /// A refusal, as a server would send it.
    #[must_use]
    pub fn new(option: OptionCode, code: RefusalCode, message: impl Into<String>) -> Self {
        Self { option, code, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server refused {}: {}", self.option, self.code)?;
        if !self.message.is_empty() {
            write!(f, " (\"{}\")", self.message)?;
        }
        Ok(())
    }
}

impl core::error::Error for Refusal {}

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
            | Self::NotUpgrading => Errno::Inval,
        }
    }
}

/// A fault in a reply that spoils one command; the framing is beyond doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyFault {
    /// A simple reply to a read though structured replies were agreed on.
    #[error("a simple reply where a structured one is due")]
    SimpleReply,
    /// Two chunks carry the same bytes.
    #[error("reply chunks that overlap")]
    Overlap,
    /// The reply ended before all bytes were delivered.
    #[error("a reply that does not cover the whole request")]
    Incomplete,
    /// More separate pieces out of order than [`Limits`](crate::Limits) allows.
    #[error("a reply in more scattered pieces than the limit")]
    TooScattered,
    /// A read that must not be fragmented came in pieces.
    #[error("a fragmented reply to a read that must not be fragmented")]
    Fragmented,
    /// The offset repeated in an extended reply is not the request's.
    #[error("an extended reply that repeats the wrong offset")]
    WrongOffset,
    /// An error chunk with error 0.
    #[error("an error chunk without an error")]
    ErrorZero,
    /// An error message longer than 4096 bytes; it spoils nothing but what
    /// [`strict_peer`](crate::ClientConfig::strict_peer) protects.
    #[error("an error message longer than the protocol allows")]
    LongMessage,
    /// An error whose offset is missing or outside the request, likewise.
    #[error("an error whose offset is missing or outside the request")]
    ErrorOffset,
    /// Extents for a context that was not negotiated, or not asked for.
    #[error("extents of a meta context that was not asked for")]
    UnknownContext,
    /// One context reported twice.
    #[error("extents of one meta context in two chunks")]
    DuplicateContext,
    /// A context not reported at all.
    #[error("no extents for a meta context that was asked for")]
    MissingContext,
    /// An extent of length 0.
    #[error("an extent of length 0")]
    EmptyExtent,
    /// Extents beyond the request, beyond the export, or more than one where
    /// one was asked for.
    #[error("extents beyond what was asked for")]
    ExcessExtent,
    /// A reply to a command that is not in flight.
    #[error("a reply to a request that is not in flight")]
    UnknownCookie,
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
    #[error("block status needs structured replies and a meta context")]
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

/// A reply that fits no command in flight and was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Anomaly {
    /// What was wrong.
    pub fault: ReplyFault,
    /// The cookie the peer sent.
    pub id: RequestId,
}
