//! Answers to requests, in whichever form was negotiated.

use alloc::vec::Vec;
use core::slice;

use super::{Core, Received, Server, Stage};
use crate::errno::Errno;
use crate::error::{ApiMisuse, broken, internal};
use crate::reply::place;
use crate::types::{ContextId, Extent, HeaderStyle, RequestId};
use crate::wire::chunk::{ChunkType, ErrorHead, OffsetData, OffsetHole, StatusExtHead};
use crate::wire::cut_to;
use crate::wire::flags::{CommandFlags, ReplyFlags};
use crate::wire::reply::{ChunkHeader, SimpleReply};
use crate::wire::request::CommandType;

/// The longest payload of an error chunk that every client takes, in bytes: QEMU's limit, by
/// trial.
const LONGEST_ERROR: usize = 1000;

/// The longest reason of an error, in bytes.
const LONGEST_REASON: usize = LONGEST_ERROR - ErrorHead::LEN;

/// The longest reason of an error with an offset behind it, in bytes.
const LONGEST_PLACED_REASON: usize = LONGEST_REASON - size_of::<u64>();

impl Server {
    /// Answers a request that returns nothing, or any request with an error.
    ///
    /// # Errors
    /// [`ApiMisuse::NoSuchRequest`] when it is not open, and
    /// [`ApiMisuse::WrongReply`] when a read or block status would succeed without
    /// its data.
    pub fn reply(&mut self, id: RequestId, result: Result<(), Errno>) -> Result<(), ApiMisuse> {
        match result {
            Err(errno) => self.reply_error(id, errno, ""),
            Ok(()) => {
                let received = self.core.open(id)?;
                let command = received.command;
                if matches!(command.kind, CommandType::Read | CommandType::BlockStatus) {
                    return Err(ApiMisuse::WrongReply);
                }
                self.core.answer_success(id);
                Ok(())
            }
        }
    }

    /// Answers a request with an error and a reason for people, of which at
    /// most 994 bytes are sent, and none in simple replies. The protocol allows for 4096, and
    /// QEMU ends the connection where an error has more than 1000 bytes in all.
    ///
    /// # Errors
    /// [`ApiMisuse::NoSuchRequest`] when it is not open.
    pub fn reply_error(
        &mut self,
        id: RequestId,
        errno: Errno,
        reason: &str,
    ) -> Result<(), ApiMisuse> {
        self.core.open(id)?;
        self.core.answer_error(id, errno, reason);
        Ok(())
    }

    /// Answers a read in one piece with the payload of the
    /// [`PayloadSource`](crate::PayloadSource).
    ///
    /// # Errors
    /// [`ApiMisuse::NoSuchRequest`] when it is not open, and
    /// [`ApiMisuse::WrongReply`] when it is no read.
    pub fn reply_data(&mut self, id: RequestId) -> Result<(), ApiMisuse> {
        let simple = self.core.facts.headers == HeaderStyle::Simple;
        let received = self.core.open(id)?;
        let (command, cookie) = (received.command, received.cookie);
        if command.kind != CommandType::Read {
            return Err(ApiMisuse::WrongReply);
        }
        let length = usize::try_from(command.length).unwrap_or(usize::MAX);
        if simple {
            received.queued = received.queued.saturating_add(1);
            received.stage = Stage::Answered;
            let header = SimpleReply { error: 0, cookie }.encode();
            self.core.outbox.push_payload(id, &header, 0, length);
            return Ok(());
        }
        if length == 0 {
            self.core.answer_success(id);
            return Ok(());
        }
        // A chunk's length may have fewer bits than the request's.
        let first = usize::try_from(self.core.longest_data()).unwrap_or(usize::MAX).min(length);
        let rest = length.saturating_sub(first);
        self.send_data(id, 0, first, rest == 0)?;
        if rest > 0 {
            self.send_data(id, first, rest, true)?;
        }
        Ok(())
    }

