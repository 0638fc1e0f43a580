//! What a session has that outlives its connections.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use nbd_proto::{Command, ContextId, RequestId};

use crate::error::{Error, broken};
use crate::replay::{Place, Reconnect, ReplayLog};

const NO_SLOT: &str = "a command keeps its slot until its completion is taken";

/// Behind one pointer, which a session that does not reconnect lacks.
///
/// ```text
///   submit ─► slots ─► ReplayLog ─► core        lost: all of it back into the log
///               │          ▲         │
///            finished      └─────────┘          opened: another core
/// ```
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) policy: Reconnect,
    /// Since the first connection is ready.
    pub(super) log: Option<ReplayLog<RequestId, Bytes>>,
    /// Commands by names of the session's own, which outlive connections.
    slots: Vec<(u32, Slot)>,
    free: Vec<u32>,
    /// Finished and not taken, oldest first; some may have been taken out of turn.
    finished: VecDeque<RequestId>,
    /// How many of these are still there.
    untaken: usize,
    /// Since something was last completed: when the connection was lost, and how often it was
    /// tried to make another one.
    pub(super) trouble: Option<Trouble>,
    /// When this connection was ready.
    pub(super) opened: Instant,
    /// When there was none any more.
    pub(super) lost: Option<Instant>,
    /// Why.
    pub(super) cause: Option<Error>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) attempts: u32,
}

#[derive(Debug)]
enum Slot {
    Free,
    Call(Call),
    /// Withdrawn, but half sent: its payload is still the caller's.
    Leaving,
}

/// A command whose completion was not taken.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: Command,
    pub(super) contexts: Option<Box<[ContextId]>>,
    /// Its place in the log, until that has an answer.
    pub(super) place: Option<Place>,
    pub(super) outcome: Option<Result<(), Error>>,
}

impl Recovery {
    pub(super) const fn new(policy: Reconnect, now: Instant) -> Self {
        Self {
            policy,
            log: None,
            slots: Vec::new(),
            free: Vec::new(),
            finished: VecDeque::new(),
            untaken: 0,
            trouble: None,
            opened: now,
            lost: None,
            cause: None,
        }
    }

    /// The last outage is over, if the connection has lasted and nothing is owed: it was of use,
    /// though nothing was asked of it. One that owes something has lasted as long as it was
    /// waited for.
    pub(super) fn settle_trouble(&mut self, now: Instant) {
        if self.trouble.is_some() {
            let lasted = now.saturating_duration_since(self.opened);
            if lasted > self.policy.longest_wait() && self.unfinished().is_empty() {
                self.trouble = None;
            }
        }
    }

    /// Commands whose completion was not taken, and those that are still leaving.
    pub(super) const fn used(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    pub(super) const fn untaken(&self) -> usize {
        self.untaken
    }

    /// The name that the next command will have.
    pub(super) fn claim(&mut self) -> RequestId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, Slot::Free));
            (self.slots.len() - 1) as u32
        });
        let generation = self.slots.get(slot as usize).map_or(0, |(generation, _)| *generation);
        RequestId::from_cookie(u64::from(generation) << 32 | u64::from(slot))
    }

    pub(super) fn unclaim(&mut self, id: RequestId) {
        self.free.push(id.slot() as u32);
    }

    pub(super) fn fill(&mut self, id: RequestId, open: Call) {
        match self.slots.get_mut(id.slot()) {
            Some((_, slot)) => *slot = Slot::Call(open),
            None => broken(NO_SLOT),
        }
    }

    fn slot(&mut self, id: RequestId) -> Option<&mut Slot> {
        let (generation, slot) = self.slots.get_mut(id.slot())?;
        (u64::from(*generation) == id.to_cookie() >> 32).then_some(slot)
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Call> {
        let (generation, slot) = self.slots.get(id.slot())?;
        match slot {
            Slot::Call(open) if u64::from(*generation) == id.to_cookie() >> 32 => Some(open),
            _ => None,
        }
    }

    /// The meta contexts that a block status is about, if not about all, by the numbers they
    /// have now.
    pub(super) fn contexts_now(&self, place: Place) -> Option<Vec<ContextId>> {
        let log = self.log.as_ref()?;
        let contexts = self.get(log.owner(place)?)?.contexts.as_deref()?;
        Some(contexts.iter().map(|known| log.context_now(*known)).collect())
    }

    /// Whether a name was given out once and is not in use any more.
    pub(super) fn is_retired(&self, id: RequestId) -> bool {
        self.slots
            .get(id.slot())
            .is_some_and(|(generation, _)| id.to_cookie() >> 32 < u64::from(*generation))
    }

    /// What became of a command. The first word counts, unless it was that time is over and
    /// there is a better one.
    pub(super) fn finish(&mut self, id: RequestId, result: Result<(), Error>) {
        let Some(Slot::Call(open)) = self.slot(id) else { return broken(NO_SLOT) };
        if open.outcome.replace(result).is_none() {
            self.finished.push_back(id);
            self.untaken += 1;
        }
    }

    /// What the log says of a command, which it has forgotten now.
    pub(super) fn answered(&mut self, id: RequestId, result: Result<(), Error>) {
        let Some(Slot::Call(open)) = self.slot(id) else { return broken(NO_SLOT) };
        open.place = None;
        self.finish(id, result);
    }

    /// The oldest that is finished.
    pub(super) fn first_finished(&mut self) -> Option<RequestId> {
        while let Some(id) = self.finished.front().copied() {
            if self.get(id).is_some_and(|open| open.outcome.is_some()) {
                return Some(id);
            }
            self.finished.pop_front();
        }
        None
    }

    /// Takes a command out; its name is kept while it is leaving.
    pub(super) fn take(&mut self, id: RequestId, leaving: bool) -> Option<Call> {
        self.get(id)?;
        let slot = self.slot(id)?;
        let Slot::Call(open) = std::mem::replace(slot, Slot::Leaving) else {
            broken(NO_SLOT);
            return None;
        };
        if open.outcome.is_some() {
            self.untaken -= 1;
            if self.finished.front() == Some(&id) {
                self.finished.pop_front();
            }
        }
        if !leaving {
            self.release(id);
        }
        Some(open)
    }

    /// A name is free for the next command.
    pub(super) fn release(&mut self, id: RequestId) {
        if let Some((generation, slot)) = self.slots.get_mut(id.slot())
            && u64::from(*generation) == id.to_cookie() >> 32
            && !matches!(slot, Slot::Free)
        {
            *generation = generation.wrapping_add(1);
            *slot = Slot::Free;
            self.free.push(id.slot() as u32);
        }
    }

    /// Commands that are not finished.
    pub(super) fn unfinished(&self) -> Vec<RequestId> {
        self.ids(|open| open.outcome.is_none())
    }

    /// All commands whose completion was not taken.
    pub(super) fn all(&self) -> Vec<RequestId> {
        self.ids(|_| true)
    }

    fn ids(&self, wanted: impl Fn(&Call) -> bool) -> Vec<RequestId> {
        let slots = self.slots.iter().zip(0_u64..);
        slots
            .filter(|((_, slot), _)| matches!(slot, Slot::Call(open) if wanted(open)))
            .map(|((generation, _), slot)| {
                RequestId::from_cookie(u64::from(*generation) << 32 | slot)
            })
            .collect()
    }
}
