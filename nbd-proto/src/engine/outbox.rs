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
use core::mem;
use core::ops::{ControlFlow, Range};

use crate::engine::Stats;
use crate::error::{ApiMisuse, Error, broken, internal};
use crate::payload::PayloadSource;
use crate::types::RequestId;

/// Sent bytes at the front of the fixed buffer are moved out of the way when they
/// are at least this many and half of it.
const COMPACT_MIN: usize = 4096;

/// What the fixed buffer keeps when everything was sent, in bytes: the headers of thousands of
/// requests. Extents and lists can take much more.
const KEPT: usize = 1 << 20;

/// Messages that were taken back are swept out when they are at least this many, and half as
/// many as there are entries.
const SWEEP_MIN: usize = 64;

/// Neighbours in the queue that are of one size and without payload share an entry, so
/// that queueing them and accounting for them as sent costs next to nothing. An entry
/// ends where the next one begins: at most [`Entry::MOST`] messages, and one that has an
/// id is alone. One without bytes stands for any number that were taken back.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Sequence number of its first message.
    first: u64,
    /// Bytes of each message in the fixed buffer.
    fixed: usize,
    /// The messages that were taken back, by bit.
    cancelled: u64,
    /// Named when the message is sent.
    id: Option<RequestId>,
    /// Bytes of payload of the request, from `at`.
    payload: usize,
    at: usize,
}

impl Entry {
    const MOST: u64 = u64::BITS as u64;

    /// The bit of a message: there are no more of them than bits.
    const fn bit(index: u32) -> u64 {
        1_u64.wrapping_shl(index)
    }

    const fn is_cancelled(&self, index: u32) -> bool {
        self.fixed == 0 || self.cancelled & Self::bit(index) != 0
    }

    /// Whether all of `count` messages were taken back.
    const fn is_void(&self, count: u32) -> bool {
        self.fixed == 0 || self.cancelled.trailing_ones() >= count
    }

    /// Stands for messages that were taken back.
    const fn void(first: u64) -> Self {
        Self { first, fixed: 0, cancelled: 0, id: None, payload: 0, at: 0 }
    }

    /// Messages of `count` that end within its first `cursor` bytes.
    const fn whole(&self, count: u32, cursor: usize) -> u32 {
        if count == 1 {
            return (cursor >= self.fixed.saturating_add(self.payload)) as u32;
        }
        match cursor.checked_div(self.fixed) {
            Some(whole) => whole as u32,
            None => count,
        }
    }