    /// Sends a part of a read: `length` bytes from `at` bytes into the request, with
    /// the payload of the [`PayloadSource`](crate::PayloadSource) there. `last` ends
    /// the reply.
    ///
    /// # Errors
    /// [`ApiMisuse::NoSuchRequest`] when it is not open, and
    /// [`ApiMisuse::WrongReply`] when structured replies were not negotiated, and for a part
    /// that a client would find wrong: it is of no read, empty, not inside it, or too long for
    /// a chunk; some of it was sent before; it is the second of a read that was to come in one;
    /// it leaves more than [`Limits::max_fragments`](crate::Limits::max_fragments) separate
    /// pieces; or it is the last and the read is neither complete nor has failed.
    pub fn send_data(
        &mut self,
        id: RequestId,
        at: usize,
        length: usize,
        last: bool,
    ) -> Result<(), ApiMisuse> {
        let offset = self.core.part(id, at, length, last)?;
        let body = OffsetData { offset }.encode();
        self.core.chunk(id, ChunkType::OffsetData, last, &body, Tail::Payload { at, length });
        Ok(())
    }

    /// Sends a part of a read that is all zeroes. `last` ends the reply.
    ///
    /// # Errors
    /// As [`send_data`](Self::send_data).
    pub fn send_hole(
        &mut self,
        id: RequestId,
        at: usize,
        length: usize,
        last: bool,
    ) -> Result<(), ApiMisuse> {
        let length = u32::try_from(length).map_err(|_| ApiMisuse::WrongReply)?;
        let offset = self.core.part(id, at, length as usize, last)?;
        let body = OffsetHole { offset, length }.encode();
        self.core.chunk(id, ChunkType::OffsetHole, last, &body, Tail::Empty);
        Ok(())
    }

    /// Reports an error at an offset, in bytes from the start of the export, without
    /// ending the reply unless `last`.
    ///
    /// # Errors
    /// [`ApiMisuse::NoSuchRequest`] when it is not open, and
    /// [`ApiMisuse::WrongReply`] when structured replies were not negotiated or the
    /// offset lies outside the request.
    pub fn send_error_at(
        &mut self,
        id: RequestId,
        errno: Errno,
        offset: u64,
        reason: &str,
        last: bool,
    ) -> Result<(), ApiMisuse> {
        let command = self.core.open(id)?.command;
        // proto.md, "NBD_REPLY_TYPE_ERROR_OFFSET": it "MUST lie within the original
        // offset and length of the request".
        let inside = offset.checked_sub(command.offset).is_some_and(|at| at < command.length);
        if self.core.facts.headers == HeaderStyle::Simple || !inside {
            return Err(ApiMisuse::WrongReply);
        }
        if let Some(received) = self.core.slots.get_mut(id) {
            received.failed = true;
        }
        let reason = cut_to(reason, LONGEST_PLACED_REASON);
        let head = ErrorHead { error: errno.to_wire(), message_length: reason.len() as u16 };
        let mut tail = Vec::from(reason.as_bytes());
        tail.extend_from_slice(&offset.to_be_bytes());
        self.core.chunk(id, ChunkType::ErrorOffset, last, &head.encode(), Tail::Bytes(&tail));
        Ok(())
    }

