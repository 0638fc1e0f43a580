//! What the bytes from the server mean.
//!
//! ```text
//!               ┌────────► Skip ─────────┐  unknown cookie, faulty chunk
//!   Header ─────┤                        │
//!     ▲         ├─ DataOffset ─► Data ───┤
//!     │         ├─ Hole ─────────────────┤
//!     │         ├─ ErrorHead ─► Message ─┤
//!     │         ├─ StatusHead ─► Extents ┤
//!     │         └─ simple read ─► Data ──┤
//!     └──────────── end of chunk ◄───────┘
//! ```
//!
//! Two kinds of fault are told apart. A message that contradicts itself or what
//! was negotiated (a length that does not fit the type, a type that cannot answer
//! the command, a range outside the request) means that the peer's idea of the
//! stream is not ours: the connection ends, as the protocol text demands. A reply
//! whose messages are sound but whose sum is wrong (an overlap, a gap, a context
//! missing) leaves the framing certain: it fails its command with `EPROTO`, unless
//! [`strict_peer`](crate::ClientConfig::strict_peer) asks for the end here too.
//!
//! | file | what |
//! |---|---|
//! | `mod` | headers, and how a reply begins and ends |
//! | `read` | data and holes |
//! | `error` | errors and what the server says about them |
//! | `status` | extents |
//! | `whole` | the common reply to a read, in one go |

mod error;
mod read;
mod status;
mod whole;

use super::pending::Stage;
use super::{Core, Life};
use crate::engine::intake::{Role, Step};
use crate::errno::Errno;
use crate::error::{CommandError, Error, PeerMisbehaved, ReplyFault, internal};
use crate::payload::{PayloadSink, ReadChunk};
use crate::reply::form::check_form;
use crate::types::{ContextId, HeaderStyle, RequestId};
use crate::wire::chunk::{ChunkType, ErrorHead, OffsetData, OffsetHole, StatusExtHead};
use crate::wire::flags::ReplyFlags;
use crate::wire::reader::take;
use crate::wire::reply::{ChunkHeader, SimpleReply};
use crate::wire::request::CommandType;
use crate::wire::{SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};

/// A command keeps its slot until its reply has been read through.
const NO_COMMAND: &str = "a reply outlives its command";

/// What is expected next inside a reply.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    Header,
    DataOffset(Chunk),
    Hole(Chunk),
    ErrorHead(Chunk),
    /// The error's message and, in an ERROR_OFFSET chunk, the offset behind it.
    ErrorBody {
        chunk: Chunk,
        errno: Errno,
        message: usize,
        offset: bool,
        excess: u64,
    },
    StatusHead(Chunk),
    Extents {
        chunk: Chunk,
        context: ContextId,
        left: u64,
    },
    /// Payload on its way to the destination.
    Data {
        chunk: Chunk,
        at: usize,
        length: usize,
    },
    /// Bytes that are thrown away before the chunk, if it is one, ends.
    Rest(Option<Chunk>),
}

impl Expect {
    pub(super) const fn is_header(&self) -> bool {
        matches!(self, Self::Header)
    }
}

/// The chunk, or simple reply, that is being received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    id: RequestId,
    kind: ChunkType,
    length: u64,
    done: bool,
}

impl<S: PayloadSink> Role<S> for Core {
    fn parse(&mut self, bytes: &[u8], sink: &mut S) -> Result<(usize, Step), Error> {
        let used = self.whole_reads(bytes, sink);
        if used > 0 {
            return Ok((used, self.next_header()));
        }
        match self.expect {
            Expect::Header => self.header(bytes),
            Expect::DataOffset(chunk) => self.data_offset(bytes, chunk),
            Expect::Hole(chunk) => self.hole(bytes, chunk, sink),
            Expect::ErrorHead(chunk) => self.error_head(bytes, chunk),
            Expect::ErrorBody { .. } => self.error_body(bytes, sink),
            Expect::StatusHead(chunk) => self.status_head(bytes, chunk),
            Expect::Extents { chunk, context, left } => {
                self.extents(bytes, chunk, context, left, sink)
            }
            Expect::Data { .. } | Expect::Rest(_) => Err(internal("payload is not parsed")),
        }
    }

    fn finished(&mut self, sink: &mut S) -> Result<Step, Error> {
        match self.expect {
            Expect::Data { chunk, at, length } => {
                if self.is_wanted(chunk.id) {
                    sink.chunk(chunk.id, ReadChunk { at, length, hole: false });
                }
                self.end_chunk(chunk)
            }
            Expect::Rest(Some(chunk)) => self.end_chunk(chunk),
            Expect::Rest(None) => Ok(self.next_header()),
            Expect::Header
            | Expect::DataOffset(_)
            | Expect::Hole(_)
            | Expect::ErrorHead(_)
            | Expect::ErrorBody { .. }
            | Expect::StatusHead(_)
            | Expect::Extents { .. } => Err(internal("no payload was due")),
        }
    }

