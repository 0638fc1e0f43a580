//! Extents of a block status.

use super::{Chunk, Expect, NO_COMMAND};
use crate::client::Core;
use crate::engine::intake::Step;
use crate::error::{Error, InvalidMessage, internal};
use crate::payload::PayloadSink;
use crate::types::{ContextId, Extent};
use crate::wire::chunk::{ChunkType, StatusExtHead};
use crate::wire::reader::take;

impl Core {
    pub(super) fn status_head(
        &mut self,
        bytes: &[u8],
        chunk: Chunk,
    ) -> Result<(usize, Step), Error> {
        let (context, used, left) = if chunk.kind == ChunkType::BlockStatusExt {
            let (head, _) = take(bytes)?;
            let StatusExtHead { context, count } = StatusExtHead::decode(head);
            let left = chunk.length.saturating_sub(StatusExtHead::LEN as u64);
            if u64::from(count).saturating_mul(Extent::EXTENDED_LEN as u64) != left {
                return Err(InvalidMessage::ExtentCount.into());
            }
            (context, head.len(), left)
        } else {
            let (head, _) = take(bytes)?;
            let left = chunk.length.saturating_sub(head.len() as u64);
            (u32::from_be_bytes(*head), head.len(), left)
        };
        let context = ContextId(context);
        let index = self.contexts.index(context);
        let Some(pending) = self.slots.get_mut(chunk.id) else {
            return Err(internal(NO_COMMAND));
        };
        if let Err(fault) = pending.reply.status.begin(index) {
            self.fault(chunk.id, fault)?;
            return Ok((used, self.skip(chunk, left)));
        }
        let expect = Expect::Extents { chunk, context, left };
        Ok((used, self.expect(expect, extent_len(chunk.kind))))
    }

    /// Streams the extents that are here to the sink, without collecting them.
    pub(super) fn extents<S: PayloadSink>(
        &mut self,
        bytes: &[u8],
        chunk: Chunk,
        context: ContextId,
        left: u64,
        sink: &mut S,
    ) -> Result<(usize, Step), Error> {
        let size = self.export.size;
        let wanted = self.is_wanted(chunk.id);
        let (mut rest, mut left) = (bytes, left);
        while left > 0 {
            let extent = if chunk.kind == ChunkType::BlockStatusExt {
                let Some((head, tail)) = rest.split_first_chunk() else {
                    break;
                };
                rest = tail;
                left = left.saturating_sub(head.len() as u64);
                Extent::decode_extended(head)
            } else {
                let Some((head, tail)) = rest.split_first_chunk() else {
                    break;
                };
                rest = tail;
                left = left.saturating_sub(head.len() as u64);
                Extent::decode_compact(head)
            };
            let Some(pending) = self.slots.get_mut(chunk.id) else {
                return Err(internal(NO_COMMAND));
            };
            if let Err(fault) = pending.reply.status.add(extent, &pending.command, size) {
                self.fault(chunk.id, fault)?;
                return Ok((bytes.len().saturating_sub(rest.len()), self.skip(chunk, left)));
            }
            self.advance(1);
            if wanted {
                sink.extent(chunk.id, context, extent);
            }
        }
        let used = bytes.len().saturating_sub(rest.len());
        let step = if left == 0 {
            self.end_chunk(chunk)?
        } else {
            self.expect(Expect::Extents { chunk, context, left }, extent_len(chunk.kind))
        };
        Ok((used, step))
    }
}

const fn extent_len(kind: ChunkType) -> usize {
    match kind {
        ChunkType::BlockStatusExt => Extent::EXTENDED_LEN,
        _ => Extent::COMPACT_LEN,
    }
}