    /// Sends the extents of one meta context, in order from the start of the
    /// request. `last` ends the reply. In compact form, lengths beyond 32 bits are
    /// cut. When one extent was asked for, the first is sent, as
    /// far as the request goes; of more than 2^20, the first 2^20 are.
    ///
    /// # Errors
    /// [`ApiMisuse::NoSuchRequest`] when it is not open, and
    /// [`ApiMisuse::WrongReply`] for what a client would find wrong: it is no block status,
    /// did not ask for the context, or was told of it before; there are no extents, one is
    /// empty, begins beyond the request or ends beyond the export, or, in compact form, a
    /// status has more than 32 bits; or they are the last, a context is missing, and the
    /// request has not failed.
    pub fn send_extents(
        &mut self,
        id: RequestId,
        context: ContextId,
        extents: &[Extent],
        last: bool,
    ) -> Result<(), ApiMisuse> {
        let size = self.core.export.size;
        let extended = self.core.facts.headers == HeaderStyle::Extended;
        let index = self.core.contexts.index(context);
        let received = self.core.open(id)?;
        let (command, failed) = (received.command, received.failed);
        if command.kind != CommandType::BlockStatus {
            return Err(ApiMisuse::WrongReply);
        }
        let mut first = extents.first().copied().ok_or(ApiMisuse::WrongReply)?;
        first.length = first.length.min(command.length);
        let one = command.flags.contains(CommandFlags::REQ_ONE);
        let extents = extents.get(..MAX_EXTENTS).unwrap_or(extents);
        let extents = if one { slice::from_ref(&first) } else { extents };
        // What a client would miss in the reply is missed here.
        let mut progress = received.reply.status;
        progress.begin(index).map_err(|_| ApiMisuse::WrongReply)?;
        for extent in extents {
            let fits = extended || u32::try_from(extent.status).is_ok();
            if !fits || progress.add(*extent, &command, size).is_err() {
                return Err(ApiMisuse::WrongReply);
            }
        }
        if last && !failed && !progress.is_complete() {
            return Err(ApiMisuse::WrongReply);
        }
        received.reply.status = progress;
        let mut body = Vec::new();
        if extended {
            for extent in extents {
                body.extend_from_slice(&extent.encode_extended());
            }
            // At most 2^20.
            let head = StatusExtHead { context: context.0, count: extents.len() as u32 };
            let head = head.encode();
            self.core.chunk(id, ChunkType::BlockStatusExt, last, &head, Tail::Bytes(&body));
        } else {
            let longest = longest_compact(self.core.export.minimum_block());
            for extent in extents {
                // One so long is the last: no compact request reaches beyond it.
                let length = u32::try_from(extent.length).unwrap_or(longest);
                // Looked at above.
                let status = extent.status as u32;
                body.extend_from_slice(&Extent::compact(length, status));
            }
            let head = context.0.to_be_bytes();
            self.core.chunk(id, ChunkType::BlockStatus, last, &head, Tail::Bytes(&body));
        }
        Ok(())
    }

    /// Ends the reply to a read or a block status whose parts are all sent.
    ///
    /// # Errors
    /// [`ApiMisuse::NoSuchRequest`] when it is not open, and
    /// [`ApiMisuse::WrongReply`] when structured replies were not negotiated, or something is
    /// missing and no error has been told.
    pub fn end_reply(&mut self, id: RequestId) -> Result<(), ApiMisuse> {
        let simple = self.core.facts.headers == HeaderStyle::Simple;
        let received = self.core.open(id)?;
        if simple || !received.failed && received.reply.missing(&received.command).is_some() {
            return Err(ApiMisuse::WrongReply);
        }
        self.core.chunk(id, ChunkType::None, true, &[], Tail::Empty);
        Ok(())
    }
}

/// Most extents in one chunk (proto.md, "NBD_REPLY_TYPE_BLOCK_STATUS").
const MAX_EXTENTS: usize = 1 << 20;

/// What follows the fixed part of a chunk.
enum Tail<'a> {
    Empty,
    Bytes(&'a [u8]),
    Payload { at: usize, length: usize },
}

impl Core {
    fn open(&mut self, id: RequestId) -> Result<&mut Received, ApiMisuse> {
        let received = self.slots.get_mut(id).ok_or(ApiMisuse::NoSuchRequest)?;
        if received.stage == Stage::Open { Ok(received) } else { Err(ApiMisuse::NoSuchRequest) }
    }

    /// The most data of a read that one chunk can carry.
    pub(super) const fn longest_data(&self) -> u64 {
        match self.facts.headers {
            HeaderStyle::Structured => (u32::MAX as u64).saturating_sub(OffsetData::LEN as u64),
            HeaderStyle::Simple | HeaderStyle::Extended => u64::MAX,
        }
    }

    /// Takes note of a part of a read, if a client would; returns its offset in the export.
    fn part(
        &mut self,
        id: RequestId,
        at: usize,
        length: usize,
        last: bool,
    ) -> Result<u64, ApiMisuse> {
        let structured = self.facts.headers != HeaderStyle::Simple;
        let (max_fragments, longest) = (self.limits.max_fragments, self.longest_data());
        let received = self.open(id)?;
        let (command, length) = (received.command, length as u64);
        let offset = command.offset.checked_add(at as u64).ok_or(ApiMisuse::WrongReply)?;
        let sound = structured
            && command.kind == CommandType::Read
            && (1..=longest).contains(&length)
            && place(&command, offset, length).is_some();
        let covered = received.reply.coverage.covered().saturating_add(length);
        let complete = covered >= command.length || received.failed;
        if !sound || last && !complete {
            return Err(ApiMisuse::WrongReply);
        }
        let taken = received.reply.piece(&command, at as u64, length, max_fragments);
        taken.map_err(|_| ApiMisuse::WrongReply)?;
        Ok(offset)
    }

