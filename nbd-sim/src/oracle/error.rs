//! What the oracle finds fault with.
//!
//! A [`Fault`] ends the session: after it, the bytes have no agreed meaning or the
//! server has told an untruth. A [`Breach`] is a client's mistake that the protocol text
//! gives the server an error reply for; it is noted and the session goes on.

use super::message::Command;
use crate::transcript::Side;

/// The end of an oracle's work: who broke the protocol, where, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{side}, message at byte {at}: {fault}")]
pub struct OracleError {
    /// Who sent the bytes.
    pub side: Side,
    /// How many bytes that side had sent before the faulty message.
    pub at: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// A broken rule that ends a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message starts with a number that cannot start it here.
    #[error("the magic number {0:#x} is not one that is due here")]
    Magic(u64),
    /// Bytes were sent while it was the other side's turn.
    #[error("it is the other side's turn")]
    OutOfTurn,
    /// Bytes were sent after `NBD_OPT_ABORT` or `NBD_CMD_DISC`.
    #[error("nothing may be sent after the end")]
    AfterEnd,
    /// The bytes ended inside a message.
    #[error("{0} bytes are left over that are no whole message")]
    Truncated(usize),
    /// "Handshake flags": only bits 0 and 1 are defined.
    #[error("handshake flags {0:#x} are not defined")]
    HandshakeFlags(u16),
    /// "Client flags": a bit that is not defined or that the server did not offer.
    #[error("client flags {0:#x} were not offered")]
    ClientFlags(u32),
    /// "Transmission flags": bit 0 unset, or a bit that needs another one or a
    /// negotiated feature.
    #[error("transmission flags {0:#x} contradict each other or the negotiation")]
    TransmissionFlags(u16),
    /// The 124 reserved bytes are not all zero.
    #[error("the reserved bytes are not zero")]
    Padding,
    /// "Newstyle negotiation": without fixed newstyle, only `NBD_OPT_EXPORT_NAME`.
    #[error("option {0} without fixed newstyle")]
    OptionNotFixed(u32),
    /// `NBD_OPT_EXTENDED_HEADERS`: a client must then not use `NBD_OPT_EXPORT_NAME`.
    #[error("NBD_OPT_EXPORT_NAME after extended headers")]
    ExportNameExtended,
    /// "Conventions": a string is too long, not UTF-8, or holds a NUL.
    #[error("a string is longer than 4096 bytes, not UTF-8 or holds a NUL")]
    String,
    /// An option reply is about another option than the one that was sent.
    #[error("a reply to option {found}, but option {sent} was sent")]
    ReplyOption {
        /// The option that awaits its reply.
        sent: u32,
        /// The option that the reply names.
        found: u32,
    },
    /// A reply type that this option cannot have.
    #[error("reply type {kind:#x} to option {option}")]
    ReplyKind {
        /// The option.
        option: u32,
        /// The reply type.
        kind: u32,
    },
    /// The length of an option reply does not fit its type.
    #[error("{length} bytes in an option reply of type {kind:#x}")]
    ReplyLength {
        /// The reply type.
        kind: u32,
        /// The length field.
        length: u32,
    },
    /// `NBD_REP_ACK` to `NBD_OPT_INFO` or `NBD_OPT_GO` without `NBD_INFO_EXPORT`.
    #[error("success without NBD_INFO_EXPORT")]
    NoExportInfo,
    /// "Size constraints": a value that must not be advertised.
    #[error("block sizes {minimum}/{preferred}/{maximum} break the size constraints")]
    BlockSizes {
        /// Minimum block size.
        minimum: u32,
        /// Preferred block size.
        preferred: u32,
        /// Maximum payload size.
        maximum: u32,
    },
    /// The name of a metadata context has no namespace.
    #[error("'{0}' is no metadata context: it lacks a namespace and a colon")]
    ContextName(String),
    /// `NBD_OPT_SET_META_CONTEXT`: each context has a number of its own.
    #[error("two metadata contexts have the number {0}")]
    ContextTwice(u32),
    /// `NBD_OPT_SET_META_CONTEXT`: without a query, nothing is selected.
    #[error("a metadata context was selected without a query")]
    ContextUnasked,
    /// Two requests in flight have the same cookie.
    #[error("cookie {0:#x} is already in flight")]
    CookieTwice(u64),
    /// A reply is to no request in flight.
    #[error("no request in flight has the cookie {0:#x}")]
    CookieUnknown(u64),
    /// "Simple reply message": not for this request, or not in this session.
    #[error("a simple reply to a {0:?} request that needs chunks")]
    SimpleReply(Command),
    /// A simple reply after chunks of the same request.
    #[error("a simple reply to a request that already has chunks")]
    SimpleAfterChunk,
    /// "Transmission flags": on a read-only export, writes must fail.
    #[error("a {0:?} request succeeded on a read-only export")]
    ReadOnly(Command),
    /// A chunk type that is not defined, or not for this request or session.
    #[error("chunk type {kind:#x} in reply to a {command:?} request")]
    ChunkKind {
        /// The chunk type.
        kind: u16,
        /// The request.
        command: Command,
    },
    /// The length of a chunk does not fit its type.
    #[error("{length} bytes in a chunk of type {kind:#x}")]
    ChunkLength {
        /// The chunk type.
        kind: u16,
        /// The length field.
        length: u64,
    },
    /// `NBD_REPLY_TYPE_NONE` without `NBD_REPLY_FLAG_DONE`.
    #[error("a chunk of type none is not the last")]
    NoneNotDone,
    /// "Extended reply chunk message": the offset must be the request's.
    #[error("an extended reply with offset {found}, but the request has {sent}")]
    ReplyOffset {
        /// The request's offset.
        sent: u64,
        /// The reply's offset.
        found: u64,
    },
    /// A content chunk or an error offset lies outside the request.
    #[error("offset {offset}, length {length} lies outside the request")]
    OutsideRequest {
        /// Where it starts.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// A content chunk overlaps an earlier content or error chunk.
    #[error("the content at offset {0} overlaps an earlier chunk")]
    Overlap(u64),
    /// A hole or an extent of no bytes.
    #[error("a hole or extent of no bytes")]
    Empty,
    /// `NBD_CMD_FLAG_DF`: more than one content chunk.
    #[error("a second content chunk although the client forbade fragments")]
    Fragmented,
    /// A successful read whose content chunks leave a gap.
    #[error("a read succeeded with {found} of {wanted} bytes")]
    Gap {
        /// Bytes that content chunks cover.
        found: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// An error chunk whose error value is zero.
    #[error("an error chunk without an error")]
    NoError,
    /// A status chunk of a context that is not selected.
    #[error("status of metadata context {0}, which was not asked for")]
    StatusUnasked(u32),
    /// A second status chunk of one context.
    #[error("status of metadata context {0} twice")]
    StatusTwice(u32),
    /// A successful block status reply without one chunk for each context.
    #[error("no status of metadata context {0}")]
    StatusMissing(u32),
    /// `NBD_CMD_FLAG_REQ_ONE`: one extent, not longer than the request.
    #[error("more than one extent, or one beyond the request, although one was asked for")]
    NotOne,
    /// All extents but the last together must be shorter than the request.
    #[error("an extent starts at or after the end of the request")]
    ExtentBeyond,
    /// The descriptor count contradicts the chunk's length.
    #[error("{0} descriptors do not fit the chunk")]
    DescriptorCount(u32),
    /// The upper half of the status of a `base:` context is not zero.
    #[error("status {0:#x} has more than 32 bits")]
    WideStatus(u64),
    /// A payload is longer than the advertised maximum.
    #[error("a payload of {0} bytes is more than the advertised maximum")]
    TooLong(u64),
}

/// A client's broken rule that a server can answer with an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Data with an option that has none, or data that breaks the option's layout.
    #[error("the data of option {0} breaks its layout")]
    OptionData(u32),
    /// `NBD_OPT_SET_META_CONTEXT` before structured replies or extended headers.
    #[error("metadata contexts before structured replies or extended headers")]
    ContextsTooEarly,
    /// Command flags that are not defined for this command or not offered.
    #[error("command flags {0:#x} are not for this command")]
    CommandFlags(u16),
    /// A command that the protocol text does not define.
    #[error("command {0} is not defined")]
    UnknownCommand(u16),
    /// A command that no transmission flag exposes.
    #[error("the server does not offer {0:?}")]
    NotOffered(Command),
    /// `NBD_CMD_BLOCK_STATUS` without a selected metadata context.
    #[error("block status without a metadata context")]
    NoContext,
    /// Offset or length of a flush or disconnect request is not zero.
    #[error("offset and length of a {0:?} request must be zero")]
    Reserved(Command),
    /// The request goes beyond the end of the export.
    #[error("the request goes beyond the end of the export")]
    BeyondEnd,
    /// Offset or length is no multiple of the advertised minimum block size.
    #[error("offset or length is not a multiple of the minimum block size")]
    Unaligned,
    /// The payload of a request, or of its simple reply, exceeds the advertised maximum.
    #[error("the payload is more than the advertised maximum")]
    TooLong,
    /// An extended write without `NBD_CMD_FLAG_PAYLOAD_LEN`.
    #[error("an extended write without NBD_CMD_FLAG_PAYLOAD_LEN")]
    NoPayloadFlag,
    /// `NBD_CMD_FLAG_PAYLOAD_LEN` with a length of zero.
    #[error("NBD_CMD_FLAG_PAYLOAD_LEN with a length of zero")]
    EmptyPayload,
    /// The payload of a block status request breaks its layout, or names a context twice
    /// or one that is not selected.
    #[error("the payload of a block status request is not a list of selected contexts")]
    StatusPayload,
}
