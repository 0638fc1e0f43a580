//! What a peer did wrong, or does not do.

use alloc::string::String;
use core::fmt;

use crate::types::RequestId;
use crate::wire::option::{OptionCode, RefusalCode};

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

/// A reply that fits no command in flight and was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Anomaly {
    /// What was wrong.
    pub fault: ReplyFault,
    /// The cookie the peer sent.
    pub id: RequestId,
}
