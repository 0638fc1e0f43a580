//! Who waits for a free slot: first come, first served.

use std::collections::VecDeque;
use std::time::Instant;

use nbd_proto::RequestId;

use crate::error::{Error, broken};
use crate::limit::Limit;
use crate::timers::{Timer, Timers};

/// A place among those who wait for room for one more command.
///
/// See [`Session::wait_for_room`](crate::Session::wait_for_room).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(RequestId);

impl Ticket {
    /// Index of its slot: small and dense, fit to index a side table.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.0.slot()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    places: Vec<(u32, Place, Limit)>,
    free: Vec<u32>,
    /// Some may have left meanwhile.
    queue: VecDeque<Ticket>,
    /// How many of those in the queue still wait.
    waiting: usize,
    /// For how many room is kept.
    admitted: usize,
    timers: Timers,
    /// Those who wait no more, and have not been told so.
    news: VecDeque<Ticket>,
}

#[derive(Debug)]
enum Place {
    Free,
    Waiting,
    Admitted,
    /// There will be no room.
    Refused(Error),
}

impl Waiters {
    /// Whether nobody waits, and no room is kept for anybody.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting == 0 && self.admitted == 0
    }

    pub(crate) const fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// For how many room is kept.
    pub(crate) const fn admitted(&self) -> usize {
        self.admitted
    }

    #[inline]
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.timers.first()
    }

    /// Queues up, under a limit that is no default any more.
    pub(crate) fn enter(&mut self, limit: Limit, now: Instant) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, Place::Free, limit));
            (self.places.len() - 1) as u32
        });
        let mut generation = 0;
        if let Some((number, place, under)) = self.places.get_mut(slot as usize) {
            (*place, *under) = (Place::Waiting, limit);
            generation = *number;
        }
        let id = RequestId::from_cookie(u64::from(generation) << 32 | u64::from(slot));
        self.queue.push_back(Ticket(id));
        self.waiting += 1;
        if let Some(at) = limit.end(None, now) {
            self.timers.insert(Timer { at, since: limit.since(now), id });
        }
        Ticket(id)
    }

    fn place(&mut self, ticket: Ticket) -> Option<&mut (u32, Place, Limit)> {
        let place = self.places.get_mut(ticket.slot())?;
        (u64::from(place.0) == ticket.0.to_cookie() >> 32).then_some(place)
    }

    fn is_waiting(&mut self, ticket: Ticket) -> bool {
        self.place(ticket).is_some_and(|(_, place, _)| matches!(place, Place::Waiting))
    }

    /// Gives the place up, whatever it is. Returns the limit under which it was waited for, if
    /// room was kept for it.
    ///
    /// # Errors
    /// When there will be none: why.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Result<Option<Limit>, Error> {
        let Some((number, place, limit)) = self.place(ticket) else { return Ok(None) };
        *number = number.wrapping_add(1);
        let (was, limit) = (std::mem::replace(place, Place::Free), *limit);
        self.free.push(ticket.slot() as u32);
        self.timers.remove(ticket.0);
        match was {
            Place::Free => Ok(None),
            Place::Waiting => {
                self.waiting -= 1;
                self.tidy();
                Ok(None)
            }
            Place::Admitted => {
                self.admitted -= 1;
                self.news.retain(|news| *news != ticket);
                Ok(Some(limit))
            }
            Place::Refused(error) => {
                self.news.retain(|news| *news != ticket);
                Err(error)
            }
        }
    }

    /// The queue does not grow with those who left it.
    fn tidy(&mut self) {
        if self.queue.len() > 2 * self.waiting + 64 {
            let places = &self.places;
            self.queue.retain(|ticket| {
                places.get(ticket.slot()).is_some_and(|(number, place, _)| {
                    matches!(place, Place::Waiting)
                        && u64::from(*number) == ticket.0.to_cookie() >> 32
                })
            });
        }
    }

    /// Lets in as many as there is room for, those for whom some is kept included.
    pub(crate) fn admit(&mut self, room: usize) {
        while self.waiting > 0 && self.admitted < room {
            let Some(ticket) = self.queue.pop_front() else { return broken("who waits is queued") };
            if self.is_waiting(ticket) {
                self.admitted += 1;
                self.timers.remove(ticket.0);
                self.tell(ticket, Place::Admitted);
            }
        }
    }

    /// Tells those whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(Timer { at, since, id }) = self.timers.pop_due(now) {
            let ticket = Ticket(id);
            if !self.is_waiting(ticket) {
                continue;
            }
            let after = at.saturating_duration_since(since);
            let error = Error::timed_out("waiting for room for one more command", after);
            self.tell(ticket, Place::Refused(error));
            self.tidy();
        }
    }

    /// One has waited long enough.
    fn tell(&mut self, ticket: Ticket, outcome: Place) {
        if let Some((_, place, _)) = self.place(ticket) {
            *place = outcome;
            self.waiting -= 1;
            self.news.push_back(ticket);
        }
    }

    /// There will be no room any more.
    pub(crate) fn close(&mut self, error: &Error) {
        while let Some(ticket) = self.queue.pop_front() {
            if self.is_waiting(ticket) {
                self.tell(ticket, Place::Refused(error.clone()));
            }
        }
        self.timers = Timers::default();
    }

    pub(crate) fn next_news(&mut self) -> Option<Ticket> {
        self.news.pop_front()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do, but there has to be one")]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::time::Duration;

    fn news(line: &mut Waiters) -> Vec<Ticket> {
        std::iter::from_fn(|| line.next_news()).collect()
    }

    #[test]
    fn first_come_first_served_and_who_left_is_passed_over() {
        let (mut line, now) = (Waiters::default(), Instant::now());
        let tickets: Vec<_> = (0..4).map(|_| line.enter(Limit::Never, now)).collect();
        assert_eq!(line.leave(tickets[1]).unwrap(), None);
        line.admit(2);
        assert_eq!(news(&mut line), [tickets[0], tickets[2]]);
        line.admit(2);
        assert_eq!(news(&mut line), [], "the room is kept");
        assert_eq!(line.leave(tickets[0]).unwrap(), Some(Limit::Never), "it is given back");
        line.admit(2);
        assert_eq!(news(&mut line), [tickets[3]]);
        // A slot that is used again is another ticket.
        let again = line.enter(Limit::Never, now);
        assert!(line.leave(tickets[0]).unwrap().is_none() && line.has_waiting());
        assert_ne!(again, tickets[0]);
    }

    #[test]
    fn those_who_wait_are_told_of_the_end_and_of_their_own() {
        let (mut line, now) = (Waiters::default(), Instant::now());
        let late = line.enter(Limit::within(Duration::from_secs(1), now), now);
        let patient = line.enter(Limit::Never, now);
        assert_eq!(line.first_deadline(), Some(now + Duration::from_secs(1)));
        line.expire(now + Duration::from_secs(1));
        assert_eq!(news(&mut line), [late]);
        assert!(line.leave(late).unwrap_err().is_timeout());
        line.close(&Error::closed());
        assert_eq!(news(&mut line), [patient]);
        assert_eq!(line.leave(patient).unwrap_err().kind(), ErrorKind::Closed);
        assert!(line.is_empty());
        assert_eq!(line.free.len(), line.places.len());
    }

    #[test]
    fn the_line_does_not_grow_with_those_who_leave() {
        let (mut line, now) = (Waiters::default(), Instant::now());
        let first = line.enter(Limit::Never, now);
        for _ in 0..10_000 {
            let ticket = line.enter(Limit::Never, now);
            line.leave(ticket).unwrap();
        }
        assert!(line.queue.len() < 200 && line.places.len() < 10);
        line.admit(1);
        assert_eq!(news(&mut line), [first]);
    }
}