    fn answer_success(&mut self, id: RequestId) {
        if self.facts.headers == HeaderStyle::Extended {
            self.chunk(id, ChunkType::None, true, &[], Tail::Empty);
        } else if self.facts.headers == HeaderStyle::Structured
            && self.slots.get(id).is_some_and(|r| r.command.kind == CommandType::Read)
        {
            // proto.md, "Structured reply chunk message": a read must not get a
            // simple reply, not even one without data.
            self.chunk(id, ChunkType::None, true, &[], Tail::Empty);
        } else {
            self.simple(id, 0);
        }
    }

    pub(super) fn answer_error(&mut self, id: RequestId, errno: Errno, reason: &str) {
        if self.facts.headers == HeaderStyle::Simple {
            self.simple(id, errno.to_wire());
            return;
        }
        let reason = cut_to(reason, LONGEST_REASON);
        let head = ErrorHead { error: errno.to_wire(), message_length: reason.len() as u16 };
        self.chunk(id, ChunkType::Error, true, &head.encode(), Tail::Bytes(reason.as_bytes()));
    }

    fn simple(&mut self, id: RequestId, error: u32) {
        if let Some(received) = self.slots.get_mut(id) {
            received.queued = received.queued.saturating_add(1);
            received.stage = Stage::Answered;
            let reply = SimpleReply { error, cookie: received.cookie };
            self.outbox.push_named(id, &reply.encode());
        }
    }

    fn chunk(&mut self, id: RequestId, kind: ChunkType, last: bool, fixed: &[u8], tail: Tail<'_>) {
        let Some(received) = self.slots.get_mut(id) else {
            return broken("only what was asked is answered");
        };
        let tail_length = match &tail {
            Tail::Empty => 0,
            Tail::Bytes(bytes) => bytes.len(),
            Tail::Payload { length, .. } => *length,
        };
        let header = ChunkHeader {
            flags: if last { ReplyFlags::DONE } else { ReplyFlags::empty() },
            kind: kind.to_wire(),
            cookie: received.cookie,
            offset: received.offset,
            length: fixed.len().saturating_add(tail_length) as u64,
        };
        received.queued = received.queued.saturating_add(1);
        if last {
            received.stage = Stage::Answered;
        }
        // Header and fixed part travel as one piece: at most 32 + 12 bytes.
        let mut head = [0; 44];
        let head_len = match self.facts.headers {
            HeaderStyle::Extended => join(&mut head, &header.encode_extended(), fixed),
            HeaderStyle::Simple | HeaderStyle::Structured => match u32::try_from(header.length) {
                Ok(length) => join(&mut head, &header.structured(length), fixed),
                Err(_) => return self.give_up(internal("a chunk too long for its header")),
            },
        };
        let head = head.get(..head_len).unwrap_or_default();
        match tail {
            Tail::Empty => self.outbox.push_named(id, head),
            Tail::Bytes(bytes) => {
                self.outbox.push_body(Some(id), head, |body| body.extend_from_slice(bytes))
            }
            Tail::Payload { at, length } => self.outbox.push_payload(id, head, at, length),
        };
    }
}

fn join(out: &mut [u8; 44], header: &[u8], fixed: &[u8]) -> usize {
    for (to, from) in out.iter_mut().zip(header.iter().chain(fixed)) {
        *to = *from;
    }
    header.len().saturating_add(fixed.len())
}

/// The longest aligned start of an extent that 32 bits can express.
fn longest_compact(minimum_block: u32) -> u32 {
    let past = u32::MAX.checked_rem(minimum_block.max(512)).unwrap_or(0);
    u32::MAX.saturating_sub(past)
}
