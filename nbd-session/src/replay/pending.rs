//! All commands that are not answered, and which of them may be sent.

use std::collections::VecDeque;

use super::entry::{Entry, Owner, Stage};
use super::spans::Spans;
use crate::error::broken;
use nbd_proto::{Command, CommandType, RequestId};

/// Names a command from [`ReplayLog::submit`](super::ReplayLog::submit) until it is completed,
/// over any number of connections. Later commands are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Grows with each command.
    seq: u64,
    slot: u32,
}

/// Commands in the order of their submission.
///
/// ```text
///                        waits == 0
///   push ──► waiting ──────────────► ready, or short of room ──► sent ──► removed
///              ▲                                                  │
///              └───────────────────── put_back ───────────────────┘
/// ```
///
/// As long as nothing waits for anything, a command costs a look into its slot, and a change
/// a search in the sorted spans of those under way: nothing is looked through, and nothing is
/// allocated once there have been as many commands at a time.
#[derive(Clone, Debug)]
pub(super) struct Pending<T, P> {
    slots: Vec<Slot<T, P>>,
    free: Vec<u32>,
    /// How many commands there have been.
    count: u64,
    /// Of the changes that wait for no other. Two of the same bytes are never among them: the
    /// later one waits.
    spans: Spans,
    /// Commands that wait for others, and how many of them change something.
    blocked: usize,
    blocked_changes: usize,
    /// Changes that were sent before on a connection that was lost.
    again: usize,
    /// Changes that were acknowledged on such a connection.
    acknowledged: usize,
    /// Nothing keeps these from being sent. In order.
    ready: VecDeque<Place>,
    /// Nothing but room among the kept ones. In order.
    short: VecDeque<Place>,
}

#[derive(Clone, Debug)]
struct Slot<T, P> {
    seq: u64,
    entry: Option<Entry<T, P>>,
}

