//! From a reply, or the want of one, to whoever waits for the command.

use core::cmp::Reverse;

use super::pending::Stage;
use super::{Client, Core, End, Life};
use crate::error::{Anomaly, CommandError, Error, PeerMisbehaved, ReplyFault, broken};
use crate::event::Event;
use crate::types::{Command, RequestId};

/// What is listed has a slot.
pub(super) const NO_PENDING: &str = "a command that is not finished keeps its slot";

/// Anomalies kept for the caller; further ones are only counted.
const MAX_ANOMALIES: usize = 16;

/// What a client knows about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "nbd_aio_command_completed")]
#[expect(clippy::exhaustive_enums, reason = "the whole life of a command")]
pub enum RequestStatus {
    /// Waiting for its reply.
    InFlight,
    /// Finished; its completion has not been taken.
    Completed,
    /// Its completion has been taken, or it was abandoned.
    Retired,
    /// Never issued.
    Unknown,
}

impl Client {
    /// What is known about an id.
    #[must_use]
    pub fn status(&self, id: RequestId) -> RequestStatus {
        match self.core.slots.get(id).map(|pending| (pending.stage, pending.abandoned)) {
            None if self.core.slots.is_retired(id) => RequestStatus::Retired,
            None => RequestStatus::Unknown,
            Some((_, true)) => RequestStatus::Retired,
            Some((Stage::InFlight | Stage::Held, false)) => RequestStatus::InFlight,
            Some((Stage::Done, false)) => RequestStatus::Completed,
        }
    }

    /// Stops waiting for a command. Its completion will not be reported, and its
    /// slot stays reserved until the server's reply has been read through.
    ///
    /// Returns true when the command is out of the machine at once: it was finished, or
    /// no byte of it had been sent, and none will be. Otherwise a write's payload may
    /// still be asked of the [`PayloadSource`](crate::PayloadSource) until it is sent;
    /// a read's destination is never asked for again.
    pub fn abandon(&mut self, id: RequestId) -> bool {
        let Some(pending) = self.core.slots.get_mut(id) else {
            return true;
        };
        let new = pending.abandon();
        match pending.stage {
            Stage::Done => {
                self.core.slots.release_from(&mut self.core.done, id);
                true
            }
            Stage::InFlight | Stage::Held => {
                let (kind, sequence) = (pending.command.kind, pending.sequence);
                let held = pending.stage == Stage::Held;
                if !self.core.take_back(sequence) {
                    self.core.abandoned = self.core.abandoned.saturating_add(new.into());
                    return false;
                }
                self.core.count_out(kind, !new);
                if held {
                    self.core.held.retain(|Reverse((_, other))| *other != id);
                    self.core.slots.release(id);
                } else {
                    self.core.slots.release_from(&mut self.core.in_flight, id);
                }
                self.disconnect_when_drained();
                true
            }
        }
    }

    /// Abandons every command; see [`abandon`](Self::abandon).
    pub fn abandon_all(&mut self) {
        while let Some(id) = self.core.slots.front(&self.core.done) {
            self.abandon(id);
        }
        let mut next = self.core.slots.front(&self.core.in_flight);
        while let Some(id) = next {
            next = self.core.slots.after(id);
            self.abandon(id);
        }
        // One of them may be partly sent, and stays; the others are taken back.
        let mut held = core::mem::take(&mut self.core.held);
        for Reverse((_, id)) in held.iter() {
            self.abandon(*id);
        }
        held.retain(|Reverse((_, id))| self.core.slots.get(*id).is_some());
        self.core.held = held;
    }

