//! A fixed-capacity table of requests with generation-tagged ids and intrusive
//! lists: every operation takes constant time and none allocates once the table
//! has grown to the number of requests in use.

use alloc::vec::Vec;
use core::mem;

use crate::error::broken;
use crate::types::RequestId;

const NONE: u32 = u32::MAX;
const NO_ENTRY: &str = "an id that was never issued is in no list";
/// The generation of no id, whoever made it up.
const FREE: u64 = u64::MAX;

#[derive(Debug)]
struct Entry<T> {
    /// Generation of the id that is valid, or [`FREE`].
    owner: u64,
    /// Generation of the id that is valid, or of the next one.
    generation: u32,
    prev: u32,
    next: u32,
    value: T,
}

/// The table. Values are reset and reused, never dropped, so that what they own
/// on the heap survives from one request to the next.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    capacity: u32,
    /// At most as many as there may be, and at least one when one is given back.
    used: u32,
}

/// A queue threaded through the table. An entry is in one list at a time.
#[derive(Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl<T: Default> Slots<T> {
    pub(crate) const fn new(capacity: u32) -> Self {
        Self { entries: Vec::new(), free: NONE, capacity, used: 0 }
    }

    pub(crate) const fn used(&self) -> u32 {
        self.used
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity as usize
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.used >= self.capacity
    }

    /// Takes a free slot, in no list yet. The value is what the slot last held.
    #[inline]
    pub(crate) fn claim(&mut self) -> Option<(RequestId, &mut T)> {
        let slot = self.first_free()?;
        self.occupy(slot, NONE)
    }

    /// Takes a free slot and appends it to a list. The value is what the slot last held.
    #[inline]
    pub(crate) fn claim_back(&mut self, list: &mut List) -> Option<(RequestId, &mut T)> {
        let slot = self.first_free()?;
        let prev = self.append(list, slot);
        self.occupy(slot, prev)
    }

    #[inline]
    fn first_free(&mut self) -> Option<u32> {
        if self.free == NONE && !self.grow() {
            return None;
        }
        Some(self.free)
    }

    #[inline]
    fn occupy(&mut self, slot: u32, prev: u32) -> Option<(RequestId, &mut T)> {
        let entry = self.entries.get_mut(slot as usize)?;
        self.free = entry.next;
        self.used = self.used.wrapping_add(1);
        entry.owner = u64::from(entry.generation);
        entry.prev = prev;
        entry.next = NONE;
        Some((RequestId::new(slot, entry.generation), &mut entry.value))
    }

    /// Adds one slot where none is free, and makes it the next to be taken; false when
    /// there are as many as there may be.
    #[cold]
    fn grow(&mut self) -> bool {
        if self.is_full() {
            return false;
        }
        self.free = self.entries.len() as u32;
        self.entries.push(Entry {
            // Generation 0 is never issued, so that a cookie of 0 is always
            // a foreign one.
            generation: 1,
            owner: FREE,
            prev: NONE,
            next: NONE,
            value: T::default(),
        });
        true
    }

    /// Gives a slot back that is in no list; its id is never valid again.
    #[inline]
    pub(crate) fn release(&mut self, id: RequestId) {
        if self.get(id).is_some() {
            self.vacate(id.slot);
        }
    }

    /// Takes an entry out of the list it is in and gives its slot back; its id is never
    /// valid again.
    #[inline]
    pub(crate) fn release_from(&mut self, list: &mut List, id: RequestId) {
        if self.get(id).is_some()
            && let Some((prev, next)) = self.vacate(id.slot)
        {
            self.join(list, prev, next);
        }
    }

    /// Gives the slot of the first entry of a list back; its id is never valid again.
    #[inline]
    pub(crate) fn release_first(&mut self, list: &mut List) {
        let Some((_, next)) = self.vacate(list.head) else { return };
        list.head = next;
        match self.at(next) {
            Some(first) => first.prev = NONE,
            None => list.tail = NONE,
        }
    }

    /// Returns the neighbours of what has become a free slot.
    #[inline]
    fn vacate(&mut self, slot: u32) -> Option<(u32, u32)> {
        let free = self.free;
        let entry = self.at(slot)?;
        let neighbours = (entry.prev, entry.next);
        entry.owner = FREE;
        entry.generation = match entry.generation.wrapping_add(1) {
            0 => 1,
            next => next,
        };
        entry.next = free;
        self.free = slot;
        self.used = self.used.wrapping_sub(1);
        Some(neighbours)
    }

    /// Whether the id was issued once and has been given back.
    pub(crate) fn is_retired(&self, id: RequestId) -> bool {
        let Some(entry) = self.entries.get(id.slot as usize) else {
            return false;
        };
        // Generations wrap around; what is less than half of them ago is the past.
        let age = entry.generation.wrapping_sub(id.generation);
        id.generation != 0 && age != 0 && age < 1 << 31
    }

    #[inline]
    pub(crate) fn get(&self, id: RequestId) -> Option<&T> {
        let entry = self.entries.get(id.slot as usize)?;
        (entry.owner == u64::from(id.generation)).then_some(&entry.value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut T> {
        self.entry_mut(id).map(|entry| &mut entry.value)
    }

    #[inline]
    fn entry_mut(&mut self, id: RequestId) -> Option<&mut Entry<T>> {
        self.entries
            .get_mut(id.slot as usize)
            .filter(|entry| entry.owner == u64::from(id.generation))
    }

    #[inline]
    fn at(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        self.entries.get_mut(slot as usize)
    }

    #[inline]
    fn id_at(&self, slot: u32) -> Option<RequestId> {
        let entry = self.entries.get(slot as usize)?;
        Some(RequestId::new(slot, entry.generation))
    }

    /// Appends an entry that is in no list. The id must be valid.
    #[inline]
    pub(crate) fn push_back(&mut self, list: &mut List, id: RequestId) {
        let tail = self.append(list, id.slot);
        let Some(entry) = self.at(id.slot) else { return broken(NO_ENTRY) };
        entry.prev = tail;
        entry.next = NONE;
    }

    /// Takes an entry out of the list it is in. The id must be valid.
    #[inline]
    pub(crate) fn unlink(&mut self, list: &mut List, id: RequestId) {
        let Some(entry) = self.at(id.slot) else { return broken(NO_ENTRY) };
        let (prev, next) = (entry.prev, entry.next);
        self.join(list, prev, next);
    }

    /// Takes an entry out of the list it is in and appends it to another. The id must be
    /// valid.
    #[inline]
    pub(crate) fn transfer(&mut self, from: &mut List, to: &mut List, id: RequestId) {
        let tail = self.append(to, id.slot);
        let Some(entry) = self.at(id.slot) else { return broken(NO_ENTRY) };
        let prev = mem::replace(&mut entry.prev, tail);
        let next = mem::replace(&mut entry.next, NONE);
        self.join(from, prev, next);
    }

    /// Makes a slot the last of a list, but for its own links; returns the last so far.
    #[inline]
    fn append(&mut self, list: &mut List, slot: u32) -> u32 {
        match self.at(list.tail) {
            Some(last) => last.next = slot,
            None => list.head = slot,
        }
        mem::replace(&mut list.tail, slot)
    }

    /// Makes neighbours of two that what was between them has left.
    #[inline]
    fn join(&mut self, list: &mut List, prev: u32, next: u32) {
        match self.at(prev) {
            Some(before) => before.next = next,
            None => list.head = next,
        }
        match self.at(next) {
            Some(after) => after.prev = prev,
            None => list.tail = prev,
        }
    }

    #[inline]
    pub(crate) fn front(&self, list: &List) -> Option<RequestId> {
        self.id_at(list.head)
    }

    /// The first of a list, and what it holds.
    #[inline]
    pub(crate) fn first(&self, list: &List) -> Option<(RequestId, &T)> {
        let entry = self.entries.get(list.head as usize)?;
        Some((RequestId::new(list.head, entry.generation), &entry.value))
    }

    #[inline]
    pub(crate) fn after(&self, id: RequestId) -> Option<RequestId> {
        self.id_at(self.entries.get(id.slot as usize)?.next)
    }

    pub(crate) fn pop_front(&mut self, list: &mut List) -> Option<RequestId> {
        let id = self.front(list)?;
        self.unlink(list, id);
        Some(id)
    }
}

impl List {
    pub(crate) const fn new() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_never_valid_twice() {
        let mut slots: Slots<u8> = Slots::new(2);
        let (a, _) = slots.claim().unwrap();
        slots.release(a);
        let (b, _) = slots.claim().unwrap();
        assert_eq!(a.slot, b.slot);
        assert_ne!(a, b);
        assert!(slots.get(a).is_none() && slots.get(b).is_some());
        slots.release(a);
        assert!(slots.get(b).is_some(), "a stale id must not release the new owner");
    }

    #[test]
    fn only_ids_of_the_past_are_retired() {
        let mut slots: Slots<u8> = Slots::new(2);
        let (a, _) = slots.claim().unwrap();
        slots.release(a);
        let (b, _) = slots.claim().unwrap();
        assert!(slots.is_retired(a) && !slots.is_retired(b));
        // Nobody was ever given these.
        let never = |generation| RequestId::new(b.slot, generation);
        for generation in [0, b.generation + 1, b.generation + (1 << 31)] {
            assert!(!slots.is_retired(never(generation)), "{generation}");
        }
        assert!(!slots.is_retired(RequestId::new(1, a.generation)));
    }

    /// Generation 0 is nobody's, not even after all others have been used up.
    #[test]
    fn generations_start_again_at_one() {
        let mut slots: Slots<u8> = Slots::new(1);
        slots.claim().unwrap();
        let last = RequestId::new(0, u32::MAX);
        slots.entries[0].generation = last.generation;
        slots.entries[0].owner = last.generation.into();
        slots.release(last);
        let (next, _) = slots.claim().unwrap();
        assert_eq!(next.generation, 1);
        assert!(slots.get(last).is_none() && slots.is_retired(last));
    }

    #[test]
    fn capacity_is_a_hard_bound() {
        let mut slots: Slots<u8> = Slots::new(3);
        let ids: Vec<_> = (0..3).map(|_| slots.claim().unwrap().0).collect();
        assert!(slots.claim().is_none());
        slots.release(ids[1]);
        assert_eq!(slots.claim().unwrap().0.slot, ids[1].slot);
        assert!(slots.claim().is_none());
    }

    #[test]
    fn lists_keep_order_through_any_removal() {
        let mut slots: Slots<u8> = Slots::new(8);
        let mut list = List::new();
        let ids: Vec<_> = (0..5).map(|_| slots.claim().unwrap().0).collect();
        for id in &ids {
            slots.push_back(&mut list, *id);
        }
        for gone in [2, 0, 4] {
            slots.unlink(&mut list, ids[gone]);
        }
        assert_eq!(slots.front(&list), Some(ids[1]));
        assert_eq!(slots.after(ids[1]), Some(ids[3]));
        assert_eq!(slots.pop_front(&mut list), Some(ids[1]));
        assert_eq!(slots.pop_front(&mut list), Some(ids[3]));
        assert!(slots.front(&list).is_none() && slots.pop_front(&mut list).is_none());
    }

    proptest! {
        /// Whatever is done to them, two lists over one table hold what two queues hold,
        /// and an id is valid from its claim to its release.
        #[test]
        fn lists_are_queues(steps in prop::collection::vec((0u8..7, any::<prop::sample::Index>()), 0..200)) {
            let mut slots: Slots<u8> = Slots::new(6);
            let mut lists = [List::new(), List::new()];
            let mut queues = [Vec::new(), Vec::new()];
            let mut gone: Vec<RequestId> = Vec::new();
            for (step, index) in steps {
                let [(a, from), (b, to)] = {
                    let [a, b] = &mut lists;
                    let [from, to] = &mut queues;
                    [(a, from), (b, to)]
                };
                let place = (!from.is_empty()).then(|| index.index(from.len()));
                match (step, place) {
                    (0, _) => {
                        let full = from.len() + to.len() == 6;
                        let id = slots.claim_back(a).map(|(id, _)| id);
                        prop_assert_eq!(id.is_none(), full);
                        from.extend(id);
                    }
                    (1, _) => {
                        if let Some((id, _)) = slots.claim() {
                            slots.push_back(b, id);
                            to.push(id);
                        }
                    }
                    (2, Some(place)) => {
                        let id = from.remove(place);
                        slots.transfer(a, b, id);
                        to.push(id);
                    }
                    (3, Some(place)) => {
                        let id = from.remove(place);
                        slots.release_from(a, id);
                        gone.push(id);
                    }
                    (4, Some(place)) => {
                        let id = from.remove(place);
                        slots.unlink(a, id);
                        slots.release(id);
                        gone.push(id);
                    }
                    (5, _) => {
                        prop_assert_eq!(slots.first(b).map(|(id, _)| id), to.first().copied());
                        slots.release_first(b);
                        gone.extend((!to.is_empty()).then(|| to.remove(0)));
                    }
                    (6, _) => {
                        let id = slots.pop_front(b);
                        prop_assert_eq!(id, (!to.is_empty()).then(|| to.remove(0)));
                        if let Some(id) = id {
                            slots.release(id);
                            gone.push(id);
                        }
                    }
                    _ => {}
                }
                for (list, queue) in lists.iter().zip(&queues) {
                    let order: Vec<_> =
                        core::iter::successors(slots.front(list), |id| slots.after(*id)).collect();
                    prop_assert_eq!(&order, queue);
                    prop_assert!(queue.iter().all(|id| slots.get(*id).is_some()));
                }
                prop_assert_eq!(slots.used() as usize, queues[0].len() + queues[1].len());
                // A second release is none.
                for id in &gone {
                    prop_assert!(slots.get(*id).is_none() && slots.is_retired(*id));
                    slots.release(*id);
                }
            }
        }
    }
}