impl<T, P> Pending<T, P> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            spans: Spans::new(),
            blocked: 0,
            blocked_changes: 0,
            again: 0,
            acknowledged: 0,
            ready: VecDeque::new(),
            short: VecDeque::new(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    /// In no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Place, &Entry<T, P>)> {
        self.slots.iter().zip(0..).filter_map(|(held, slot)| {
            held.entry.as_ref().map(|entry| (Place { seq: held.seq, slot }, entry))
        })
    }

    pub(super) fn get(&self, place: Place) -> Option<&Entry<T, P>> {
        let slot = self.slots.get(place.slot as usize)?;
        slot.entry.as_ref().filter(|_| slot.seq == place.seq)
    }

    fn get_mut(&mut self, place: Place) -> Option<&mut Entry<T, P>> {
        let slot = self.slots.get_mut(place.slot as usize)?;
        slot.entry.as_mut().filter(|_| slot.seq == place.seq)
    }

    /// A place that no command has or will have.
    pub(super) const fn nobodys_place(&mut self) -> Place {
        self.count += 1;
        Place { seq: self.count, slot: u32::MAX }
    }

    /// The number of a place, by which the command can be put back.
    pub(super) const fn seq(place: Place) -> u64 {
        place.seq
    }

    /// Adds the latest command.
    pub(super) fn push(&mut self, entry: Entry<T, P>) -> Place {
        self.count += 1;
        let place = self.insert(self.count, entry);
        self.begin(place);
        place
    }

    fn insert(&mut self, seq: u64, entry: Entry<T, P>) -> Place {
        let held = Slot { seq, entry: Some(entry) };
        match self.free.pop() {
            Some(slot) => {
                match self.slots.get_mut(slot as usize) {
                    Some(place) => *place = held,
                    None => broken("what is free is there"),
                }
                Place { seq, slot }
            }
            None => {
                self.slots.push(held);
                Place { seq, slot: (self.slots.len() - 1) as u32 }
            }
        }
    }

    /// Counts a command in, all earlier ones having been: what does it wait for?
    fn begin(&mut self, place: Place) {
        let Some(entry) = self.get(place) else { return broken("who begins is there") };
        let waits = if self.is_free(entry) {
            0
        } else {
            let earlier = self.entries().filter(|(other, _)| other.seq < place.seq);
            earlier.filter(|(_, earlier)| entry.depends_on(earlier)).count()
        };
        let (command, has_room, again) = (entry.command, entry.has_room, entry.again);
        let acknowledged = matches!(entry.owner, Owner::Acknowledged);
        if command.kind.modifies() {
            self.again += usize::from(again);
            self.acknowledged += usize::from(acknowledged);
        }
        if let Some(entry) = self.get_mut(place) {
            entry.waits = waits;
        }
        if waits == 0 {
            self.unblocked(place, &command, has_room);
        } else {
            self.blocked += 1;
            self.blocked_changes += usize::from(command.kind.modifies());
        }
    }

    /// Whether it is plain that a command waits for no earlier one.
    fn is_free(&self, entry: &Entry<T, P>) -> bool {
        match entry.command.kind {
            CommandType::Read | CommandType::BlockStatus => self.again == 0,
            CommandType::Write | CommandType::WriteZeroes | CommandType::Trim => {
                self.blocked_changes == 0 && !self.spans.overlap(&entry.command)
            }
            CommandType::Flush => self.acknowledged == 0,
            CommandType::Cache => true,
        }
    }

    /// A command waits for no other, or no longer.
    fn unblocked(&mut self, place: Place, command: &Command, has_room: bool) {
        if command.kind.modifies() {
            self.spans.insert(command);
        }
        add(if has_room { &mut self.ready } else { &mut self.short }, place);
    }

    /// The first command that may be sent, if it fits.
    pub(super) fn first(&self, fits: impl FnOnce(&Command) -> bool) -> Option<Place> {
        let ready = self.ready.front().copied();
        let short = self.first_short().filter(|(_, entry)| fits(&entry.command));
        ready.into_iter().chain(short.map(|(place, _)| place)).min()
    }

    /// The first command that is short of room and of nothing else.
    pub(super) fn first_short(&self) -> Option<(Place, &Entry<T, P>)> {
        let place = *self.short.front()?;
        self.get(place).map(|entry| (place, entry))
    }

    /// A command that might be sent has been. Returns it, and whether it had its room already.
    pub(super) fn sent(
        &mut self,
        place: Place,
        id: RequestId,
        covers: u64,
    ) -> Option<(Command, bool)> {
        let entry = self.get_mut(place)?;
        entry.stage = Stage::Sent { id, covers };
        let had_room = std::mem::replace(&mut entry.has_room, true);
        let command = entry.command;
        take_out(if had_room { &mut self.ready } else { &mut self.short }, place);
        Some((command, had_room))
    }

    /// The server gave a command back.
    pub(super) fn given_back(&mut self, place: Place) {
        if let Some(entry) = self.get_mut(place) {
            entry.stage = Stage::Waiting;
            add(&mut self.ready, place);
        }
    }

    /// Takes a command out, and lets those go that have waited for it.
    pub(super) fn remove(&mut self, place: Place) -> Option<Entry<T, P>> {
        let slot = self.slots.get_mut(place.slot as usize)?;
        let gone = slot.entry.take_if(|_| slot.seq == place.seq)?;
        self.free.push(place.slot);
        let is_blocked = gone.waits > 0;
        self.blocked -= usize::from(is_blocked);
        if !is_blocked && gone.stage == Stage::Waiting {
            take_out(if gone.has_room { &mut self.ready } else { &mut self.short }, place);
        }
        if !gone.command.kind.modifies() {
            return Some(gone);
        }
        self.again -= usize::from(gone.again);
        self.acknowledged -= usize::from(matches!(gone.owner, Owner::Acknowledged));
        if is_blocked {
            self.blocked_changes -= 1;
        } else {
            self.spans.remove(&gone.command);
        }
        if self.blocked > 0 {
            self.unblock(place.seq, &gone);
        }
        Some(gone)
    }

    /// A command is gone for which others may have waited.
    fn unblock(&mut self, seq: u64, gone: &Entry<T, P>) {
        for slot in 0..self.slots.len() {
            let Some(Slot { seq: later, entry: Some(entry) }) = self.slots.get_mut(slot) else {
                // It is free.
                continue;
            };
            let place = Place { seq: *later, slot: slot as u32 };
            if place.seq < seq || entry.waits == 0 || !entry.depends_on(gone) {
                continue;
            }
            entry.waits -= 1;
            if entry.waits == 0 {
                let (command, has_room) = (entry.command, entry.has_room);
                self.blocked -= 1;
                self.blocked_changes -= usize::from(command.kind.modifies());
                self.unblocked(place, &command, has_room);
            }
        }
    }

    /// The connection is lost: `acknowledged` commands come back, by their numbers, and all are
    /// to be sent, in the order of their submission where that matters.
    pub(super) fn put_back(&mut self, acknowledged: impl Iterator<Item = (u64, Entry<T, P>)>) {
        for entry in self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut()) {
            entry.again |= matches!(entry.stage, Stage::Sent { .. });
            entry.stage = Stage::Waiting;
        }
        for (seq, entry) in acknowledged {
            self.insert(seq, entry);
        }
        self.ready.clear();
        self.short.clear();
        self.spans = Spans::new();
        (self.blocked, self.blocked_changes, self.again, self.acknowledged) = (0, 0, 0, 0);
        let mut places: Vec<Place> = self.entries().map(|(place, _)| place).collect();
        places.sort_unstable();
        for place in places {
            self.begin(place);
        }
    }
}

