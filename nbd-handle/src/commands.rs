//! Commands under way, and where their payload is.

use std::collections::{HashMap, VecDeque};

use nbd_proto::{
    Buffers, ContextId, ErrorReport, Extent, PayloadSink, PayloadSource, ReadChunk, RequestId,
};
use rustix::io::Errno;

use crate::fail::Fail;
use crate::handle::Memory;
use crate::request::{Callbacks, Chunk};

/// A command that is not finished.
#[derive(Debug)]
pub(crate) struct Pending<B> {
    pub(crate) cookie: i64,
    pub(crate) offset: u64,
    pub(crate) buffer: Option<B>,
    /// The buffer was cleared before.
    pub(crate) cleared: bool,
    /// The first that went wrong, by the word of the server or of a callback.
    pub(crate) errno: i32,
    pub(crate) callbacks: Callbacks,
}

/// A command that is finished and was not retired.
#[derive(Debug)]
struct Done {
    outcome: Result<(), Fail>,
    /// Dropped when it is retired.
    _callbacks: Callbacks,
}

/// So few finished commands are not worth tidying up.
const FEW: usize = 16;

/// Commands of one handle.
#[derive(Debug)]
pub(crate) struct Commands<B> {
    pending: Buffers<Pending<B>>,
    count: usize,
    done: HashMap<i64, Done>,
    /// Cookies of those, oldest first; some may be retired.
    order: VecDeque<i64>,
    last_cookie: i64,
}

impl<B> Commands<B> {
    pub(crate) fn new() -> Self {
        Self {
            pending: Buffers::new(),
            count: 0,
            done: HashMap::new(),
            order: VecDeque::new(),
            last_cookie: 0,
        }
    }

    /// Not finished.
    pub(crate) const fn in_flight(&self) -> usize {
        self.count
    }

    pub(crate) const fn next_cookie(&mut self) -> i64 {
        self.last_cookie += 1;
        self.last_cookie
    }

    pub(crate) fn insert(&mut self, id: RequestId, pending: Pending<B>) {
        self.count += 1;
        self.pending.insert(id, pending);
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Pending<B>> {
        let pending = self.pending.remove(id)?;
        self.count -= 1;
        Some(pending)
    }

    /// A command is finished, and its callbacks wait until it is retired.
    pub(crate) fn finish(&mut self, cookie: i64, outcome: Result<(), Fail>, callbacks: Callbacks) {
        self.done.insert(cookie, Done { outcome, _callbacks: callbacks });
        self.order.push_back(cookie);
    }

    /// Retires a command, if it is finished.
    pub(crate) fn retire(&mut self, cookie: i64) -> Option<Result<(), Fail>> {
        let done = self.done.remove(&cookie)?;
        if self.order.front() == Some(&cookie) {
            self.order.pop_front();
        } else if self.order.len() / 2 > self.done.len().max(FEW) {
            // Behind one that nobody retires, as many as like may have been.
            self.order.retain(|cookie| self.done.contains_key(cookie));
        }
        Some(done.outcome)
    }

    /// The one that finished first among those that were not retired.
    pub(crate) fn first_done(&mut self) -> Option<i64> {
        while let Some(cookie) = self.order.front() {
            if self.done.contains_key(cookie) {
                return Some(*cookie);
            }
            self.order.pop_front();
        }
        None
    }
}

/// Calls a callback about a command whose first error is kept in `errno`. It sees `told`; what
/// it returns may become that error.
fn ask(errno: &mut i32, told: i32, callback: impl FnOnce(&mut i32) -> i32) {
    let mut told = told;
    if callback(&mut told) == -1 && *errno == 0 {
        *errno = if told == 0 { Errno::PROTO.raw_os_error() } else { told };
    }
}

impl<B> Pending<B> {
    /// Calls a callback about what came for the command; it may fail it.
    pub(crate) fn tell(&mut self, call: impl FnOnce(&mut Callbacks, &mut i32) -> i32) {
        let Self { errno, callbacks, .. } = self;
        let told = *errno;
        ask(errno, told, |told| call(callbacks, told));
    }
}

impl<B: Memory> PayloadSink for Commands<B> {
    #[inline]
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        match self.pending.get_mut(id).and_then(|pending| pending.buffer.as_mut()) {
            Some(buffer) => buffer.region(at, len),
            None => &mut [],
        }
    }

    fn zeroes(&mut self, id: RequestId, at: usize, len: usize) {
        if let Some(Pending { buffer: Some(buffer), cleared: false, .. }) = self.pending.get_mut(id)
        {
            buffer.region(at, len).fill(0);
        }
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        let Some(pending) = self.pending.get_mut(id) else { return };
        let Pending { buffer: Some(buffer), errno, callbacks, offset, .. } = pending else {
            return;
        };
        let Some(callback) = &mut callbacks.chunk else { return };
        let place = *offset + chunk.at as u64;
        let kind = if chunk.hole { Chunk::Hole } else { Chunk::Data };
        let bytes = buffer.bytes(chunk.at, chunk.length);
        let told = *errno;
        ask(errno, told, |told| callback(bytes, place, kind, told));
    }

    fn extent(&mut self, _: RequestId, _: ContextId, _: Extent) {
        // They come with the completion, too.
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        let Some(pending) = self.pending.get_mut(id) else { return };
        let told = report.errno.to_linux();
        let Pending { buffer, errno, callbacks, offset, .. } = pending;
        if *errno == 0 {
            *errno = told;
        }
        if let (Some(place), Some(callback), Some(buffer)) =
            (report.offset, &mut callbacks.chunk, buffer)
        {
            let at = usize::try_from(place.saturating_sub(*offset)).unwrap_or(usize::MAX);
            ask(errno, told, |told| callback(buffer.bytes(at, 0), place, Chunk::Error, told));
        }
    }
}

impl<B: Memory> PayloadSource for Commands<B> {
    #[inline]
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        match self.pending.get(id).and_then(|pending| pending.buffer.as_ref()) {
            Some(buffer) => buffer.bytes(at, len),
            None => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_never_retired_does_not_hold_the_others() {
        let mut commands = Commands::<Vec<u8>>::new();
        for cookie in 0..10_000 {
            commands.finish(cookie, Ok(()), Callbacks::default());
            if cookie > 0 {
                assert_eq!(commands.retire(cookie), Some(Ok(())));
            }
            assert!(commands.order.len() <= 4 * FEW);
            assert_eq!(commands.first_done(), Some(0));
        }
        assert_eq!(commands.retire(0), Some(Ok(())));
        assert_eq!(commands.first_done(), None);
    }
}
