//! Every message of the protocol as plain data.

/// One message, as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The whole of an oldstyle handshake.
    OldstyleGreeting {
        /// Size of the export in bytes.
        size: u64,
        /// Handshake flags above, transmission flags below.
        flags: u32,
    },
    /// The server's greeting in a newstyle handshake.
    Greeting {
        /// Handshake flags.
        flags: u16,
    },
    /// The client's answer to the greeting.
    ClientFlags {
        /// Client flags.
        flags: u32,
    },
    /// A request of option haggling.
    Option {
        /// The option's number.
        option: u32,
        /// What came with it.
        data: OptionData,
    },
    /// A reply of option haggling.
    OptionReply {
        /// The option that it answers.
        option: u32,
        /// What it says.
        reply: OptionReply,
    },
    /// The reply to `NBD_OPT_EXPORT_NAME`, which has a form of its own.
    ExportNameReply {
        /// Size of the export in bytes.
        size: u64,
        /// Transmission flags.
        flags: u16,
    },
    /// A request, compact or extended.
    Request(Request),
    /// A simple reply.
    SimpleReply {
        /// Zero, or an error value.
        error: u32,
        /// The cookie of the request.
        cookie: u64,
        /// What was read; empty for all but a successful read.
        data: Vec<u8>,
    },
    /// One structured or extended reply chunk.
    Chunk {
        /// Reply flags.
        flags: u16,
        /// The chunk's type.
        kind: u16,
        /// The cookie of the request.
        cookie: u64,
        /// The offset of an extended reply header.
        offset: Option<u64>,
        /// The payload.
        body: ChunkBody,
    },
}

/// What came with an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionData {
    /// Nothing, where nothing is due.
    None,
    /// `NBD_OPT_EXPORT_NAME`: the name.
    ExportName(String),
    /// `NBD_OPT_INFO` and `NBD_OPT_GO`.
    Export {
        /// Name of the export.
        name: String,
        /// Information types that are asked for.
        requests: Vec<u16>,
    },
    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
    Contexts {
        /// Name of the export.
        name: String,
        /// Queries, each a namespace, a colon and a leaf-name.
        queries: Vec<String>,
    },
    /// Bytes of an option whose data has no layout, or bytes that break the layout.
    Raw(Vec<u8>),
}

/// What an option reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionReply {
    /// `NBD_REP_ACK`.
    Ack,
    /// `NBD_REP_SERVER`: one export of a list.
    Server {
        /// Name of the export.
        name: String,
        /// Text for a human; often empty.
        description: String,
    },
    /// `NBD_REP_INFO`.
    Info(Info),
    /// `NBD_REP_META_CONTEXT`.
    Context(Context),
    /// Any reply with bit 31 set.
    Error {
        /// The whole reply type.
        code: u32,
        /// Text for a human; often empty.
        text: String,
    },
    /// A reply to an option that the protocol text does not define.
    Other {
        /// The reply type.
        kind: u32,
        /// Its data.
        data: Vec<u8>,
    },
}

/// The payload of `NBD_REP_INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// `NBD_INFO_EXPORT`.
    Export {
        /// Size of the export in bytes.
        size: u64,
        /// Transmission flags.
        flags: u16,
    },
    /// `NBD_INFO_NAME`.
    Name(String),
    /// `NBD_INFO_DESCRIPTION`.
    Description(String),
    /// `NBD_INFO_BLOCK_SIZE`.
    BlockSize(BlockSizes),
    /// A type that the protocol text does not define; clients ignore it.
    Other {
        /// The information type.
        kind: u16,
        /// Its payload.
        data: Vec<u8>,
    },
}

/// Size constraints, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Smallest length and alignment.
    pub minimum: u32,
    /// Smallest length and alignment that is efficient.
    pub preferred: u32,
    /// Largest payload.
    pub maximum: u32,
}

/// A metadata context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The number that status chunks carry.
    pub id: u32,
    /// Namespace, colon, leaf-name.
    pub name: String,
}

/// A request of the transmission phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whether it has an extended header.
    pub extended: bool,
    /// Command flags.
    pub flags: u16,
    /// What is asked.
    pub command: Command,
    /// The client's name for this request.
    pub cookie: u64,
    /// Where in the export, in bytes.
    pub offset: u64,
    /// The header's length field: of the payload if there is one, else of the effect.
    pub length: u64,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// Request types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_WRITE`.
    Write,
    /// `NBD_CMD_DISC`.
    Disconnect,
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`.
    Trim,
    /// `NBD_CMD_CACHE`.
    Cache,
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes,
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus,
    /// A number that the protocol text does not define.
    Other(u16),
}

impl Command {
    pub(super) fn from_wire(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }
}

/// The payload of a reply chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkBody {
    /// `NBD_REPLY_TYPE_NONE`.
    None,
    /// `NBD_REPLY_TYPE_OFFSET_DATA`.
    Data {
        /// Where in the export.
        offset: u64,
        /// What was read there.
        data: Vec<u8>,
    },
    /// `NBD_REPLY_TYPE_OFFSET_HOLE`.
    Hole {
        /// Where in the export.
        offset: u64,
        /// How many zeroes were read there.
        length: u32,
    },
    /// `NBD_REPLY_TYPE_BLOCK_STATUS` and `NBD_REPLY_TYPE_BLOCK_STATUS_EXT`.
    Status {
        /// The metadata context's number.
        context: u32,
        /// One descriptor after the other from the request's offset on.
        extents: Vec<Extent>,
    },
    /// Any chunk with bit 15 set.
    Error {
        /// The error value.
        error: u32,
        /// Text for a human; often empty.
        message: String,
        /// The place of an `NBD_REPLY_TYPE_ERROR_OFFSET`.
        offset: Option<u64>,
    },
}

/// A block descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes the status is about.
    pub length: u64,
    /// Status flags; their meaning is the context's.
    pub flags: u64,
}
