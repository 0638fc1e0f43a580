//! Deadlines of commands, soonest first.

use std::time::Instant;

use nbd_proto::RequestId;

use crate::error::broken;

/// A heap whose places are known by slot: the soonest deadline is known at once, each one is
/// taken out in logarithmic time, and nothing is ever searched for.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Vec<Timer>,
    /// By slot: its place in the heap, plus one.
    places: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer {
    pub(crate) at: Instant,
    /// When the time began to run.
    pub(crate) since: Instant,
    pub(crate) id: RequestId,
}

impl Timers {
    #[inline]
    pub(crate) fn first(&self) -> Option<Instant> {
        self.heap.first().map(|timer| timer.at)
    }

    /// Takes out the soonest, if its time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let timer = *self.heap.first().filter(|timer| timer.at <= now)?;
        self.remove(timer.id);
        Some(timer)
    }

    pub(crate) fn insert(&mut self, timer: Timer) {
        let slot = timer.id.slot();
        self.take_out(slot);
        if self.places.len() <= slot {
            self.places.resize(slot + 1, 0);
        }
        self.heap.push(timer);
        self.rise(self.heap.len() - 1);
    }

    /// Takes out that of a command, if it has one.
    #[inline]
    pub(crate) fn remove(&mut self, id: RequestId) {
        if !self.heap.is_empty() && self.get(id.slot()).is_some_and(|timer| timer.id == id) {
            self.take_out(id.slot());
        }
    }

    fn get(&self, slot: usize) -> Option<&Timer> {
        let place = *self.places.get(slot)?;
        self.heap.get((place as usize).checked_sub(1)?)
    }

    fn take_out(&mut self, slot: usize) {
        let Some(place) = self.places.get_mut(slot) else { return };
        let Some(at) = (*place as usize).checked_sub(1) else { return };
        *place = 0;
        self.heap.swap_remove(at);
        if at < self.heap.len() {
            let at = self.rise(at);
            self.sink(at);
        }
    }

    fn at(&self, index: usize) -> Option<Instant> {
        self.heap.get(index).map(|timer| timer.at)
    }

    /// Notes where a timer is.
    fn note(&mut self, index: usize) {
        let timer = self.heap.get(index);
        match timer.and_then(|timer| self.places.get_mut(timer.id.slot())) {
            // There are no more timers than slots, whose numbers have 32 bits.
            Some(place) => *place = (index + 1) as u32,
            None => broken("what is in the heap has a place"),
        }
    }

    fn rise(&mut self, mut index: usize) -> usize {
        while let Some(parent) = index.checked_sub(1).map(|below| below / 2)
            && self.at(index) < self.at(parent)
        {
            self.heap.swap(index, parent);
            self.note(index);
            index = parent;
        }
        self.note(index);
        index
    }

    fn sink(&mut self, mut index: usize) {
        loop {
            let mut least = index;
            for child in [2 * index + 1, 2 * index + 2] {
                if self.at(child).is_some_and(|at| Some(at) < self.at(least)) {
                    least = child;
                }
            }
            if least == index {
                return self.note(index);
            }
            self.heap.swap(index, least);
            self.note(index);
            index = least;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do, but there has to be one")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn timer(start: Instant, slot: u64, at: u64) -> Timer {
        let id = RequestId::from_cookie(slot);
        Timer { at: start + Duration::from_millis(at), since: start, id }
    }

    proptest! {
        /// As a sorted list would.
        #[test]
        fn they_come_out_in_order(
            steps in prop::collection::vec((0u64..20, 0u64..50, any::<bool>()), 0..200),
        ) {
            let start = Instant::now();
            let (mut timers, mut model) = (Timers::default(), std::collections::BTreeMap::new());
            for (slot, at, add) in steps {
                if add {
                    timers.insert(timer(start, slot, at));
                    model.insert(slot, at);
                } else {
                    timers.remove(RequestId::from_cookie(slot));
                    model.remove(&slot);
                }
                let soonest = model.values().min().map(|at| start + Duration::from_millis(*at));
                prop_assert_eq!(timers.first(), soonest);
            }
            let end = start + Duration::from_secs(1);
            let mut due = Vec::new();
            while let Some(timer) = timers.pop_due(end) {
                due.push((timer.at - start).as_millis() as u64);
            }
            let mut all: Vec<_> = model.into_values().collect();
            all.sort_unstable();
            prop_assert_eq!(due, all);
        }
    }
}
