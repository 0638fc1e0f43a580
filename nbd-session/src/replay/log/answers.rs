//! What becomes of commands that were sent, and of those that never will be.

use nbd_proto::{Command, CommandError, CommandFlags, CommandType, Errno, RequestId, SubmitError};

use super::{ReplayLog, count_down, weight};
use crate::error::broken;
use crate::replay::entry::{Entry, Owner, Stage};
use crate::replay::error::RecoveryError;
use crate::replay::pending::{Pending, Place};
use crate::replay::unflushed::Unflushed;

impl<T: Copy, P> ReplayLog<T, P> {
    /// The client does not take what was due, and never will. Returns whom to tell.
    pub fn refused(&mut self, place: Place, error: SubmitError) -> Option<T> {
        let gone = self.drop_out(place)?;
        match gone.owner {
            Owner::Caller(token) => return Some(token),
            Owner::Acknowledged => self.cannot_repeat(gone.command, error.errno()),
            Owner::Log => self.cannot_make_room(error.errno()),
        }
        None
    }

    /// A request is finished. Returns who is to be told what; nobody when it is to be sent
    /// again, or was the log's own affair.
    #[must_use]
    pub fn completed(
        &mut self,
        id: RequestId,
        result: Result<(), CommandError>,
    ) -> Option<(T, Result<(), CommandError>)> {
        // Nobody may wait for it any more.
        let place = self.sent.remove(id)?;
        count_down(&mut self.under_way, 1);
        match result {
            // What became of it nobody knows; the loss itself is to be told.
            Err(CommandError::ConnectionLost) => return None,
            // The server is shutting down, and has not done this.
            Err(CommandError::Server(Errno::Shutdown)) => {
                self.pending.given_back(place);
                return None;
            }
            _ => {}
        }
        let Some(entry) = self.forget(place) else {
            broken("what was sent is there until its answer");
            return None;
        };
        let covers = match entry.stage {
            Stage::Sent { covers, .. } => covers,
            Stage::Waiting => {
                broken("what is answered was sent");
                0
            }
        };
        let (command, owner) = (entry.command, entry.owner);
        match (command.kind, result) {
            (CommandType::Flush, Ok(())) => self.flushed(covers),
            (kind, Ok(())) if kind.modifies() => self.acknowledge(place, entry),
            (kind, Err(_)) if kind.modifies() => self.give_back_room(&command),
            _ => {}
        }
        match (owner, result) {
            (Owner::Caller(token), result) => return Some((token, result)),
            (Owner::Acknowledged, Err(error)) => self.cannot_repeat(command, error.errno()),
            (Owner::Log, Err(error)) => self.cannot_make_room(error.errno()),
            (Owner::Acknowledged | Owner::Log, Ok(())) => {}
        }
        None
    }

    fn acknowledge(&mut self, place: Place, entry: Entry<T, P>) {
        let Entry { command, payload, .. } = entry;
        let durable = command.flags.contains(CommandFlags::FUA);
        self.acknowledged = self.acknowledged.saturating_add(u64::from(!durable));
        let Some(unflushed) = &mut self.unflushed else {
            return;
        };
        // A durable one is kept as long as an older one is that might be put back over it.
        if durable && unflushed.is_empty() {
            unflushed.give_back_room(&command);
        } else {
            let seq = Pending::<T, P>::seq(place);
            unflushed.keep(Unflushed { seq, command, payload, stamp: self.acknowledged });
        }
    }

    fn flushed(&mut self, covers: u64) {
        self.settled = self.settled.max(covers);
        self.flush_failed = false;
        if let Some(unflushed) = &mut self.unflushed {
            unflushed.release(covers);
        }
    }

    fn cannot_repeat(&mut self, command: Command, errno: Errno) {
        self.fault.get_or_insert(RecoveryError::ReplayFailed { command, errno });
    }

    fn cannot_make_room(&mut self, errno: Errno) {
        self.flush_failed = true;
        while let Some((place, entry)) = self.pending.first_short()
            && self.unflushed.as_ref().is_some_and(|unflushed| !unflushed.has_room(&entry.command))
        {
            if let Some(Entry { owner: Owner::Caller(token), .. }) = self.forget(place) {
                self.failed.push_back((token, RecoveryError::CannotFlush(errno)));
            }
        }
    }

    fn give_back_room(&mut self, command: &Command) {
        if let Some(unflushed) = &mut self.unflushed {
            unflushed.give_back_room(command);
        }
    }

    /// The only way out of those that are not answered.
    pub(super) fn forget(&mut self, place: Place) -> Option<Entry<T, P>> {
        let gone = self.pending.remove(place)?;
        let (wanted, flush) = weight(&gone);
        count_down(&mut self.callers, wanted);
        count_down(&mut self.flushes, flush);
        Some(gone)
    }

    /// Whether [`poll_failed`](Self::poll_failed) or [`fault`](Self::fault) has something.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty() || self.fault.is_some()
    }

    /// A command that failed without having been sent.
    pub fn poll_failed(&mut self) -> Option<(T, RecoveryError)> {
        self.failed.pop_front()
    }

    /// Nobody waits for a command any more. It is not sent again; whether it took place is
    /// unknown.
    pub fn cancel(&mut self, place: Place) {
        let wanted = |entry: &Entry<T, P>| matches!(entry.owner, Owner::Caller(_));
        if !self.pending.get(place).is_some_and(wanted) {
            return;
        }
        let stage = self.drop_out(place).map(|gone| gone.stage);
        if let Some(Stage::Sent { id, .. }) = stage
            && self.sent.remove(id).is_some()
        {
            count_down(&mut self.under_way, 1);
        }
    }

    /// Takes a command out that is not acknowledged.
    fn drop_out(&mut self, place: Place) -> Option<Entry<T, P>> {
        let gone = self.forget(place)?;
        if gone.has_room && gone.command.kind.modifies() {
            self.give_back_room(&gone.command);
        }
        Some(gone)
    }
}
