//! All commands that are not answered, and which of them may be sent.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Entry, Stage};
use nbd_proto::{Command, RequestId};

/// Commands in the order of their submission.
///
/// ```text
///                        waits == 0
///   push ──► waiting ──────────────► ready, or short of room ──► sent ──► removed
///              ▲                                                  │
///              └───────────────────── put_back ───────────────────┘
/// ```
#[derive(Clone, Debug)]
pub(super) struct Line<T, P> {
    entries: BTreeMap<u64, Entry<T, P>>,
    /// How many of them change something: where none does, nothing waits for anything.
    changes: usize,
    /// Nothing keeps these from being sent.
    ready: BTreeSet<u64>,
    /// Nothing but room among the kept ones.
    short: BTreeSet<u64>,
}

impl<T, P> Line<T, P> {
    pub(super) const fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            changes: 0,
            ready: BTreeSet::new(),
            short: BTreeSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, &Entry<T, P>)> {
        self.entries.iter().map(|(seq, entry)| (*seq, entry))
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Entry<T, P>> {
        self.entries.get(&seq)
    }

    /// Adds the latest command.
    pub(super) fn push(&mut self, seq: u64, mut entry: Entry<T, P>) {
        entry.waits = 0;
        if self.changes > 0 {
            let earlier = self.entries.values();
            entry.waits = earlier.filter(|earlier| entry.depends_on(earlier)).count();
        }
        if entry.waits == 0 {
            self.list(entry.has_room).insert(seq);
        }
        self.changes += usize::from(entry.command.kind.modifies());
        self.entries.insert(seq, entry);
    }

    /// Where a command stands that waits for no other.
    const fn list(&mut self, has_room: bool) -> &mut BTreeSet<u64> {
        if has_room { &mut self.ready } else { &mut self.short }
    }

    /// The first command that may be sent, if it fits.
    pub(super) fn first(&self, fits: impl FnOnce(&Command) -> bool) -> Option<u64> {
        let ready = self.ready.first().copied();
        let short = self.first_short().filter(|(_, entry)| fits(&entry.command));
        ready.into_iter().chain(short.map(|(seq, _)| seq)).min()
    }

    /// The first command that is short of room and of nothing else.
    pub(super) fn first_short(&self) -> Option<(u64, &Entry<T, P>)> {
        let seq = *self.short.first()?;
        self.entries.get(&seq).map(|entry| (seq, entry))
    }

    /// A command that might be sent has been.
    pub(super) fn sent(&mut self, seq: u64, id: RequestId, covers: u64) -> Option<&Entry<T, P>> {
        self.ready.remove(&seq);
        self.short.remove(&seq);
        let entry = self.entries.get_mut(&seq)?;
        entry.stage = Stage::Sent { id, covers };
        entry.has_room = true;
        Some(entry)
    }

    /// The server gave a command back.
    pub(super) fn given_back(&mut self, seq: u64) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.stage = Stage::Waiting;
            self.ready.insert(seq);
        }
    }

    /// Takes a command out, and lets those go that have waited for it.
    pub(super) fn remove(&mut self, seq: u64) -> Option<Entry<T, P>> {
        let gone = self.entries.remove(&seq)?;
        self.ready.remove(&seq);
        self.short.remove(&seq);
        if !gone.command.kind.modifies() {
            return Some(gone);
        }
        self.changes -= 1;
        for (later, entry) in self.entries.range_mut(seq..) {
            let Some(waits) = entry.waits.checked_sub(1) else { continue };
            if !entry.depends_on(&gone) {
                continue;
            }
            entry.waits = waits;
            if waits == 0 {
                let list = if entry.has_room { &mut self.ready } else { &mut self.short };
                list.insert(*later);
            }
        }
        Some(gone)
    }

    /// The connection is lost: `acknowledged` commands come back, and all are to be sent, in
    /// the order of their submission where that matters.
    pub(super) fn put_back(&mut self, acknowledged: impl Iterator<Item = (u64, Entry<T, P>)>) {
        for entry in self.entries.values_mut() {
            entry.again |= matches!(entry.stage, Stage::Sent { .. });
            entry.stage = Stage::Waiting;
        }
        self.entries.extend(acknowledged);
        self.ready.clear();
        self.short.clear();
        self.changes = 0;
        let entries = std::mem::take(&mut self.entries);
        for (seq, entry) in entries {
            self.push(seq, entry);
        }
    }
}
