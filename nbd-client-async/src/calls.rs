//! Who waits for what, and the memory behind it.

use std::mem;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_proto::{
    Command, ContextId, ErrorReport, Extent, PayloadSink, PayloadSource, ReadChunk, Remark,
    RequestId, Table, part, part_mut,
};
use nbd_session::OldError as Error;
use nbd_session::replay::Place;

use crate::buffer::Buffer;

/// Names a call from its start until its result is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    index: usize,
    generation: u64,
}

/// How far a call has come.
pub(crate) enum Stage {
    /// Waits for a free slot, in line.
    Queued,
    /// Submitted; its reply is to come.
    InFlight(RequestId),
    /// With the journal, sent or not; its reply is to come.
    Journaled(Place),
    /// Waits for the end of the connection.
    Closing,
    /// Its result waits to be taken.
    Done(Outcome),
}

/// How a call has ended. An error is rare and large: in a box, so that what moves with
/// every call is small.
pub(crate) type Outcome = Result<(), Box<Error>>;

/// When a call ends in failure by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) timeout: Duration,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Option<Self> {
        // One that is beyond the end of time never comes.
        let at = Instant::now().checked_add(timeout)?;
        Some(Self { at, timeout })
    }
}

/// What a call is about: what is asked for, and what has come of it so far.
pub(crate) struct Matter {
    pub(crate) command: Command,
    /// Where in the buffer the command's data begins.
    pub(crate) base: usize,
    pub(crate) buffer: Buffer,
    /// In a box, as most replies have nothing of the kind.
    account: Option<Box<Account>>,
}

/// What a reply says besides data.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) extents: Vec<(ContextId, Extent)>,
    /// The parts of a read, if they are wanted.
    pub(crate) chunks: Option<Vec<ReadChunk>>,
    remark: Option<Remark>,
}

impl Matter {
    pub(crate) const fn new(command: Command, buffer: Buffer) -> Self {
        Self { command, base: 0, buffer, account: None }
    }

    /// What is left where it was, while the connection has it.
    pub(crate) const fn nothing() -> Self {
        Self::new(Command::flush(), Buffer::None)
    }

    /// A read whose parts are wanted.
    pub(crate) fn in_parts(command: Command, buffer: Buffer) -> Self {
        let account = Account { chunks: Some(Vec::new()), ..Account::default() };
        Self { account: Some(Box::new(account)), ..Self::new(command, buffer) }
    }

    /// Takes out what the reply said besides data.
    pub(crate) fn account(&mut self) -> Account {
        self.account.take().map_or_else(Account::default, |account| *account)
    }

    pub(crate) fn take_remark(&mut self) -> Option<Remark> {
        self.account.as_mut()?.remark.take()
    }

    /// Gives the contexts other numbers.
    pub(crate) fn renumber(&mut self, number: impl Fn(ContextId) -> ContextId) {
        if let Some(account) = &mut self.account {
            account.extents.iter_mut().for_each(|(context, _)| *context = number(*context));
        }
    }

    fn account_mut(&mut self) -> &mut Account {
        self.account.get_or_insert_default()
    }

    /// Forgets what came of it on a connection that is lost.
    fn restart(&mut self) {
        if let Some(account) = &mut self.account {
            account.extents.clear();
            account.chunks.iter_mut().for_each(Vec::clear);
            account.remark = None;
        }
    }
}

pub(crate) struct Call {
    pub(crate) stage: Stage,
    pub(crate) matter: Matter,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) waker: Option<Waker>,
}

#[derive(Default)]
struct Seat {
    generation: u64,
    call: Option<Call>,
}

/// All calls of a connection, and which of them owns which request.
///
/// A seat is taken from the call's start until its result is taken, longer than the
/// machine's slot, which is free as soon as the reply has come.
#[derive(Default)]
pub(crate) struct Calls {
    seats: Vec<Seat>,
    free: Vec<usize>,
    owners: Table<Ticket>,
    /// Data of writes nobody waits for any more and which are partly sent.
    leaving: Table<Bytes>,
    any_leaving: bool,
}

