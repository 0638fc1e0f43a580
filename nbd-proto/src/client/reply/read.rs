//! Data of a read, and holes in it.

use super::{Chunk, Expect, NO_COMMAND};
use crate::client::Core;
use crate::engine::intake::Step;
use crate::error::{Error, InvalidMessage, PeerMisbehaved, internal};
use crate::payload::{PayloadSink, ReadChunk};
use crate::reply::place;
use crate::types::RequestId;
use crate::wire::chunk::{OffsetData, OffsetHole};
use crate::wire::reader::take;

impl Core {
    pub(super) fn data_offset(
        &mut self,
        bytes: &[u8],
        chunk: Chunk,
    ) -> Result<(usize, Step), Error> {
        let (head, _) = take(bytes)?;
        let OffsetData { offset } = OffsetData::decode(head);
        let length = chunk.length.saturating_sub(OffsetData::LEN as u64);
        let step = match self.content(chunk.id, offset, length)? {
            Some(at) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                self.expect = Expect::Data { chunk, at, length };
                Step::Place { id: chunk.id, at, left: length }
            }
            None => self.skip(chunk, length),
        };
        Ok((head.len(), step))
    }

    pub(super) fn hole<S: PayloadSink>(
        &mut self,
        bytes: &[u8],
        chunk: Chunk,
        sink: &mut S,
    ) -> Result<(usize, Step), Error> {
        let (head, _) = take(bytes)?;
        let hole = OffsetHole::decode(head);
        if hole.length == 0 {
            // proto.md, "NBD_REPLY_TYPE_OFFSET_HOLE": must be at least 1.
            return Err(InvalidMessage::ChunkLength.into());
        }
        if let Some(at) = self.content(chunk.id, hole.offset, u64::from(hole.length))? {
            self.advance(1);
            if self.is_wanted(chunk.id) {
                let length = hole.length as usize;
                sink.zeroes(chunk.id, at, length);
                sink.chunk(chunk.id, ReadChunk { at, length, hole: true });
            }
        }
        Ok((head.len(), self.end_chunk(chunk)?))
    }

    /// Checks where a piece of a read belongs; `None` if its bytes are not to be
    /// used. proto.md, "NBD_CMD_READ".
    fn content(&mut self, id: RequestId, offset: u64, length: u64) -> Result<Option<usize>, Error> {
        let max_fragments = self.limits.max_fragments;
        let Some(pending) = self.slots.get_mut(id) else {
            return Err(internal(NO_COMMAND));
        };
        let command = pending.command;
        let Some(at) = place(&command, offset, length) else {
            return Err(PeerMisbehaved::ChunkOutsideRequest.into());
        };
        match pending.reply.piece(&command, at, length, max_fragments) {
            Err(fault) => {
                self.fault(id, fault)?;
                Ok(None)
            }
            Ok(()) => Ok(usize::try_from(at).ok()),
        }
    }
}
