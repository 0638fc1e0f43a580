//! The send engine: a queue of messages, drained by vectored writes that may
//! stop at any byte.
//!
//! ```text
//!   messages   front                                            back
//!              [fixed 28] [fixed 28 + payload 4096] [fixed 28] ...
//!                  │            │            │           │
//!   fixed      [28 bytes][28 bytes]          │       [28 bytes]    contiguous
//!                                            ▼
//!                                     PayloadSource                lent by the caller
//! ```
//!
//! What belongs to the protocol (headers, options, extents, error texts) lies back
//! to back in one buffer, so a run of messages without payload is one slice,
//! however many they are. Payload stays with whoever lends the [`PayloadSource`].
//! Nothing is copied twice, and nothing is allocated once the buffer and the queue
//! have grown to what is in use.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::{ControlFlow, Range};

use crate::engine::Stats;
use crate::error::{ApiMisuse, Error};
use crate::payload::PayloadSource;
use crate::types::RequestId;

/// Sent bytes at the front of the fixed buffer are moved out of the way when they
/// are at least this many and half of it.
const COMPACT_MIN: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Message {
    id: Option<RequestId>,
    /// Bytes in the fixed buffer.
    fixed: usize,
    /// Bytes of payload of the request, from `at`.
    payload: usize,
    at: usize,
    /// Taken back before its first byte was sent.
    cancelled: bool,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Message>,
    /// Sequence number of the front message.
    front: u64,
    /// Bytes of the front message that are sent.
    cursor: usize,
    fixed: Vec<u8>,
    /// Where the front message starts in the fixed buffer.
    fixed_start: usize,
    /// Nothing more is sent.
    closed: bool,
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            front: 0,
            cursor: 0,
            fixed: Vec::new(),
            fixed_start: 0,
            closed: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a message without payload. `id` is named when it is sent.
    pub(crate) fn push(&mut self, id: Option<RequestId>, fixed: &[u8]) -> u64 {
        self.fixed.extend_from_slice(fixed);
        self.push_message(id, fixed.len(), 0, 0)
    }

    /// Queues a message followed by `len` bytes of payload of request `id`, from `at`.
    pub(crate) fn push_payload(
        &mut self,
        id: RequestId,
        fixed: &[u8],
        at: usize,
        len: usize,
    ) -> u64 {
        self.fixed.extend_from_slice(fixed);
        self.push_message(Some(id), fixed.len(), at, len)
    }

    /// Queues a message followed by bytes that `write` appends.
    pub(crate) fn push_body(
        &mut self,
        id: Option<RequestId>,
        header: &[u8],
        write: impl FnOnce(&mut Vec<u8>),
    ) -> u64 {
        let before = self.fixed.len();
        self.fixed.extend_from_slice(header);
        write(&mut self.fixed);
        self.push_message(id, self.fixed.len() - before, 0, 0)
    }

    fn push_message(
        &mut self,
        id: Option<RequestId>,
        fixed: usize,
        at: usize,
        payload: usize,
    ) -> u64 {
        if self.closed {
            self.fixed.clear();
            return self.front;
        }
        self.queue.push_back(Message { id, fixed, payload, at, cancelled: false });
        self.front + (self.queue.len() as u64 - 1)
    }

    /// Takes a message back if none of its bytes has been sent.
    pub(crate) fn cancel(&mut self, sequence: u64) -> bool {
        let Some(index) = sequence.checked_sub(self.front) else {
            return false;
        };
        let begun = index == 0 && self.cursor > 0;
        let message = usize::try_from(index).ok().and_then(|i| self.queue.get_mut(i));
        match message {
            Some(message) if !begun => {
                message.cancelled = true;
                self.drop_cancelled();
                true
            }
            _ => false,
        }
    }

    /// Messages at the front that were taken back are gone.
    fn drop_cancelled(&mut self) {
        while self.queue.front().is_some_and(|message| message.cancelled) {
            self.retire_front();
        }
        self.compact();
    }

    fn retire_front(&mut self) {
        if let Some(message) = self.queue.pop_front() {
            self.front += 1;
            self.cursor = 0;
            self.fixed_start += message.fixed;
        }
    }

    /// Makes room in the fixed buffer, seldom enough to cost nothing.
    fn compact(&mut self) {
        if self.queue.is_empty() {
            self.fixed.clear();
            self.fixed_start = 0;
        } else if self.fixed_start >= COMPACT_MIN && self.fixed_start * 2 >= self.fixed.len() {
            self.fixed.drain(..self.fixed_start);
            self.fixed_start = 0;
        }
    }

    /// Throws everything away, begun or not, and takes nothing more: whatever came
    /// behind half a message would be read as its other half.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.front += self.queue.len() as u64;
        self.queue.clear();
        self.cursor = 0;
        self.fixed.clear();
        self.fixed_start = 0;
    }

    /// Visits the bytes to send next, in order, until the visitor stops.
    ///
    /// A message whose payload the source does not have is not begun; if that is
    /// the first message, it is the caller's error.
    pub(crate) fn for_each_unsent<'a, P, F>(
        &'a self,
        source: &'a P,
        mut visit: F,
    ) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        let Some(front) = self.queue.front() else {
            return Ok(());
        };
        // The fixed bytes of neighbours, from `start` to `end`, go out as one run.
        let mut start = self.fixed_start + self.cursor.min(front.fixed);
        let mut end = self.fixed_start;
        let mut done = self.cursor.saturating_sub(front.fixed);
        let mut idle = true;
        for message in &self.queue {
            let own = end;
            end += message.fixed;
            if message.cancelled {
                if self.run(start..own, &mut visit).is_break() {
                    return Ok(());
                }
                start = end;
            } else if message.payload > 0 {
                let Some(id) = message.id else { continue };
                if source.bytes(id, message.at + done, message.payload - done).is_empty() {
                    let _ = self.run(start..own, &mut visit);
                    // Whatever stands before it can go out.
                    let stuck = idle && start >= own;
                    return if stuck { Err(ApiMisuse::PayloadMissing.into()) } else { Ok(()) };
                }
                if self.run(start..end, &mut visit).is_break() {
                    return Ok(());
                }
                while done < message.payload {
                    let left = message.payload - done;
                    let bytes = source.bytes(id, message.at + done, left);
                    let bytes = bytes.get(..left).unwrap_or(bytes);
                    if bytes.is_empty() {
                        // Begun and now gone: nothing after it may be sent.
                        return Err(ApiMisuse::PayloadMissing.into());
                    }
                    done += bytes.len();
                    if visit(bytes).is_break() {
                        return Ok(());
                    }
                }
                start = end;
            }
            idle = false;
            done = 0;
        }
        let _ = self.run(start..end, &mut visit);
        Ok(())
    }

    /// Visits a run of fixed bytes.
    fn run<'a, F>(&'a self, range: Range<usize>, visit: &mut F) -> ControlFlow<()>
    where
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        match self.fixed.get(range) {
            Some(bytes) if !bytes.is_empty() => visit(bytes),
            _ => ControlFlow::Continue(()),
        }
    }

    /// `n` bytes were sent; reports the request of each message that left whole.
    pub(crate) fn sent(
        &mut self,
        n: usize,
        stats: &mut Stats,
        mut done: impl FnMut(RequestId),
    ) -> Result<(), ApiMisuse> {
        stats.writes += 1;
        stats.bytes_sent += n as u64;
        let mut left = n;
        while let Some(message) = self.queue.front() {
            if !message.cancelled {
                let (id, rest) = (message.id, message.fixed + message.payload - self.cursor);
                if left < rest {
                    self.cursor += left;
                    left = 0;
                    break;
                }
                left -= rest;
                stats.messages_sent += 1;
                if let Some(id) = id {
                    done(id);
                }
            }
            self.retire_front();
        }
        self.compact();
        if left == 0 { Ok(()) } else { Err(ApiMisuse::SentTooMuch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Discard, Table};
    use alloc::vec;
    use proptest::prelude::*;

    fn id(slot: u64) -> RequestId {
        RequestId::from_cookie(slot | 1 << 32)
    }

    fn gather(outbox: &Outbox, table: &Table<Vec<u8>>) -> (Vec<u8>, usize) {
        let (mut bytes, mut pieces) = (Vec::new(), 0);
        outbox
            .for_each_unsent(table, |piece| {
                bytes.extend_from_slice(piece);
                pieces += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        (bytes, pieces)
    }

    #[test]
    fn a_run_without_payload_is_one_piece() {
        let mut outbox = Outbox::new();
        for slot in 0..64 {
            outbox.push(Some(id(slot)), &[slot as u8; 28]);
        }
        let (bytes, pieces) = gather(&outbox, &Table::new());
        assert_eq!((bytes.len(), pieces), (64 * 28, 1));
    }

    #[test]
    fn a_message_without_its_payload_is_not_begun() {
        let mut outbox = Outbox::new();
        outbox.push(None, b"first");
        outbox.push_payload(id(0), b"second", 0, 4);
        assert_eq!(gather(&outbox, &Table::new()).0, b"first");
        outbox.sent(5, &mut Stats::default(), |_| {}).unwrap();
        let nothing = outbox.for_each_unsent(&Discard, |_| ControlFlow::Continue(()));
        assert_eq!(nothing, Err(ApiMisuse::PayloadMissing.into()));
    }

    proptest! {
        /// Any mix of messages, cancelled here and there, sent in any pieces, is the
        /// stream of those that were not cancelled.
        #[test]
        fn the_stream_is_the_messages(
            messages in prop::collection::vec((0usize..40, 0usize..60, prop::bool::ANY), 1..20),
            cuts in prop::collection::vec(1usize..50, 1..200),
        ) {
            let (mut outbox, mut table, mut expected) = (Outbox::new(), Table::new(), Vec::new());
            let mut sequences = Vec::new();
            for (i, (fixed, payload, cancel)) in messages.iter().enumerate() {
                let fixed = vec![i as u8; *fixed + 1];
                let data = vec![!(i as u8); *payload];
                let sequence = outbox.push_payload(id(i as u64), &fixed, 0, data.len());
                if !cancel {
                    expected.extend_from_slice(&fixed);
                    expected.extend_from_slice(&data);
                }
                table.insert(id(i as u64), data);
                sequences.push((sequence, *cancel));
            }
            for (sequence, cancel) in sequences {
                if cancel {
                    prop_assert!(outbox.cancel(sequence));
                }
            }
            let (mut stream, mut done, mut stats) = (Vec::new(), Vec::new(), Stats::default());
            for cut in cuts.iter().cycle() {
                let (bytes, _) = gather(&outbox, &table);
                prop_assert!(expected.ends_with(&bytes));
                let n = bytes.len().min(*cut);
                stream.extend_from_slice(&bytes[..n]);
                outbox.sent(n, &mut stats, |id| done.push(id)).unwrap();
                if outbox.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(stream, expected);
            prop_assert_eq!(done.len(), messages.iter().filter(|(_, _, cancel)| !cancel).count());
            prop_assert_eq!(outbox.sent(1, &mut stats, |_| {}), Err(ApiMisuse::SentTooMuch));
        }
    }
}
