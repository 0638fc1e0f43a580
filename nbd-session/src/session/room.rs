//! Room for one more command, and who waits for it.

use std::time::Instant;

use super::{Goodbye, Session, Stage};
use crate::error::Error;
use crate::limit::Limit;
use crate::waiters::Ticket;

/// Commands that were given up, because nobody waits for them any more or their time is over,
/// when they hold all the room there is: the server owes their answers, and nothing is in flight
/// whose completion would make room.
#[derive(Debug, Default)]
pub(super) enum GivenUp {
    /// So far as is known, there is room, or there will be when a completion is taken.
    #[default]
    Few,
    /// They hold it since then, and will have held it for too long at the other time, if there
    /// is one.
    All { since: Instant, by: Option<Instant> },
    /// They have held it for too long.
    TooLong { since: Instant, by: Instant },
}

impl Session {
    /// For how many more commands there is room, those included for whom some is kept.
    #[inline]
    pub(super) fn room(&self) -> usize {
        let used = match (&self.recovery, &self.stage) {
            (Some(recovery), _) => recovery.used(),
            (None, Stage::Open(open)) => open.core.in_flight() + open.core.completed(),
            (None, _) => return 0,
        };
        self.capacity.saturating_sub(used)
    }

    /// Whether one more command would find no room, or somebody waits for some. There will be
    /// some when a completion is taken; or, where [nothing is in flight](Self::in_flight) and
    /// commands that were given up hold all of it, when the server answers one of those. When
    /// none of them is answered for as long as a command may take, this is false again, and
    /// [`submit`](Self::submit) says that time is over.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        !self.waiters.is_empty()
            && (self.waiters.has_waiting() || self.room() <= self.waiters.admitted())
            || self.room() == 0 && self.is_worth_waiting()
    }

    /// Whether one more command finds room at once. Where it does not, it may
    /// [wait](Self::wait_for_room).
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.room() > self.waiters.admitted() && !self.waiters.has_waiting()
    }

    /// Whether a command that was refused like this was refused for want of room, and may
    /// [wait](Self::wait_for_room) for some under a limit of its own, whatever others have had to
    /// wait.
    #[must_use]
    pub fn may_wait(&self, refused: &Error) -> bool {
        self.is_ready() && (refused.is_full() || refused.is_timeout())
    }

    /// Whether there may be room later.
    #[cold]
    fn is_worth_waiting(&self) -> bool {
        let hopeless = matches!(self.given_up, GivenUp::TooLong { .. }) && self.in_flight() == 0;
        self.end.is_none() && self.goodbye == Goodbye::No && !hopeless
    }

    /// Why a command finds no room.
    #[cold]
    pub(super) fn no_room(&self) -> Error {
        match self.given_up {
            GivenUp::TooLong { since, by } if self.in_flight() == 0 => {
                let after = by.saturating_duration_since(since);
                Error::timed_out("waiting for room for one more command", after)
            }
            _ => Error::full(),
        }
    }

    /// A command was given up.
    pub(super) fn look_for_room(&mut self, now: Instant) {
        let all = self.recovery.is_none() && self.room() == 0 && self.in_flight() == 0;
        self.given_up = match self.attempts.options.request_timeout {
            _ if !all => GivenUp::Few,
            None => GivenUp::All { since: now, by: None },
            Some(limit) => GivenUp::All { since: now, by: now.checked_add(limit) },
        };
    }

    /// When commands that were given up will have held all the room for too long. There may be
    /// some meanwhile.
    pub(super) const fn end_of_room(&self) -> Option<Instant> {
        match self.given_up {
            GivenUp::All { by, .. } => by,
            GivenUp::Few | GivenUp::TooLong { .. } => None,
        }
    }

    /// It is so late now.
    pub(super) fn look_how_long(&mut self, now: Instant) {
        if let GivenUp::All { since, by: Some(by) } = self.given_up
            && by <= now
        {
            let all = self.room() == 0 && self.in_flight() == 0;
            self.given_up = if all { GivenUp::TooLong { since, by } } else { GivenUp::Few };
        }
    }

    /// Queues for [room](Self::is_full), behind those who wait already.
    /// [`next_admission`](Self::next_admission) tells when it is its turn; then
    /// [submit](crate::Request::ticket), which fails where there will be no room. The limit is
    /// that of the call, and counts while waiting too.
    pub fn wait_for_room(&mut self, limit: Limit, now: Instant) -> Ticket {
        let ticket = self.waiters.enter(self.fixed(limit, now), now);
        if let Some(end) = &self.end {
            self.waiters.close(&end.cause);
        }
        ticket
    }

    /// Nobody waits for a ticket any more, or for the room that was kept for it.
    pub fn stop_waiting(&mut self, ticket: Ticket, now: Instant) {
        // Nor for why there is none.
        drop(self.waiters.leave(ticket));
        self.wind_up(now);
    }

    /// Whose turn it is, if it is anybody's: there is room, which is kept until it is
    /// [used](crate::Request::ticket) or [given back](Self::stop_waiting); or there will be none,
    /// because time is over or the session is, and whoever submits is told so.
    pub fn next_admission(&mut self) -> Option<Ticket> {
        if self.waiters.has_waiting() && self.is_ready() {
            self.waiters.admit(self.room());
        }
        self.waiters.next_news()
    }
}