    /// The next thing to know, if there is one.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        let core = &mut self.core;
        if let Some((id, command, result)) = core.take_next() {
            return Some(Event::Completed { id, command, result });
        }
        if let Some(anomaly) = core.anomalies.pop_front() {
            return Some(Event::Anomaly(anomaly));
        }
        if let (Life::Closed(error), End::Untold) = (&core.life, core.end) {
            core.end = End::Told;
            return Some(Event::Disconnected { error: error.clone() });
        }
        None
    }

    /// The oldest command that is finished and not taken.
    #[must_use]
    #[inline]
    pub fn peek_completed(&self) -> Option<RequestId> {
        self.core.slots.front(&self.core.done)
    }

    /// All commands that are finished and not taken, oldest first.
    pub fn completions(
        &self,
    ) -> impl Iterator<Item = (RequestId, Command, Result<(), CommandError>)> + '_ {
        let slots = &self.core.slots;
        let mut next = slots.front(&self.core.done);
        core::iter::from_fn(move || {
            let id = next?;
            next = slots.after(id);
            slots.get(id).map(|pending| (id, pending.command, pending.result()))
        })
    }

    /// Takes the completion of the oldest command that is finished and not taken.
    #[inline]
    pub fn take_next(&mut self) -> Option<(RequestId, Command, Result<(), CommandError>)> {
        self.core.take_next()
    }

    /// Takes the completion of one command, out of turn. `None` unless
    /// [`status`](Self::status) says [`RequestStatus::Completed`].
    #[inline]
    pub fn take(&mut self, id: RequestId) -> Option<(Command, Result<(), CommandError>)> {
        self.core.take(id)
    }
}

impl Core {
    /// The final reply to a command is in, or none will come.
    pub(super) fn conclude(&mut self, id: RequestId, error: Option<CommandError>) {
        let Some(pending) = self.slots.get_mut(id) else { return broken(NO_PENDING) };
        if let Some(error) = error {
            pending.fail(error);
        }
        let unsent = pending.sequence >= self.outbox.first_unsent();
        if unsent && !matches!(self.life, Life::Closed(_)) {
            pending.stage = Stage::Held;
            self.held.push(Reverse((pending.sequence, id)));
            self.slots.unlink(&mut self.in_flight, id);
        } else {
            self.finish(id);
        }
    }

    /// Moves a command to the finished ones, or out if nobody waits for it. One that was held
    /// has been taken from there.
    pub(super) fn finish(&mut self, id: RequestId) {
        let Some(pending) = self.slots.get_mut(id) else { return broken(NO_PENDING) };
        match pending.stage {
            Stage::InFlight => self.slots.unlink(&mut self.in_flight, id),
            Stage::Held => {}
            Stage::Done => return,
        }
        let Some(pending) = self.slots.get_mut(id) else { return broken(NO_PENDING) };
        pending.stage = Stage::Done;
        let (kind, abandoned) = (pending.command.kind, pending.abandoned);
        self.count_out(kind, abandoned);
        if abandoned {
            self.slots.release(id);
        } else {
            self.slots.push_back(&mut self.done, id);
        }
    }

    /// Something has been sent: finishes the commands that waited for no more than their own
    /// request to leave.
    #[inline]
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let first_unsent = self.outbox.first_unsent();
        while let Some(Reverse((sequence, id))) = self.held.peek().copied()
            && sequence < first_unsent
        {
            self.held.pop();
            self.finish(id);
        }
    }

    #[inline]
    fn take_next(&mut self) -> Option<(RequestId, Command, Result<(), CommandError>)> {
        let (id, pending) = self.slots.first(&self.done)?;
        let taken = (id, pending.command, pending.result());
        self.slots.release_first(&mut self.done);
        Some(taken)
    }

    #[inline]
    fn take(&mut self, id: RequestId) -> Option<(Command, Result<(), CommandError>)> {
        let pending = self.slots.get(id).filter(|pending| pending.stage == Stage::Done)?;
        let taken = (pending.command, pending.result());
        self.slots.release_from(&mut self.done, id);
        Some(taken)
    }

    /// A reply that fits no command in flight.
    pub(super) fn anomaly(&mut self, fault: ReplyFault, id: RequestId) -> Result<(), Error> {
        if self.strict_peer {
            return Err(PeerMisbehaved::Strict(fault).into());
        }
        self.anomaly_count = self.anomaly_count.wrapping_add(1);
        if self.anomalies.len() < MAX_ANOMALIES {
            self.anomalies.push_back(Anomaly { fault, id });
        }
        Ok(())
    }
}
