//! What is to be sent again when a connection is lost, and on which one.

use nbd_proto::{Buffers, CommandType, Negotiated};

use super::{Link, ReplayLog};
use crate::replay::entry::{Entry, Owner};
use crate::replay::error::RecoveryError;
use crate::replay::pending::Place;
use crate::replay::terms::{self, Changed};
use crate::replay::unflushed::{Unflushed, UnflushedWrites};

impl<T: Copy, P> ReplayLog<T, P> {
    /// The connection is gone, and the client has reported all it had. Whatever was not
    /// answered is to be sent again, and so is whatever was acknowledged and is kept.
    pub fn lost(&mut self) {
        self.link = Link::Down;
        self.sent = Buffers::new();
        self.under_way = 0;
        if let Some(place) = self.of_flushes(|owner| matches!(owner, Owner::Log)).first() {
            self.forget(*place);
        }
        let kept = self.unflushed.as_mut().map(UnflushedWrites::unpack).unwrap_or_default();
        let again = kept.into_iter().map(|kept| {
            let Unflushed { seq, command, payload, .. } = kept;
            let entry = Entry::new(command, payload, Owner::Acknowledged);
            (seq, Entry { again: true, ..entry })
        });
        self.pending.put_back(again);
        if self.unflushed.is_none() && self.acknowledged > self.settled {
            self.tell_of_losses();
        }
    }

    fn of_flushes(&self, wanted: impl Fn(&Owner<T>) -> bool) -> Vec<Place> {
        let flushes = self.pending.entries().filter(|(_, e)| e.command.kind == CommandType::Flush);
        let wanted = flushes.filter(|(_, entry)| wanted(&entry.owner));
        let mut places: Vec<Place> = wanted.map(|(place, _)| place).collect();
        places.sort_unstable();
        places
    }

    /// Acknowledged writes may be lost. Flushes that vouch for them fail: those under way, or
    /// else the next.
    fn tell_of_losses(&mut self) {
        self.settled = self.acknowledged;
        let flushes = self.of_flushes(|_| true);
        self.owes_failure |= flushes.is_empty();
        for place in flushes {
            if let Some(Entry { owner: Owner::Caller(token), .. }) = self.forget(place) {
                self.failed.push_back((token, RecoveryError::UnflushedLost));
            }
        }
    }

    /// There is another connection.
    ///
    /// # Errors
    /// When it leads to something else than the first one did. It is of no use then; a later
    /// one may be.
    pub fn resume(&mut self, facts: &Negotiated) -> Result<(), Changed> {
        terms::check(&self.facts, facts, self.growth)?;
        self.contexts = terms::renumbered(&self.facts, facts);
        if let (Some(told), Some(now)) = (&mut self.facts.export, &facts.export) {
            told.size = now.size;
        }
        self.link = Link::Up;
        Ok(())
    }
}