    /// Where a message starts, or the last one ends: inside the fixed buffer, or at its end.
    const fn start(&self, index: u32) -> usize {
        self.fixed.wrapping_mul(index as usize)
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Entry>,
    /// Sequence number of the next message; 0 is nobody's. 64 bits are never used up.
    next: u64,
    /// Size of the messages that may join the last entry.
    run: usize,
    /// Sequence number from which on none may.
    run_end: u64,
    /// Bytes of the front entry that are sent, or taken back.
    cursor: usize,
    fixed: Vec<u8>,
    /// Where the front entry starts in the fixed buffer.
    fixed_start: usize,
    /// Nothing more is sent.
    closed: bool,
    /// The message of which some was sent and the rest was thrown away.
    cut: u64,
    /// Messages that were taken back since the last sweep.
    taken_back: usize,
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            next: 1,
            run: 0,
            run_end: 0,
            cursor: 0,
            fixed: Vec::new(),
            fixed_start: 0,
            closed: false,
            cut: 0,
            taken_back: 0,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether nothing can be sent any more.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Sequence number of the first message that is not sent whole. Whatever comes
    /// before it is sent, or was taken back.
    #[inline]
    pub(crate) fn first_unsent(&self) -> u64 {
        match self.queue.front() {
            Some(front) => {
                let whole = front.whole(self.front_count(), self.cursor);
                front.first.wrapping_add(u64::from(whole))
            }
            None => self.next,
        }
    }

    /// Whether any byte of a message is sent.
    pub(crate) fn has_begun(&self, sequence: u64) -> bool {
        sequence < self.first_unsent() || sequence == self.partly_sent()
    }

    /// The message of which some is sent; 0 if there is none.
    fn partly_sent(&self) -> u64 {
        let unsent = self.first_unsent();
        match self.queue.front() {
            Some(front) if self.cursor > front.start(unsent.wrapping_sub(front.first) as u32) => {
                unsent
            }
            _ => self.cut,
        }
    }

    /// Bytes that are queued, without payload.
    pub(crate) fn fixed_len(&self) -> usize {
        self.fixed.len().saturating_sub(self.fixed_start)
    }

    /// Messages in the front entry.
    #[inline]
    fn front_count(&self) -> u32 {
        let end = self.queue.get(1).map_or(self.next, |second| second.first);
        self.queue.front().map_or(0, |front| end.wrapping_sub(front.first) as u32)
    }

    /// Queues a message without payload. Returns its sequence number.
    #[inline]
    pub(crate) fn push(&mut self, fixed: &[u8]) -> u64 {
        self.fixed.extend_from_slice(fixed);
        if self.run == fixed.len() && self.next < self.run_end {
            return self.number();
        }
        self.append(None, fixed.len(), 0, 0)
    }

    #[inline]
    const fn number(&mut self) -> u64 {
        let next = self.next.wrapping_add(1);
        mem::replace(&mut self.next, next)
    }

    /// Queues a message without payload. `id` is named when it is sent.
    pub(crate) fn push_named(&mut self, id: RequestId, fixed: &[u8]) -> u64 {
        self.fixed.extend_from_slice(fixed);
        self.append(Some(id), fixed.len(), 0, 0)
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
        self.append(Some(id), fixed.len(), at, len)
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
        self.append(id, self.fixed.len().saturating_sub(before), 0, 0)
    }

    fn append(&mut self, id: Option<RequestId>, fixed: usize, at: usize, payload: usize) -> u64 {
        if self.closed {
            self.fixed.clear();
            return self.next;
        }
        let first = self.number();
        let alone = id.is_some() || payload > 0;
        (self.run, self.run_end) =
            if alone { (0, 0) } else { (fixed, first.saturating_add(Entry::MOST)) };
        self.queue.push_back(Entry { first, fixed, cancelled: 0, id, payload, at });
        first
    }

    /// Takes a message back if none of its bytes has been sent.
    pub(crate) fn cancel(&mut self, sequence: u64) -> bool {
        if sequence < self.first_unsent() || sequence >= self.next {
            return false;
        }
        let after = self.queue.partition_point(|entry| entry.first <= sequence);
        let place = after.saturating_sub(1);
        let Some(entry) = self.queue.get_mut(place) else {
            broken("what was not sent is queued");
            return false;
        };
        let index = sequence.saturating_sub(entry.first) as u32;
        if (place == 0 && self.cursor > entry.start(index)) || entry.is_cancelled(index) {
            return false;
        }
        entry.cancelled |= Entry::bit(index);
        self.taken_back = self.taken_back.saturating_add(1);
        self.settle();
        if self.taken_back >= (self.queue.len() / 2).max(SWEEP_MIN) {
            self.sweep();
        }
        self.compact();
        true
    }

    /// Forgets the bytes of entries of which every message was taken back: behind a message
    /// that does not leave they would gather without end.
    fn sweep(&mut self) {
        self.taken_back = 0;
        // The front one may be partly sent, and has something left.
        let Some(front) = self.queue.front() else { return };
        let mut own = self.fixed_start.saturating_add(front.start(self.front_count()));
        let (mut from, mut to, mut end) = (1, 1_usize, own);
        while let Some(entry) = self.queue.get(from).copied() {
            from = from.saturating_add(1);
            let behind = self.queue.get(from).map_or(self.next, |next| next.first);
            let count = behind.wrapping_sub(entry.first) as u32;
            let bytes = own..own.saturating_add(entry.start(count));
            own = bytes.end;
            let kept = if entry.is_void(count) {
                let before = to.checked_sub(1).and_then(|before| self.queue.get(before));
                if before.is_some_and(|before| before.fixed == 0) {
                    continue;
                }
                Entry::void(entry.first)
            } else {
                let len = bytes.len();
                if bytes.end <= self.fixed.len() {
                    self.fixed.copy_within(bytes, end);
                }
                end = end.saturating_add(len);
                entry
            };
            if let Some(place) = self.queue.get_mut(to) {
                *place = kept;
            }
            to = to.saturating_add(1);
        }
        self.queue.truncate(to);
        self.fixed.truncate(end);
        if self.queue.back().is_some_and(|last| last.fixed == 0) {
            // Nothing can join it.
            self.run_end = 0;
        }
    }

    /// Passes over what was taken back and what is sent whole at the front.
    fn settle(&mut self) {
        while let Some(front) = self.queue.front() {
            let count = self.front_count();
            let index = front.whole(count, self.cursor);
            if index < count {
                if !front.is_cancelled(index) || self.cursor != front.start(index) {
                    return;
                }
                let next = index.saturating_add(1);
                if next < count {
                    self.cursor = front.start(next);
                    continue;
                }
            }
            self.fixed_start = self.fixed_start.saturating_add(front.start(count));
            self.cursor = 0;
            self.queue.pop_front();
        }
        // There is no last entry to join.
        self.run_end = 0;
    }

    /// Makes room in the fixed buffer, seldom enough to cost nothing.
    fn compact(&mut self) {
        if self.queue.is_empty() {
            self.fixed.clear();
            self.fixed.shrink_to(KEPT);
            self.fixed_start = 0;
        } else if self.fixed_start >= COMPACT_MIN
            && self.fixed_start >= self.fixed.len().div_ceil(2)
        {
            self.fixed.drain(..self.fixed_start);
            self.fixed_start = 0;
        }
    }

    /// Throws everything away, begun or not, and takes nothing more: whatever came
    /// behind half a message would be read as its other half.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.cut = self.partly_sent();
        // What was not sent counts as unsent for ever.
        self.next = self.first_unsent();
        self.queue.clear();
        self.run_end = 0;
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
        let total = front.start(self.front_count());
        if self.is_one_run() {
            let start = self.fixed_start.saturating_add(self.cursor);
            let _ = self.run(start..self.fixed_start.saturating_add(total), &mut visit);
            return Ok(());
        }
        let mut start = self.fixed_start.saturating_add(self.cursor.min(total));
        let mut end = self.fixed_start;
        let mut done = self.cursor.saturating_sub(total);
        // Nothing stands before the entry that is looked at.
        let mut idle = true;
        let mut entries = self.queue.iter().peekable();
        while let Some(entry) = entries.next() {
            let behind = entries.peek().map_or(self.next, |next| next.first);
            let count = behind.wrapping_sub(entry.first) as u32;
            let own = end;
            end = own.saturating_add(entry.start(count));
            if entry.cancelled != 0 {
                for index in (0..count).filter(|index| entry.is_cancelled(*index)) {
                    let at = own.saturating_add(entry.start(index));
                    if self.run(start..at, &mut visit).is_break() {
                        return Ok(());
                    }
                    start = start.max(at.saturating_add(entry.fixed));
                }
            } else if entry.payload > 0 {
                let Some(id) = entry.id else {
                    return Err(internal("payload is somebody's"));
                };
                let unsent = |done: usize| {
                    let left = entry.payload.saturating_sub(done);
                    let bytes = source.bytes(id, entry.at.saturating_add(done), left);
                    bytes.get(..left).unwrap_or(bytes)
                };
                if unsent(done).is_empty() {
                    // Whatever stands before it can go out.
                    let _ = self.run(start..own, &mut visit);
                    return if idle { Err(ApiMisuse::PayloadMissing.into()) } else { Ok(()) };
                }
                if self.run(start..end, &mut visit).is_break() {
                    return Ok(());
                }
                while done < entry.payload {
                    let bytes = unsent(done);
                    if bytes.is_empty() {
                        // Begun and now gone: nothing after it may be sent.
                        return Err(ApiMisuse::PayloadMissing.into());
                    }
                    done = done.saturating_add(bytes.len());
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

    /// Whether everything that is queued lies back to back: neighbours without payload, none of
    /// which was taken back. Most writes send nothing else.
    #[inline]
    fn is_one_run(&self) -> bool {
        self.queue.len() == 1
            && self.queue.front().is_some_and(|one| one.payload == 0 && one.cancelled == 0)
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

    /// `n` bytes were sent; reports each request that was named and has left whole.
    pub(crate) fn sent(
        &mut self,
        n: usize,
        stats: &mut Stats,
        mut done: impl FnMut(RequestId),
    ) -> Result<(), ApiMisuse> {
        stats.writes = stats.writes.wrapping_add(1);
        stats.bytes_sent = stats.bytes_sent.wrapping_add(n as u64);
        if self.cursor == 0 && self.is_one_run() && n == self.fixed_len() {
            self.sent_all(stats, done);
            return Ok(());
        }
        let mut left = n;
        while left > 0 {
            let Some(front) = self.queue.front() else { break };
            let count = self.front_count();
            let before = front.whole(count, self.cursor);
            // As far as no message was taken back.
            let live = front.cancelled.wrapping_shr(before).trailing_zeros();
            let end = front.start(before.saturating_add(live).min(count));
            let end = end.saturating_add(front.payload);
            let step = left.min(end.saturating_sub(self.cursor));
            self.cursor = self.cursor.saturating_add(step);
            left = left.saturating_sub(step);
            let whole = front.whole(count, self.cursor);
            let more = u64::from(whole.saturating_sub(before));
            stats.messages_sent = stats.messages_sent.wrapping_add(more);
            if whole == count
                && let Some(id) = front.id
            {
                done(id);
            }
            self.settle();
        }
        self.compact();
        if left == 0 { Ok(()) } else { Err(ApiMisuse::SentTooMuch) }
    }

    /// The one run that was queued has left whole.
    fn sent_all(&mut self, stats: &mut Stats, mut done: impl FnMut(RequestId)) {
        let count = u64::from(self.front_count());
        stats.messages_sent = stats.messages_sent.wrapping_add(count);
        if let Some(id) = self.queue.pop_front().and_then(|one| one.id) {
            done(id);
        }
        self.compact();
        // There is no last entry to join.
        self.run_end = 0;
    }
}

#[cfg(test)]
mod tests;