    fn unplaced(&mut self, id: RequestId) {
        if let Some(pending) = self.slots.get_mut(id) {
            pending.fail(CommandError::NoDestination);
        }
    }

    fn wants(&self, id: RequestId) -> bool {
        self.is_wanted(id)
    }

    fn payload(&mut self, n: usize) {
        self.advance(n);
    }

    fn large_next(&self) -> Option<usize> {
        let header = match self.facts.headers {
            HeaderStyle::Simple => SimpleReply::LEN,
            HeaderStyle::Structured => ChunkHeader::STRUCTURED_LEN + OffsetData::LEN,
            HeaderStyle::Extended => ChunkHeader::EXTENDED_LEN + OffsetData::LEN,
        };
        let oldest = self.slots.front(&self.in_flight)?;
        let current = match self.expect {
            Expect::Data { chunk, .. } => Some((chunk.id, chunk.done)),
            _ => None,
        };
        let next = match current {
            Some((id, true)) if id == oldest => self.slots.after(oldest)?,
            // More chunks of the same reply are to come.
            Some((id, false)) => id,
            _ => oldest,
        };
        let pending = self.slots.get(next)?;
        let due = pending.reply.coverage.missing_from_head(pending.command.length);
        let large =
            pending.command.kind == CommandType::Read && due >= self.limits.direct_min as u64;
        large.then_some(header)
    }
}

impl Core {
    fn is_wanted(&self, id: RequestId) -> bool {
        self.slots.get(id).is_some_and(|pending| !pending.abandoned)
    }

    fn next_header(&mut self) -> Step {
        self.expect = Expect::Header;
        Step::Parse { need: self.first_need() }
    }

    fn expect(&mut self, expect: Expect, need: usize) -> Step {
        self.expect = expect;
        Step::Parse { need }
    }

    /// Reads over what is left of a chunk, then ends it.
    fn skip(&mut self, chunk: Chunk, left: u64) -> Step {
        self.expect = Expect::Rest(Some(chunk));
        Step::Skip { left }
    }

    /// A fault that spoils one command.
    fn fault(&mut self, id: RequestId, fault: ReplyFault) -> Result<(), Error> {
        if self.strict_peer {
            return Err(PeerMisbehaved::Strict(fault).into());
        }
        if let Some(pending) = self.slots.get_mut(id) {
            pending.fail(fault);
        }
        Ok(())
    }

    fn header(&mut self, bytes: &[u8]) -> Result<(usize, Step), Error> {
        if self.facts.headers == HeaderStyle::Extended {
            let (head, _) = take::<{ ChunkHeader::EXTENDED_LEN }>(bytes)?;
            let header = ChunkHeader::decode_extended(head).map_err(|error| {
                match magic(bytes) {
                    // A known form, but not the one that was agreed on.
                    SIMPLE_REPLY_MAGIC | STRUCTURED_REPLY_MAGIC => {
                        PeerMisbehaved::WrongReplyForm.into()
                    }
                    _ => Error::from(error),
                }
            })?;
            return self.chunk_and_offset(header, head.len(), bytes);
        }
        if magic(bytes) == STRUCTURED_REPLY_MAGIC {
            if self.facts.headers == HeaderStyle::Simple {
                return Err(PeerMisbehaved::WrongReplyForm.into());
            }
            if bytes.len() < ChunkHeader::STRUCTURED_LEN {
                return Ok((0, Step::Parse { need: ChunkHeader::STRUCTURED_LEN }));
            }
            let (head, _) = take::<{ ChunkHeader::STRUCTURED_LEN }>(bytes)?;
            let header = ChunkHeader::decode_structured(head)?;
            return self.chunk_and_offset(header, head.len(), bytes);
        }
        let (head, _) = take::<{ SimpleReply::LEN }>(bytes)?;
        let reply = SimpleReply::decode(head)?;
        Ok((head.len(), self.simple(reply)?))
    }

    /// proto.md, "Simple reply message".
    fn simple(&mut self, reply: SimpleReply) -> Result<Step, Error> {
        self.messages_received = self.messages_received.wrapping_add(1);
        let id = RequestId::from_cookie(reply.cookie);
        let errno = Errno::from_wire(reply.error);
        let structured = self.facts.headers != HeaderStyle::Simple;
        let Some(pending) = self.slots.get_mut(id).filter(|p| p.stage == Stage::InFlight) else {
            if self.is_disconnecting() || errno.is_some() || structured {
                // No payload can follow.
                self.anomaly(ReplyFault::UnknownCookie, id)?;
                return Ok(self.next_header());
            }
            return Err(PeerMisbehaved::UnknownCookie.into());
        };
        let command = pending.command;
        let error = errno.map(CommandError::Server);
        match command.kind {
            CommandType::Read if error.is_none() => {
                let length = usize::try_from(command.length).unwrap_or(usize::MAX);
                let chunk =
                    Chunk { id, kind: ChunkType::OffsetData, length: command.length, done: true };
                if structured {
                    // proto.md, "Structured reply chunk message": a read must not
                    // be answered so. What such a server means is plain, but what
                    // it sends is read through and not believed.
                    self.fault(id, ReplyFault::SimpleReply)?;
                    return Ok(self.skip(chunk, command.length));
                }
                if command.length > 0 {
                    let whole = 0..command.length;
                    if let Err(fault) = pending.reply.coverage.add(whole, 1) {
                        pending.fail(fault);
                    }
                }
                self.expect = Expect::Data { chunk, at: 0, length };
                return Ok(Step::Place { id, at: 0, left: length });
            }
            CommandType::BlockStatus if error.is_none() => {
                self.fault(id, ReplyFault::SimpleReply)?;
            }
            CommandType::Read if structured && self.strict_peer => {
                return Err(PeerMisbehaved::Strict(ReplyFault::SimpleReply).into());
            }
            _ => {}
        }
        self.close_command(id, error)?;
        Ok(self.next_header())
    }

