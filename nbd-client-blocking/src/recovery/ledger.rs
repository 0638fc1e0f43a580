//! Callers' commands, by names that outlive connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::{
    Command, CommandError, CommandType, ContextId, Negotiated, Remark, RequestId, RequestStatus,
    SubmitError,
};
use nbd_session::OldError as Error;
use nbd_session::replay::{Place, Reconnect, RecoveryError, ReplayLog};

/// A [`ReplayLog`] whose callers go by ids like those of the protocol, small and dense, but
/// given out here.
#[derive(Debug)]
pub(crate) struct Ledger {
    journal: ReplayLog<RequestId, Vec<u8>>,
    /// The data of writes is kept until a flush.
    keeps: bool,
    /// The most commands whose completion was not taken.
    capacity: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// What is finished and not taken, in order.
    done: VecDeque<RequestId>,
    /// Block status commands that ask for some of the contexts only.
    filters: BTreeMap<Place, Vec<ContextId>>,
    sent_again: u64,
    end: Option<End>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    open: Option<Open>,
}

/// A command whose completion was not taken.
#[derive(Debug)]
struct Open {
    command: Command,
    place: Place,
    /// The name under which it was handed to the protocol, on this connection.
    sent: Option<RequestId>,
    /// So it was on another one.
    again: bool,
    outcome: Option<Outcome>,
}

/// What became of a command.
#[derive(Debug)]
pub(crate) enum Outcome {
    Finished(Result<(), CommandError>),
    NotSent(SubmitError),
    Unsaved(RecoveryError),
    /// As everything else.
    Ended,
}

/// Why nothing goes on.
#[derive(Clone, Debug)]
pub(crate) enum End {
    NotReconnected { after: Duration, cause: Arc<Error> },
    Recovery(RecoveryError),
}

impl From<End> for Error {
    fn from(end: End) -> Self {
        match end {
            End::NotReconnected { after, cause } => Self::NotReconnected { after, cause },
            End::Recovery(error) => Self::Recovery(error),
        }
    }
}

impl Ledger {
    pub(crate) fn new(
        policy: &Reconnect,
        facts: &Negotiated,
        capacity: usize,
    ) -> Result<Self, RecoveryError> {
        Ok(Self {
            journal: ReplayLog::new(policy, facts, capacity)?,
            keeps: policy.kept_bytes().is_some(),
            capacity,
            slots: Vec::new(),
            free: Vec::new(),
            done: VecDeque::new(),
            filters: BTreeMap::new(),
            sent_again: 0,
            end: None,
        })
    }

    pub(crate) const fn journal(&self) -> &ReplayLog<RequestId, Vec<u8>> {
        &self.journal
    }

    /// Whether the data of writes is to be copied.
    pub(crate) const fn keeps(&self) -> bool {
        self.keeps
    }

    pub(crate) const fn sent_again(&self) -> u64 {
        self.sent_again
    }

    /// Why nothing goes on, if that is so.
    pub(crate) const fn ended(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Commands whose completion was not taken.
    pub(crate) const fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.in_flight() >= self.capacity
    }

    /// Commands that are finished, among them.
    pub(crate) fn completed(&self) -> usize {
        self.done.len()
    }

    pub(crate) fn first_completed(&self) -> Option<RequestId> {
        self.done.front().copied()
    }

    pub(crate) fn status(&self, id: RequestId) -> RequestStatus {
        match (self.open(id), self.slots.get(id.slot())) {
            (Some(Open { outcome: Some(_), .. }), _) => RequestStatus::Completed,
            (Some(Open { outcome: None, .. }), _) => RequestStatus::InFlight,
            (None, Some(slot)) if generation(id) < slot.generation => RequestStatus::Retired,
            (None, _) => RequestStatus::Unknown,
        }
    }

    /// Every command that is not finished.
    pub(crate) fn waiting(&self) -> Vec<RequestId> {
        let slots = self.slots.iter().zip(0..);
        let waits = |open: &Open| open.outcome.is_none();
        let waiting = slots.filter(|(slot, _)| slot.open.as_ref().is_some_and(waits));
        waiting.map(|(slot, index)| id_of(index, slot.generation)).collect()
    }

    /// The name under which a command was handed to the protocol, if it may still be there.
    pub(crate) fn sent(&self, id: RequestId) -> Option<RequestId> {
        self.open(id)?.sent
    }

