//! A stream that somebody else has made. What it does is unknown, so it is called with no lock
//! held, and bytes are copied on their way.

use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use nbd_proto::io::{checked_count, is_gone};
use nbd_session::Outgoing;

use crate::into_stream::Duplex;
use crate::state::{BUDGET, Shared, State};

/// As many bytes are under way at most, in each direction.
const ROOM: usize = 64 << 10;

/// A stream of the caller's, and what is on its way through it.
pub(crate) struct OwnStream {
    pub(crate) generation: u64,
    stream: Box<dyn Duplex>,
    input: Box<[u8]>,
    /// What of the input was not taken in.
    unread: Range<usize>,
    output: Outgoing,
    unflushed: bool,
    /// Nothing more is to be sent.
    pub(crate) closing: bool,
    closed: bool,
}

impl OwnStream {
    pub(crate) fn new(generation: u64, stream: Box<dyn Duplex>) -> Self {
        Self {
            generation,
            stream,
            input: vec![0; ROOM].into_boxed_slice(),
            unread: 0..0,
            output: Outgoing::new(ROOM),
            unflushed: false,
            closing: false,
            closed: false,
        }
    }

    /// Sends this as well, as far as that goes at once: whether it arrives changes nothing.
    pub(crate) fn close(mut self, last_word: &[u8]) {
        let _ = self.output.write_all(last_word);
        let cx = &mut Context::from_waker(Waker::noop());
        while let Poll::Ready(Ok(count @ 1..)) =
            Pin::new(&mut *self.stream).poll_write(cx, self.output.rest())
        {
            self.output.sent(count);
        }
        let _ = Pin::new(&mut *self.stream).poll_flush(cx);
    }

    /// Moves bytes both ways. Returns whether there is more to do at once; if not, the task is
    /// woken when there is.
    pub(crate) fn pump(&mut self, shared: &Shared, cx: &mut Context<'_>) -> bool {
        for _ in 0..BUDGET {
            if !self.send(shared, cx) {
                return false;
            }
            match self.receive(shared, cx) {
                Received::Nothing => return false,
                // Who waits for it runs before the rest is taken in.
                Received::Reply => return true,
                Received::Bytes => {}
            }
        }
        true
    }

    /// Returns whether the stream is still of use.
    fn send(&mut self, shared: &Shared, cx: &mut Context<'_>) -> bool {
        match self.poll_send(shared, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) if is_gone(error.kind()) => {
                self.output.clear();
                self.unflushed = false;
                // What was sent before may still be answered.
                shared.drive(|state, now| state.session.stop_sending(now));
                true
            }
            Poll::Ready(Err(error)) => {
                shared.drive(|state, now| state.session.fail(error, now));
                false
            }
        }
    }

    fn poll_send(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.output.is_empty() {
                shared.drive(|state, now| state.fill(&mut self.output, now));
            }
            let offered = self.output.rest().len();
            if offered == 0 {
                break;
            }
            let poll = Pin::new(&mut *self.stream).poll_write(cx, self.output.rest());
            let count = settle(poll, cx, offered)?;
            if count == Some(0) {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            let now = Instant::now();
            shared.lock().session.sent(&mut self.output, count.unwrap_or(0), now);
            if count.is_none() {
                return Poll::Pending;
            }
            self.unflushed = true;
        }
        if self.unflushed {
            let poll = Pin::new(&mut *self.stream).poll_flush(cx).map_ok(|()| 0);
            if settle(poll, cx, 0)?.is_none() {
                return Poll::Pending;
            }
            self.unflushed = false;
        }
        if self.closing && !self.closed {
            // A peer that is gone already is no loss.
            self.closed = Pin::new(&mut *self.stream).poll_close(cx).is_ready();
        }
        Poll::Ready(Ok(()))
    }

    fn receive(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Received {
        if !shared.lock().wants_bytes() {
            return Received::Nothing;
        }
        if self.unread.is_empty() {
            let poll = Pin::new(&mut *self.stream).poll_read(cx, &mut self.input);
            match settle(poll, cx, self.input.len()) {
                Ok(None) => return Received::Nothing,
                Ok(Some(0)) => {
                    shared.drive(State::take_end);
                    return Received::Nothing;
                }
                Ok(Some(count)) => self.unread = 0..count,
                Err(error) => {
                    shared.drive(|state, now| state.session.fail(error, now));
                    return Received::Nothing;
                }
            }
        }
        let bytes = self.input.get(self.unread.clone()).unwrap_or_default();
        let (count, replied) =
            shared.drive(|state, now| (state.take_in(bytes, now), state.session.has_completed()));
        self.unread.start += count;
        if replied { Received::Reply } else { Received::Bytes }
    }
}

/// What came of a look at the stream.
enum Received {
    /// The task is woken when there is something, if it is wanted.
    Nothing,
    Bytes,
    /// With them, a command is finished.
    Reply,
}

/// What came of a call; `None` when the task is woken for another try.
fn settle(
    poll: Poll<io::Result<usize>>,
    cx: &Context<'_>,
    offered: usize,
) -> io::Result<Option<usize>> {
    match poll {
        Poll::Pending => Ok(None),
        Poll::Ready(Ok(count)) => checked_count(count, offered).map(Some),
        Poll::Ready(Err(error)) => match error.kind() {
            // To be tried again, but not at once: one that never ends must not hold the
            // runtime up.
            ErrorKind::Interrupted => {
                cx.waker().wake_by_ref();
                Ok(None)
            }
            // No waker is in store: this would never go on.
            ErrorKind::WouldBlock => {
                let text = "the stream would block but does not say until when";
                Err(io::Error::other(text))
            }
            _ => Err(error),
        },
    }
}
