//! What a session came to.

use super::error::Breach;
use super::message::{BlockSizes, Command, Context, Extent, Request};

/// What was negotiated, and what became of every request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// The form of the handshake; none before the greeting.
    pub style: Option<Style>,
    /// Both sides agreed to leave out the 124 zeroes.
    pub no_zeroes: bool,
    /// What came of `NBD_OPT_STARTTLS`.
    pub tls: Tls,
    /// Structured replies were negotiated.
    pub structured: bool,
    /// Extended headers were negotiated; they take precedence over structured replies.
    pub extended: bool,
    /// The name that transmission was entered with; none before, and in oldstyle.
    pub export_name: Option<String>,
    /// The server's canonical name, if it sent one for that export.
    pub canonical_name: Option<String>,
    /// The server's description, if it sent one for that export.
    pub description: Option<String>,
    /// Size of the export in bytes, once transmission was entered.
    pub size: Option<u64>,
    /// Transmission flags, once transmission was entered.
    pub flags: Option<u16>,
    /// Size constraints that were advertised for that export.
    pub block_sizes: Option<BlockSizes>,
    /// The metadata contexts that block status requests may use.
    pub contexts: Vec<Context>,
    /// Names and descriptions from `NBD_OPT_LIST`, of the last list.
    pub exports: Vec<(String, String)>,
    /// Every option that ended in an error: option, reply type, text.
    pub refusals: Vec<(u32, u32, String)>,
    /// The client ended the session, with `NBD_OPT_ABORT` or `NBD_CMD_DISC`.
    pub ended: bool,
    /// Every request but the disconnect, in the order in which they were sent.
    pub requests: Vec<Exchange>,
    /// What the client did against the rules, each with the number of its message.
    pub breaches: Vec<(usize, Breach)>,
}

/// The forms of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// "Oldstyle negotiation".
    Oldstyle,
    /// "Newstyle negotiation".
    Newstyle,
    /// "Fixed newstyle negotiation".
    FixedNewstyle,
}

/// What came of `NBD_OPT_STARTTLS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// It was not sent.
    #[default]
    NotAsked,
    /// It was sent and has no reply yet.
    Asked,
    /// It was refused with this reply type.
    Refused(u32),
    /// It was accepted.
    Started,
}

/// A request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The request as it was sent.
    pub request: Request,
    /// Bytes of the export that it is about; differs from the header's length field
    /// for a block status request with a payload.
    pub effect: u64,
    /// What it came to.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No final reply yet.
    Pending,
    /// Success without data.
    Done,
    /// A successful read: its pieces in the order of their offsets, without a gap.
    Read(Vec<Piece>),
    /// A successful block status request: the extents of each context, in the order in
    /// which they came.
    Status(Vec<(u32, Vec<Extent>)>),
    /// At least one error.
    Failed(Vec<Failure>),
}

/// One content chunk of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes at an offset of the export.
    Data(u64, Vec<u8>),
    /// That many zeroes at an offset of the export.
    Hole(u64, u32),
}

impl Piece {
    pub(super) fn offset(&self) -> u64 {
        match self {
            Self::Data(offset, _) | Self::Hole(offset, _) => *offset,
        }
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Data(_, data) => u64::try_from(data.len()).unwrap_or(u64::MAX),
            Self::Hole(_, length) => u64::from(*length),
        }
    }
}

/// One error of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error value.
    pub error: u32,
    /// Text for a human; often empty.
    pub message: String,
    /// Where in the export it happened, if the server says so.
    pub offset: Option<u64>,
}

impl Exchange {
    /// What a successful read returned, holes filled with zeroes; none for any other
    /// outcome. Allocates as many bytes as the read asked for.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let Outcome::Read(pieces) = &self.outcome else {
            return None;
        };
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Data(_, data) => bytes.extend_from_slice(data),
                Piece::Hole(_, length) => {
                    bytes.resize(bytes.len().checked_add(usize::try_from(*length).ok()?)?, 0);
                }
            }
        }
        Some(bytes)
    }

    /// The first error value of a failed request; none for any other outcome.
    pub fn error(&self) -> Option<u32> {
        match &self.outcome {
            Outcome::Failed(failures) => failures.first().map(|failure| failure.error),
            Outcome::Pending | Outcome::Done | Outcome::Read(_) | Outcome::Status(_) => None,
        }
    }
}

impl Summary {
    /// Every exchange of one command, in the order in which they were sent.
    pub fn exchanges(&self, command: Command) -> impl Iterator<Item = &Exchange> {
        self.requests.iter().filter(move |exchange| exchange.request.command == command)
    }
}