    /// Takes in a command of a caller, with the data of a write that is to be kept.
    pub(crate) fn submit(
        &mut self,
        command: Command,
        filter: Option<&[ContextId]>,
        payload: Option<Vec<u8>>,
    ) -> Result<RequestId, SubmitError> {
        if self.is_full() {
            return Err(SubmitError::Full);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            // As many as the protocol has slots, which is less than 32 bits hold.
            (self.slots.len() - 1) as u32
        });
        let Slot { generation, open } = &mut self.slots[slot as usize];
        let id = id_of(slot, *generation);
        let place = match self.journal.submit(id, command, payload) {
            Ok(place) => place,
            Err(error) => {
                self.free.push(slot);
                return Err(error);
            }
        };
        *open = Some(Open { command, place, sent: None, again: false, outcome: None });
        if let Some(contexts) = filter {
            self.filters.insert(place, contexts.to_vec());
        }
        self.take_failed();
        Ok(id)
    }

    /// Hands over to the protocol whatever may be sent.
    ///
    /// A connection that takes no more bytes may still have answers. It takes no more
    /// commands; they are for the next one.
    pub(crate) fn hand_over(&mut self, core: &mut nbd_proto::Client) {
        while !core.is_full()
            && !core.is_disconnecting()
            && !core.is_closed()
            && let Some((place, command)) = self.journal.due()
        {
            let submitted = match self.filters.get(&place) {
                Some(contexts) => {
                    let contexts = self.numbers_now(core.negotiated(), contexts);
                    core.submit_filtered(command, &contexts)
                }
                None => core.submit(command),
            };
            match submitted {
                Ok(id) => {
                    self.journal.sent(place, id);
                    self.note_sent(command, id);
                }
                Err(error) => {
                    if let Some(caller) = self.journal.refused(place, error) {
                        self.finish(caller, Outcome::NotSent(error));
                    }
                }
            }
        }
        self.take_failed();
    }

    fn note_sent(&mut self, command: Command, id: RequestId) {
        let again = match self.journal.caller(id) {
            Some(caller) => self.open_mut(caller).is_some_and(|open| {
                open.sent = Some(id);
                open.again
            }),
            // One of the journal's own: a flush to make room, or an acknowledged write.
            None => command.kind != CommandType::Flush,
        };
        self.sent_again += u64::from(again);
    }

    /// What the server calls these contexts on this connection.
    fn numbers_now(&self, now: &Negotiated, contexts: &[ContextId]) -> Vec<ContextId> {
        let numbers = now.contexts.iter().map(|context| ContextId(context.id));
        let pairs: Vec<_> = numbers.map(|number| (self.journal.context(number), number)).collect();
        contexts
            .iter()
            .map(|wanted| {
                let found = pairs.iter().find(|(known, _)| known == wanted);
                found.map_or(*wanted, |(_, number)| *number)
            })
            .collect()
    }

    /// Takes in what the protocol has finished. Says whether any caller's command was.
    pub(crate) fn collect(&mut self, core: &mut nbd_proto::Client) -> bool {
        let before = self.done.len();
        while let Some(id) = core.peek_completed()
            && let Some((_, result)) = core.take(id)
        {
            if let Some((caller, result)) = self.journal.completed(id, result) {
                self.finish(caller, Outcome::Finished(result));
            }
        }
        self.take_failed();
        self.done.len() > before
    }

    fn take_failed(&mut self) {
        while let Some((caller, error)) = self.journal.poll_failed() {
            self.finish(caller, Outcome::Unsaved(error));
        }
    }

    fn finish(&mut self, id: RequestId, outcome: Outcome) {
        let Some(open) = self.open_mut(id) else { return };
        let place = open.place;
        open.outcome = Some(outcome);
        self.filters.remove(&place);
        self.done.push_back(id);
    }

    /// The connection is lost, and everything is to be sent again.
    pub(crate) fn lost(&mut self) {
        for slot in &mut self.slots {
            if let Some(open) = &mut slot.open {
                open.again |= open.sent.take().is_some();
            }
        }
        self.journal.lost();
        self.take_failed();
    }

    /// Compares what another connection leads to, and goes on with it.
    pub(crate) fn resume(&mut self, facts: &Negotiated) -> Result<(), Error> {
        let changed = self.journal.resume(facts);
        changed.map_err(|changed| RecoveryError::Changed(changed).into())
    }

    /// Nothing goes on: everybody is told.
    pub(crate) fn end(&mut self, end: End) {
        for id in self.waiting() {
            self.finish(id, Outcome::Ended);
        }
        self.end = Some(end);
    }

    /// Forgets a command; it is not sent again.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        let Some(open) = self.open(id) else { return };
        let place = open.place;
        self.journal.cancel(place);
        self.filters.remove(&place);
        self.done.retain(|done| *done != id);
        self.release(id);
    }

    /// Takes back a command that the protocol would not have.
    pub(crate) fn take_refused(&mut self, id: RequestId) -> Option<SubmitError> {
        let Some(Outcome::NotSent(error)) = self.open(id)?.outcome else { return None };
        self.done.retain(|done| *done != id);
        self.release(id);
        Some(error)
    }

    /// Takes a completion.
    pub(crate) fn take(
        &mut self,
        id: RequestId,
        remark: Option<Remark>,
    ) -> Option<(Command, Result<(), Error>)> {
        let Open { command, outcome, .. } = self.open_mut(id)?;
        let (command, outcome) = (*command, outcome.take()?);
        match self.done.front() {
            Some(first) if *first == id => drop(self.done.pop_front()),
            _ => self.done.retain(|done| *done != id),
        }
        self.release(id);
        let result = match outcome {
            Outcome::Finished(Ok(())) => Ok(()),
            Outcome::Finished(Err(error)) => {
                Err(nbd_proto::CommandFailure::new(command, error, remark).into())
            }
            Outcome::NotSent(error) => Err(Error::Submit { command, error }),
            Outcome::Unsaved(error) => Err(error.into()),
            Outcome::Ended => match &self.end {
                Some(end) => Err(end.clone().into()),
                None => Err(Error::Stopped),
            },
        };
        Some((command, result))
    }

    fn release(&mut self, id: RequestId) {
        if let Some(slot) = self.slots.get_mut(id.slot()) {
            slot.open = None;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(id.slot() as u32);
        }
    }

    fn open(&self, id: RequestId) -> Option<&Open> {
        let slot = self.slots.get(id.slot())?;
        slot.open.as_ref().filter(|_| slot.generation == generation(id))
    }

    fn open_mut(&mut self, id: RequestId) -> Option<&mut Open> {
        let slot = self.slots.get_mut(id.slot())?;
        slot.open.as_mut().filter(|_| slot.generation == generation(id))
    }
}

fn id_of(slot: u32, generation: u32) -> RequestId {
    RequestId::from_cookie(u64::from(generation) << 32 | u64::from(slot))
}

const fn generation(id: RequestId) -> u32 {
    (id.to_cookie() >> 32) as u32
}