impl Calls {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    /// A call that begins. Takes over what it is about.
    pub(crate) fn insert(
        &mut self,
        stage: Stage,
        matter: &mut Matter,
        deadline: Option<Deadline>,
        waker: Waker,
    ) -> Ticket {
        let index = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat::default());
            self.seats.len() - 1
        });
        let mut generation = 0;
        if let Some(seat) = self.seats.get_mut(index) {
            let matter = mem::replace(matter, Matter::nothing());
            seat.call = Some(Call { stage, matter, deadline, waker: Some(waker) });
            generation = seat.generation;
        }
        Ticket { index, generation }
    }

    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Call> {
        self.seats
            .get_mut(ticket.index)
            .filter(|seat| seat.generation == ticket.generation)
            .and_then(|seat| seat.call.as_mut())
    }

    fn get(&self, ticket: Ticket) -> Option<&Call> {
        self.seats
            .get(ticket.index)
            .filter(|seat| seat.generation == ticket.generation)
            .and_then(|seat| seat.call.as_ref())
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Call> {
        let seat =
            self.seats.get_mut(ticket.index).filter(|seat| seat.generation == ticket.generation)?;
        let call = seat.call.take()?;
        seat.generation += 1;
        self.free.push(ticket.index);
        Some(call)
    }

    /// The result of a call that is done, which ends here. What it was about goes back
    /// to where it came from.
    pub(crate) fn take_done(&mut self, ticket: Ticket, matter: &mut Matter) -> Option<Outcome> {
        let seat =
            self.seats.get_mut(ticket.index).filter(|seat| seat.generation == ticket.generation)?;
        let Some(Call { stage: Stage::Done(outcome), matter: lent, .. }) = &mut seat.call else {
            return None;
        };
        let outcome = mem::replace(outcome, Ok(()));
        mem::swap(matter, lent);
        seat.call = None;
        seat.generation += 1;
        self.free.push(ticket.index);
        Some(outcome)
    }

    /// Every call, with its ticket.
    pub(crate) fn tickets(&self) -> Vec<Ticket> {
        let taken = self.seats.iter().enumerate().filter(|(_, seat)| seat.call.is_some());
        taken.map(|(index, seat)| Ticket { index, generation: seat.generation }).collect()
    }

    /// The call's request has been submitted.
    pub(crate) fn own(&mut self, id: RequestId, ticket: Ticket) {
        self.owners.insert(id, ticket);
    }

    /// The request is finished: whose was it?
    pub(crate) fn disown(&mut self, id: RequestId) -> Option<Ticket> {
        self.owners.remove(id)
    }

    /// Nobody waits for a request any more, but its data may still have to be sent.
    pub(crate) fn leave(&mut self, id: RequestId) {
        let Some(ticket) = self.owners.remove(id) else {
            return;
        };
        if let Some(Call { matter: Matter { buffer: Buffer::Write(bytes), .. }, .. }) =
            self.get(ticket)
        {
            self.leaving.insert(id, bytes.clone());
            self.any_leaving = true;
        }
    }

    /// Data of a write that nobody waits for, to be sent all the same.
    pub(crate) fn send_on_behalf(&mut self, id: RequestId, bytes: Bytes) {
        self.leaving.insert(id, bytes);
        self.any_leaving = true;
    }

    /// The connection is lost, and with it every request.
    pub(crate) fn restart(&mut self) {
        self.owners = Table::new();
        self.all_sent();
        for call in self.seats.iter_mut().filter_map(|seat| seat.call.as_mut()) {
            if matches!(call.stage, Stage::Queued | Stage::Journaled(_)) {
                call.matter.restart();
            }
        }
    }

    /// Nothing is left to send, so nobody's data is needed any more.
    pub(crate) fn all_sent(&mut self) {
        if self.any_leaving {
            self.leaving = Table::new();
            self.any_leaving = false;
        }
    }

    fn matter(&mut self, id: RequestId) -> Option<&mut Matter> {
        let ticket = *self.owners.get(id)?;
        self.get_mut(ticket).map(|call| &mut call.matter)
    }
}

impl PayloadSink for Calls {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        match self.matter(id) {
            Some(matter) => part_mut(matter.buffer.writable(), matter.base + at, len),
            None => &mut [],
        }
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        let account = self.matter(id).and_then(|matter| matter.account.as_mut());
        if let Some(chunks) = account.and_then(|account| account.chunks.as_mut()) {
            chunks.push(chunk);
        }
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        if let Some(matter) = self.matter(id) {
            matter.account_mut().extents.push((context, extent));
        }
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        if let Some(matter) = self.matter(id) {
            matter.account_mut().remark.get_or_insert_with(|| Remark::from(report));
        }
    }
}

impl PayloadSource for Calls {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        let owner = self.owners.get(id).and_then(|ticket| self.get(*ticket));
        match owner {
            Some(call) => part(call.matter.buffer.readable(), at, len),
            None => part(self.leaving.get(id).map_or(&[], |bytes| bytes), at, len),
        }
    }
}
