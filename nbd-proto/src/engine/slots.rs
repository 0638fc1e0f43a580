//! A fixed-capacity table of requests with generation-tagged ids and intrusive
//! lists: every operation takes constant time and none allocates once the table
//! has grown to the number of requests in use.

use alloc::vec::Vec;

use crate::types::RequestId;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    occupied: bool,
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

    /// Takes a free slot. The value is what the slot last held.
    #[inline]
    pub(crate) fn claim(&mut self) -> Option<(RequestId, &mut T)> {
        if self.is_full() {
            return None;
        }
        if self.free == NONE {
            self.grow();
        }
        let slot = self.free;
        let entry = self.entries.get_mut(slot as usize)?;
        self.free = entry.next;
        self.used += 1;
        entry.occupied = true;
        entry.next = NONE;
        entry.prev = NONE;
        Some((RequestId { slot, generation: entry.generation }, &mut entry.value))
    }

    /// Adds one slot, and makes it the next to be taken.
    #[cold]
    fn grow(&mut self) {
        self.free = self.entries.len() as u32;
        self.entries.push(Entry {
            // Generation 0 is never issued, so that a cookie of 0 is always
            // a foreign one.
            generation: 1,
            occupied: false,
            prev: NONE,
            next: NONE,
            value: T::default(),
        });
    }

    /// Gives a slot back; its id is never valid again.
    #[inline]
    pub(crate) fn release(&mut self, id: RequestId) {
        let free = self.free;
        if let Some(entry) = self.entry_mut(id) {
            entry.occupied = false;
            entry.generation = match entry.generation.wrapping_add(1) {
                0 => 1,
                next => next,
            };
            entry.next = free;
            self.free = id.slot;
            self.used -= 1;
        }
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
        (entry.occupied && entry.generation == id.generation).then_some(&entry.value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut T> {
        self.entry_mut(id).map(|entry| &mut entry.value)
    }

    #[inline]
    fn entry_mut(&mut self, id: RequestId) -> Option<&mut Entry<T>> {
        self.entries
            .get_mut(id.slot as usize)
            .filter(|entry| entry.occupied && entry.generation == id.generation)
    }

    #[inline]
    fn at(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        self.entries.get_mut(slot as usize)
    }

    #[inline]
    fn id_at(&self, slot: u32) -> Option<RequestId> {
        let entry = self.entries.get(slot as usize)?;
        Some(RequestId { slot, generation: entry.generation })
    }

    /// Appends an entry that is in no list. The id must be valid.
    #[inline]
    pub(crate) fn push_back(&mut self, list: &mut List, id: RequestId) {
        let tail = list.tail;
        match self.at(tail) {
            Some(last) => last.next = id.slot,
            None => list.head = id.slot,
        }
        list.tail = id.slot;
        if let Some(entry) = self.at(id.slot) {
            entry.prev = tail;
            entry.next = NONE;
        }
    }

    /// Takes an entry out of the list it is in. The id must be valid.
    #[inline]
    pub(crate) fn unlink(&mut self, list: &mut List, id: RequestId) {
        let Some(entry) = self.at(id.slot) else { return };
        let (prev, next) = (entry.prev, entry.next);
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
        let never = |generation| RequestId { generation, ..b };
        for generation in [0, b.generation + 1, b.generation + (1 << 31)] {
            assert!(!slots.is_retired(never(generation)), "{generation}");
        }
        assert!(!slots.is_retired(RequestId { slot: 1, ..a }));
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
}
