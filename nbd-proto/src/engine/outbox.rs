//! The send engine: a queue of messages, drained by vectored writes that may
//! stop at any byte.
//!
//! ```text
//!   front                                                    back
//!   [header|payload] [header] [header|payload] [header|body] ...
//!        ▲ cursor: bytes of the front message that are sent
//! ```
//!
//! A header lies in the queue itself, a payload with whoever lends the
//! [`PayloadSource`], so gathering a whole queue copies and allocates nothing.
//! Bodies of variable length that belong to the protocol rather than to the user
//! (options, extents, error texts) are kept in buffers that are used again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::error::{ApiMisuse, Error};
use crate::payload::PayloadSource;
use crate::types::RequestId;

/// The longest fixed part: an extended header with an OFFSET_HOLE body.
const HEADER_MAX: usize = 44;

#[derive(Debug)]
enum Body {
    Empty,
    /// `len` bytes of the payload of the request, from `at`.
    Payload {
        at: usize,
        len: usize,
    },
    Kept(Vec<u8>),
}

#[derive(Debug)]
struct Message {
    id: Option<RequestId>,
    header: [u8; HEADER_MAX],
    header_len: usize,
    body: Body,
    /// Taken back before its first byte was sent.
    cancelled: bool,
}

impl Message {
    const fn len(&self) -> usize {
        let body = match &self.body {
            Body::Empty => 0,
            Body::Payload { len, .. } => *len,
            Body::Kept(bytes) => bytes.len(),
        };
        if self.cancelled {
            0
        } else {
            self.header_len + body
        }
    }

    fn header(&self) -> &[u8] {
        self.header.get(..self.header_len).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Message>,
    /// Sequence number of the front message.
    front: u64,
    cursor: usize,
    /// Emptied bodies, to be used again.
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            front: 0,
            cursor: 0,
            spare: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a message without a body. `id` is named when it is sent.
    pub(crate) fn push(&mut self, id: Option<RequestId>, header: &[u8]) -> u64 {
        self.push_message(id, header, Body::Empty)
    }

    /// Queues a message followed by payload of request `id`.
    pub(crate) fn push_payload(
        &mut self,
        id: RequestId,
        header: &[u8],
        at: usize,
        len: usize,
    ) -> u64 {
        self.push_message(Some(id), header, Body::Payload { at, len })
    }

    /// Queues a message followed by bytes that `write` appends.
    pub(crate) fn push_body(
        &mut self,
        id: Option<RequestId>,
        header: &[u8],
        write: impl FnOnce(&mut Vec<u8>),
    ) -> u64 {
        let mut body = self.spare.pop().unwrap_or_default();
        write(&mut body);
        self.push_message(id, header, Body::Kept(body))
    }

    fn push_message(&mut self, id: Option<RequestId>, fixed: &[u8], body: Body) -> u64 {
        let mut header = [0; HEADER_MAX];
        debug_assert!(fixed.len() <= HEADER_MAX);
        let header_len = fixed.len().min(HEADER_MAX);
        if let (Some(to), Some(from)) = (header.get_mut(..header_len), fixed.get(..header_len)) {
            to.copy_from_slice(from);
        }
        self.queue.push_back(Message {
            id,
            header,
            header_len,
            body,
            cancelled: false,
        });
        self.front + (self.queue.len() as u64 - 1)
    }

    /// Takes a message back if none of its bytes has been sent. The last byte of
    /// the queue being sent, the message is forgotten without being reported.
    pub(crate) fn cancel(&mut self, sequence: u64) -> bool {
        let Some(index) = sequence.checked_sub(self.front) else {
            return false;
        };
        let begun = index == 0 && self.cursor > 0;
        let Some(message) = usize::try_from(index)
            .ok()
            .and_then(|i| self.queue.get_mut(i))
        else {
            return false;
        };
        if begun {
            return false;
        }
        message.cancelled = true;
        self.drop_cancelled();
        true
    }

    fn drop_cancelled(&mut self) {
        while self.queue.front().is_some_and(|message| message.cancelled) {
            self.retire_front();
        }
    }

    fn retire_front(&mut self) -> Option<RequestId> {
        let message = self.queue.pop_front()?;
        self.front += 1;
        self.cursor = 0;
        if let Body::Kept(mut body) = message.body {
            body.clear();
            self.spare.push(body);
        }
        if message.cancelled { None } else { message.id }
    }

    /// Throws everything away that is not begun, or everything.
    pub(crate) fn clear(&mut self) {
        self.front += self.queue.len() as u64;
        self.queue.clear();
        self.cursor = 0;
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
        let mut skip = self.cursor;
        let mut first = true;
        for message in self.queue.iter().filter(|message| !message.cancelled) {
            if let (Body::Payload { at, len }, Some(id)) = (&message.body, message.id)
                && *len > 0
                && skip < message.len()
                && skip <= message.header_len
                && source.bytes(id, *at, *len).is_empty()
            {
                return if first {
                    Err(ApiMisuse::PayloadMissing.into())
                } else {
                    Ok(())
                };
            }
            first = false;
            if let Some(header) = message
                .header()
                .get(skip..)
                .filter(|bytes| !bytes.is_empty())
                && visit(header).is_break()
            {
                return Ok(());
            }
            let done = skip.saturating_sub(message.header_len);
            skip = 0;
            match &message.body {
                Body::Empty => {}
                Body::Kept(body) => {
                    let rest = body.get(done..).unwrap_or_default();
                    if !rest.is_empty() && visit(rest).is_break() {
                        return Ok(());
                    }
                }
                Body::Payload { at, len } => {
                    let Some(id) = message.id else { continue };
                    let mut done = done;
                    while done < *len {
                        let bytes = source.bytes(id, *at + done, *len - done);
                        let bytes = bytes.get(..*len - done).unwrap_or(bytes);
                        if bytes.is_empty() {
                            // Begun and now gone: nothing after it may be sent.
                            return Err(ApiMisuse::PayloadMissing.into());
                        }
                        done += bytes.len();
                        if visit(bytes).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// `n` bytes were sent; reports the request of each message that left whole.
    pub(crate) fn sent(
        &mut self,
        n: usize,
        mut done: impl FnMut(Option<RequestId>),
    ) -> Result<(), ApiMisuse> {
        let mut left = n;
        while let Some(message) = self.queue.front() {
            let rest = message.len() - self.cursor;
            if left < rest {
                self.cursor += left;
                return Ok(());
            }
            left -= rest;
            let id = self.retire_front();
            done(id);
            self.drop_cancelled();
        }
        if left == 0 {
            Ok(())
        } else {
            Err(ApiMisuse::SentTooMuch)
        }
    }
}
