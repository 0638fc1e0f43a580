//! The common reply, taken in one go.
//!
//! Most small reads are answered by one structured chunk that holds all of the data
//! and has arrived from first byte to last together with dozens like it. Such a reply
//! needs none of the states between its parts. Whatever differs in any way is left to
//! the general path, untouched.

use super::Expect;
use crate::client::Core;
use crate::client::outstanding::count_down;
use crate::client::pending::Stage;
use crate::payload::{PayloadSink, ReadChunk};
use crate::types::{HeaderStyle, RequestId};
use crate::wire::chunk::{ChunkType, OffsetData};
use crate::wire::flags::ReplyFlags;
use crate::wire::reply::ChunkHeader;
use crate::wire::request::CommandType;

/// Bytes of such a reply besides its data.
const OVERHEAD: usize = ChunkHeader::STRUCTURED_LEN + OffsetData::LEN;

impl Core {
    /// Takes in such replies from the front of `bytes`; returns how long they were.
    pub(super) fn whole_reads<S: PayloadSink>(&mut self, bytes: &[u8], sink: &mut S) -> usize {
        if self.facts.headers != HeaderStyle::Structured || !matches!(self.expect, Expect::Header) {
            return 0;
        }
        let first_unsent = self.outbox.first_unsent();
        let (mut rest, mut count) = (bytes, 0_usize);
        while let Some(tail) = self.whole_read(rest, first_unsent, sink) {
            rest = tail;
            // Of bytes that are there: no more than there are.
            count = count.wrapping_add(1);
        }
        let used = bytes.len().saturating_sub(rest.len());
        count_down(&mut self.unfinished, count);
        self.advance(count);
        self.messages_received = self.messages_received.wrapping_add(count as u64);
        let copied = used.saturating_sub(count.saturating_mul(OVERHEAD));
        self.bytes_copied = self.bytes_copied.wrapping_add(copied as u64);
        used
    }

    fn whole_read<'a, S: PayloadSink>(
        &mut self,
        bytes: &'a [u8],
        first_unsent: u64,
        sink: &mut S,
    ) -> Option<&'a [u8]> {
        let (head, rest) = bytes.split_first_chunk()?;
        let header = ChunkHeader::decode_structured(head).ok()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let OffsetData { offset } = OffsetData::decode(offset);
        if header.kind != ChunkType::OffsetData.to_wire() || header.flags != ReplyFlags::DONE {
            return None;
        }
        let id = RequestId::from_cookie(header.cookie);
        let pending = self.slots.get_mut(id)?;
        let command = pending.command;
        let length = usize::try_from(command.length).ok()?;
        let asked = command.kind == CommandType::Read
            && offset == command.offset
            // One that is too short wraps to a length that no read has.
            && header.length.wrapping_sub(OffsetData::LEN as u64) == command.length;
        let first = pending.reply.pieces == 0 && pending.error.is_none();
        let due = pending.stage == Stage::InFlight
            && !pending.abandoned
            && pending.sequence < first_unsent;
        if !asked || !first || !due || length == 0 {
            return None;
        }
        let (data, rest) = rest.split_at_checked(length)?;
        sink.region(id, 0, length).get_mut(..length)?.copy_from_slice(data);
        sink.chunk(id, ReadChunk { at: 0, length, hole: false });
        pending.stage = Stage::Done;
        if self.operations > self.overtaken {
            self.overtakes(id);
        }
        self.slots.transfer(&mut self.in_flight, &mut self.done, id);
        Some(rest)
    }
}
