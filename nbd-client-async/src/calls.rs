//! Who waits for what, and the memory behind it.

use std::collections::HashMap;
use std::mem;
use std::task::Waker;

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
    pub(crate) fn data(&self) -> &[u8] {
        part(self.buffer.readable(), self.base, self.command.length as usize)
    }

    /// All that is asked for.
    pub(crate) fn request(&self, limit: Limit) -> Request<'_> {
        let mut request = Request::new(self.command).limit(limit);
        if self.report_chunks {
            request = request.report_chunks();
        }
        if let Some(contexts) = &self.contexts {
            request = request.contexts(contexts);
        }
        match &self.buffer {
            Buffer::Write(bytes) => request.payload(bytes.slice_ref(self.data())),
            _ => request,
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
    InLine(Ticket),
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
    /// Which call waits in line.
    line: HashMap<Ticket, usize>,
}

impl Calls {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// A call that begins. Takes over what it is about.
    pub(crate) fn insert(&mut self, stage: Stage, exchange: &mut Exchange, waker: Waker) -> usize {
        let exchange = mem::replace(exchange, Exchange::nothing());
        let place = self.calls.vacant_entry();
        let key = place.key();
        match stage {
            Stage::InLine(ticket) => drop(self.line.insert(ticket, key)),
            Stage::InFlight(id) => drop(self.owners.insert(id, key)),
            Stage::Done(_) => {}
        }
        place.insert(Call { stage, exchange, waker: Some(waker) });
        key
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut Call> {
        self.calls.get_mut(key)
    }

    /// The call whose turn it is.
    pub(crate) fn admitted(&mut self, ticket: Ticket) -> Option<usize> {
        self.line.remove(&ticket)
    }

    /// A command of a call was submitted.
    pub(crate) fn submitted(&mut self, id: RequestId, key: usize) {
        self.owners.insert(id, key);
    }

    /// A command is finished. Returns its call, if somebody waits for it.
    pub(crate) fn finished(&mut self, done: Completion) -> Option<&mut Call> {
        let call = self.calls.get_mut(self.owners.remove(done.id)?)?;
        (call.exchange.extents, call.exchange.chunks) = (done.extents, done.chunks);
        call.stage = Stage::Done(done.result);
        Some(call)
    }

    /// A call that nobody waits for any more.
    pub(crate) fn remove(&mut self, key: usize) -> Option<Call> {
        let call = self.calls.try_remove(key)?;
        match call.stage {
            Stage::InLine(ticket) => drop(self.line.remove(&ticket)),
            Stage::InFlight(id) => drop(self.owners.remove(id)),
            Stage::Done(_) => {}
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
            None => &[],
        }
    }
}
