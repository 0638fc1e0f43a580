//! Errors, and what the server says about them.

use super::{Chunk, Expect};
use crate::client::Core;
use crate::engine::intake::Step;
use crate::errno::Errno;
use crate::error::{CommandError, Error, InvalidMessage, ReplyFault};
use crate::payload::{ErrorReport, PayloadSink};
use crate::wire::MAX_STRING;
use crate::wire::chunk::{ChunkType, ErrorHead, OffsetData};
use crate::wire::reader::take;

impl Core {
    pub(super) fn error_head(
        &mut self,
        bytes: &[u8],
        chunk: Chunk,
    ) -> Result<(usize, Step), Error> {
        let (head, _) = take(bytes)?;
        let ErrorHead { error, message_length } = ErrorHead::decode(head);
        let room = chunk.length.saturating_sub(ErrorHead::LEN as u64);
        let message = u64::from(message_length);
        if message > room {
            // proto.md, "Structured reply types".
            return Err(InvalidMessage::ErrorMessageLength.into());
        }
        let errno = match Errno::from_wire(error) {
            Some(errno) => {
                if let Some(pending) = self.slots.get_mut(chunk.id) {
                    pending.fail(CommandError::Server(errno));
                }
                errno
            }
            None => {
                // proto.md, "NBD_REPLY_TYPE_ERROR": must be nonzero.
                self.fault(chunk.id, ReplyFault::ErrorZero)?;
                Errno::Proto
            }
        };
        let offset = chunk.kind == ChunkType::ErrorOffset && room == message + 8;
        if chunk.kind == ChunkType::ErrorOffset && !offset {
            self.fault(chunk.id, ReplyFault::ErrorOffset)?;
        }
        let step = if message > MAX_STRING as u64 {
            // proto.md, "Conventions": no text is longer than that.
            self.fault(chunk.id, ReplyFault::LongMessage)?;
            self.skip(chunk, room)
        } else {
            let message = usize::from(message_length);
            let need = message.saturating_add(if offset { OffsetData::LEN } else { 0 });
            let excess = room.saturating_sub(need as u64);
            self.expect(Expect::ErrorBody { chunk, errno, message, offset, excess }, need)
        };
        Ok((head.len(), step))
    }

    pub(super) fn error_body<S: PayloadSink>(
        &mut self,
        bytes: &[u8],
        sink: &mut S,
    ) -> Result<(usize, Step), Error> {
        let Expect::ErrorBody { chunk, errno, message, offset, excess } = self.expect else {
            return Ok((0, self.next_header()));
        };
        let (text, rest) = bytes.split_at_checked(message).ok_or(InvalidMessage::Truncated)?;
        let mut used = text.len();
        let mut place = None;
        if offset {
            let (tail, _) = take(rest)?;
            used = used.saturating_add(tail.len());
            let OffsetData { offset } = OffsetData::decode(tail);
            let command = self.slots.get(chunk.id).map(|pending| pending.command);
            // An offset outside the request is told to nobody.
            place = command.and_then(|command| {
                let at = offset.checked_sub(command.offset)?;
                (at < command.length).then_some(offset)
            });
            if place.is_none() {
                self.fault(chunk.id, ReplyFault::ErrorOffset)?;
            }
        }
        if self.is_wanted(chunk.id) {
            sink.error(chunk.id, ErrorReport { errno, offset: place, message: text });
        }
        let step = if excess > 0 { self.skip(chunk, excess) } else { self.end_chunk(chunk)? };
        Ok((used, step))
    }
}
