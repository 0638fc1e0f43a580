//! Who waits for what, and the memory behind it.

use std::mem;
use std::task::Waker;

use bytes::Bytes;
use nbd_proto::{
    Buffers, Command, ContextId, Extent, PayloadSink, PayloadSource, ReadChunk, RequestId, part,
    part_mut,
};
use nbd_session::{Completion, Error, Limit, Request, Ticket};
use slab::Slab;

use crate::buffer::Buffer;

/// What a call is about: what is asked for, and what has come of it so far.
pub(crate) struct Exchange {
    pub(crate) command: Command,
    /// Where in the buffer the command's data begins.
    pub(crate) base: usize,
    pub(crate) buffer: Buffer,
    /// The only meta contexts that are asked for.
    pub(crate) contexts: Option<Vec<ContextId>>,
    pub(crate) extents: Vec<(ContextId, Extent)>,
    /// The parts of a read, and whether they are wanted.
    pub(crate) chunks: Vec<ReadChunk>,
    pub(crate) report_chunks: bool,
}

impl Exchange {
    pub(crate) const fn new(command: Command, buffer: Buffer) -> Self {
        Self {
            command,
            base: 0,
            buffer,
            contexts: None,
            extents: Vec::new(),
            chunks: Vec::new(),
            report_chunks: false,
        }
    }

    /// What is left where it was, while the connection has it.
    pub(crate) const fn nothing() -> Self {
        Self::new(Command::flush(), Buffer::None)
    }

    /// Whether it is no more than a command.
    pub(crate) const fn is_plain(&self) -> bool {
        self.contexts.is_none() && !self.report_chunks
    }

    /// The data of a write.
    fn payload(&self) -> Option<Bytes> {
        let Buffer::Write(bytes) = &self.buffer else { return None };
        Some(bytes.slice_ref(part(bytes, self.base, self.command.length as usize)))
    }

    /// All that is asked for.
    pub(crate) fn request(&self, limit: Limit, keep: bool) -> Request<'_> {
        let mut request = Request::new(self.command).limit(limit);
        if self.report_chunks {
            request = request.report_chunks();
        }
        if let Some(contexts) = &self.contexts {
            request = request.contexts(contexts);
        }
        match keep.then(|| self.payload()).flatten() {
            Some(data) => request.payload(data),
            None => request,
        }
    }
}

/// How a call is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) limit: Limit,
    pub(crate) when_full: WhenFull,
}

/// What to do when there is no room for one more command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Wait,
    Fail,
}

/// How far a call has come.
pub(crate) enum Stage {
    /// Waits for room, in line.
    InLine(Ticket, Limit),
    /// Submitted; its reply is to come.
    InFlight(RequestId),
    /// Its result waits to be taken.
    Done(Result<(), Error>),
}

pub(crate) struct Call {
    pub(crate) stage: Stage,
    pub(crate) exchange: Exchange,
    pub(crate) waker: Option<Waker>,
}

/// All calls of a connection.
///
/// A call is here from its start until its result is taken, which is longer than its command
/// has an id: that is free for the next one as soon as it is finished.
#[derive(Default)]
pub(crate) struct Calls {
    calls: Slab<Call>,
    /// Which call a command in flight belongs to, by slot.
    owners: Buffers<usize>,
    /// Which call waits in line, by the slot of its ticket.
    line: Vec<Option<usize>>,
    /// Data of writes that nobody waits for any more and that are partly sent.
    leaving: Buffers<Bytes>,
}

impl Calls {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// A call that begins. Takes over what it is about.
    pub(crate) fn insert(&mut self, stage: Stage, exchange: &mut Exchange, waker: Waker) -> usize {
        let place = match stage {
            Stage::InLine(ticket, _) => Some(ticket.slot()),
            Stage::InFlight(_) | Stage::Done(_) => None,
        };
        let exchange = mem::replace(exchange, Exchange::nothing());
        let key = self.calls.insert(Call { stage, exchange, waker: Some(waker) });
        if let Some(place) = place {
            if self.line.len() <= place {
                self.line.resize(place + 1, None);
            }
            if let Some(place) = self.line.get_mut(place) {
                *place = Some(key);
            }
        }
        key
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut Call> {
        self.calls.get_mut(key)
    }

    /// The call whose turn it is.
    pub(crate) fn admitted(&mut self, ticket: Ticket) -> Option<usize> {
        self.line.get_mut(ticket.slot())?.take()
    }

    /// A call's command has been submitted.
    pub(crate) fn own(&mut self, id: RequestId, key: usize) {
        self.owners.insert(id, key);
    }

    /// A command is finished. Returns its call, if somebody waits for it.
    pub(crate) fn finished(&mut self, done: Completion) -> Option<&mut Call> {
        let key = self.owners.remove(done.id)?;
        let call = self.calls.get_mut(key)?;
        if done.held
            && let Some(data) = call.exchange.payload()
        {
            self.leaving.insert(done.id, data);
        }
        (call.exchange.extents, call.exchange.chunks) = (done.extents, done.chunks);
        call.stage = Stage::Done(done.result);
        Some(call)
    }

    /// Nobody waits for a command any more. If it is half sent, its data is kept.
    pub(crate) fn disown(&mut self, id: RequestId, half_sent: bool) {
        let Some(key) = self.owners.remove(id) else { return };
        if half_sent
            && let Some(data) = self.calls.get(key).and_then(|call| call.exchange.payload())
        {
            self.leaving.insert(id, data);
        }
    }

    /// A command that was half sent has left, and with it the data.
    pub(crate) fn released(&mut self, id: RequestId) -> Option<Bytes> {
        self.leaving.remove(id)
    }

    pub(crate) fn remove(&mut self, key: usize) -> Option<Call> {
        let call = self.calls.try_remove(key)?;
        if let Stage::InLine(ticket, _) = &call.stage {
            self.admitted(*ticket);
        }
        Some(call)
    }

    /// The result of a call that is done, which ends here. What it was about goes back
    /// to where it came from.
    pub(crate) fn take_done(
        &mut self,
        key: usize,
        exchange: &mut Exchange,
    ) -> Option<Result<(), Error>> {
        let Call { stage: Stage::Done(result), exchange: lent, .. } = self.calls.get_mut(key)?
        else {
            return None;
        };
        let result = mem::replace(result, Ok(()));
        mem::swap(exchange, lent);
        self.calls.remove(key);
        Some(result)
    }
}

impl PayloadSink for Calls {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        let call = self.owners.get(id).and_then(|key| self.calls.get_mut(*key));
        match call {
            Some(Call { exchange, .. }) => {
                part_mut(exchange.buffer.writable(), exchange.base + at, len)
            }
            None => &mut [],
        }
    }
}

impl PayloadSource for Calls {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        let call = self.owners.get(id).and_then(|key| self.calls.get(*key));
        match call {
            Some(Call { exchange, .. }) => {
                part(exchange.buffer.readable(), exchange.base + at, len)
            }
            None => part(self.leaving.get(id).map_or(&[], |bytes| bytes), at, len),
        }
    }
}