/// Nearly always at the end.
fn add(list: &mut VecDeque<Place>, place: Place) {
    if list.back().is_none_or(|last| *last < place) {
        list.push_back(place);
    } else if let Err(at) = list.binary_search(&place) {
        list.insert(at, place);
    }
}

/// Nearly always from the front.
fn take_out(list: &mut VecDeque<Place>, place: Place) {
    if list.front() == Some(&place) {
        list.pop_front();
    } else if let Ok(at) = list.binary_search(&place) {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Commands = Pending<(), ()>;

    fn command(kind: u8, offset: u64, length: u32) -> Command {
        match kind {
            0 => Command::read(offset, length),
            1 => Command::write(offset, length),
            2 => Command::trim(offset, length.into()),
            3 => Command::block_status(offset, length.into()),
            _ => Command::flush(),
        }
    }

    /// Which commands are to be sent, in order, as looking through all of them says.
    fn looked_through(pending: &Commands) -> Vec<Place> {
        let mut all: Vec<_> = pending.entries().collect();
        all.sort_by_key(|(place, _)| *place);
        let blocked = |at: usize, entry: &Entry<(), ()>| {
            all.iter().take(at).any(|(_, earlier)| entry.depends_on(earlier))
        };
        let waiting = all.iter().enumerate().filter(|(_, (_, e))| e.stage == Stage::Waiting);
        waiting
            .filter(|(at, (_, entry))| !blocked(*at, entry))
            .map(|(_, (place, _))| *place)
            .collect()
    }

    proptest! {
        /// Whatever happens, those are ready that wait for no earlier command, in order.
        #[test]
        fn whoever_waits_for_nothing_is_ready(
            steps in prop::collection::vec(
                (0u8..9, 0u8..5, 0u64..40, 0u32..12, any::<prop::sample::Index>()), 0..120),
        ) {
            let mut pending = Commands::new();
            let (mut acknowledged, mut id) = (Vec::new(), 0);
            for (step, kind, offset, length, index) in steps {
                let mut all: Vec<Place> = pending.entries().map(|(place, _)| place).collect();
                all.sort_unstable();
                let any = (!all.is_empty()).then(|| all[index.index(all.len())]);
                match (step, any) {
                    (0..=3, _) => {
                        pending.push(Entry::new(command(kind, offset, length), None, Owner::Caller(())));
                    }
                    (4 | 5, _) => {
                        if let Some(place) = pending.first(|_| true) {
                            id += 1;
                            prop_assert!(pending.sent(place, RequestId::from_cookie(id), 0).is_some());
                        }
                    }
                    (6, Some(place)) => {
                        let gone = pending.remove(place).unwrap();
                        prop_assert!(pending.get(place).is_none() && pending.remove(place).is_none());
                        if gone.stage != Stage::Waiting && gone.command.kind.modifies() {
                            acknowledged.push((Commands::seq(place), gone.command));
                        }
                    }
                    (7, Some(place)) if pending.get(place).unwrap().stage != Stage::Waiting => {
                        pending.given_back(place);
                    }
                    (8, _) => {
                        let again = acknowledged.drain(..).map(|(seq, command)| {
                            let entry = Entry::new(command, None, Owner::Acknowledged);
                            (seq, Entry { again: true, ..entry })
                        });
                        pending.put_back(again.collect::<Vec<_>>().into_iter());
                    }
                    _ => {}
                }
                prop_assert!(looked_through(&pending).iter().eq(&pending.ready));
                prop_assert!(pending.short.is_empty());
            }
        }
    }
}