    /// A chunk's header and, since they nearly always come together, the offset of its
    /// data.
    fn chunk_and_offset(
        &mut self,
        header: ChunkHeader,
        used: usize,
        bytes: &[u8],
    ) -> Result<(usize, Step), Error> {
        let step = self.chunk(header)?;
        match (self.expect, bytes.get(used..)) {
            (Expect::DataOffset(chunk), Some(rest)) if rest.len() >= OffsetData::LEN => {
                let (more, step) = self.data_offset(rest, chunk)?;
                Ok((used.saturating_add(more), step))
            }
            _ => Ok((used, step)),
        }
    }

    /// The header of a structured or extended chunk.
    fn chunk(&mut self, header: ChunkHeader) -> Result<Step, Error> {
        self.messages_received = self.messages_received.wrapping_add(1);
        let ChunkHeader { length, .. } = header;
        if length > self.limits.max_chunk() {
            return Err(PeerMisbehaved::TooLong.into());
        }
        let Some(kind) = ChunkType::from_wire(header.kind) else {
            // proto.md, "Structured reply types": the client must hard-disconnect.
            return Err(PeerMisbehaved::UnknownChunkType.into());
        };
        let id = RequestId::from_cookie(header.cookie);
        let Some(pending) = self.slots.get_mut(id).filter(|p| p.stage == Stage::InFlight) else {
            self.anomaly(ReplyFault::UnknownCookie, id)?;
            self.expect = Expect::Rest(None);
            return Ok(Step::Skip { left: length });
        };
        let command = pending.command;
        let done = header.flags.contains(ReplyFlags::DONE);
        let chunk = Chunk { id, kind, length, done };
        let extended = self.facts.headers == HeaderStyle::Extended;
        check_form(kind, length, command.kind, done, extended, command.length == 0)?;
        if extended && header.offset != command.offset {
            self.fault(id, ReplyFault::WrongOffset)?;
            return Ok(self.skip(chunk, length));
        }
        match kind {
            ChunkType::None => self.end_chunk(chunk),
            ChunkType::OffsetData => Ok(self.expect(Expect::DataOffset(chunk), OffsetData::LEN)),
            ChunkType::OffsetHole => Ok(self.expect(Expect::Hole(chunk), OffsetHole::LEN)),
            ChunkType::BlockStatus => Ok(self.expect(Expect::StatusHead(chunk), 4)),
            ChunkType::BlockStatusExt => {
                Ok(self.expect(Expect::StatusHead(chunk), StatusExtHead::LEN))
            }
            ChunkType::Error | ChunkType::ErrorOffset | ChunkType::OtherError(_) => {
                Ok(self.expect(Expect::ErrorHead(chunk), ErrorHead::LEN))
            }
        }
    }

    /// A chunk is read through; if it is the last one, so is the reply.
    fn end_chunk(&mut self, chunk: Chunk) -> Result<Step, Error> {
        if chunk.done {
            self.close_command(chunk.id, None)?;
        }
        Ok(self.next_header())
    }

    /// The reply is complete: is the sum of its messages what was asked for?
    fn close_command(&mut self, id: RequestId, error: Option<CommandError>) -> Result<(), Error> {
        let Some(pending) = self.slots.get_mut(id) else {
            return Err(internal(NO_COMMAND));
        };
        if let Some(error) = error {
            pending.fail(error);
        }
        let fault = match pending.error {
            None => pending.reply.missing(&pending.command),
            Some(_) => None,
        };
        let shutdown = pending.error == Some(CommandError::Server(Errno::Shutdown));
        if let Some(fault) = fault {
            self.fault(id, fault)?;
        }
        if shutdown && self.life == Life::Open {
            // proto.md, "Terminating the transmission phase": the client must
            // start a soft disconnect.
            self.life = Life::Draining;
        }
        self.shutdown |= shutdown;
        if self.operations > self.overtaken {
            self.overtakes(id);
        }
        self.advance(1);
        self.conclude(id, None);
        Ok(())
    }
}

fn magic(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |magic| u32::from_be_bytes(*magic))
}
