//! From what came of a command to whoever waits for it.

use nbd_proto::{
    Command, CommandError, CommandFailure, CommandType, ReplyDetails, RequestId, RequestStatus,
    ServerMessage,
};

use super::request::Completion;
use super::{Session, Stage};
use crate::error::Error;
use crate::timers::Timer;

impl Session {
    /// Takes the oldest completion. The id is free from then on: hand its buffer over in the
    /// same moment.
    #[inline(always)]
    pub fn next_completion(&mut self) -> Option<Completion> {
        if self.is_plain() {
            let Stage::Open(open) = &mut self.stage else { return None };
            let (id, command, result) = open.core.take_next()?;
            return Some(self.complete(id, command, result));
        }
        self.next_completion_cold()
    }

    /// Takes the completion of one command, out of turn. `None` unless its
    /// [status](Self::status) is [`RequestStatus::Completed`].
    #[inline]
    pub fn take(&mut self, id: RequestId) -> Option<Completion> {
        if self.is_plain() {
            let Stage::Open(open) = &mut self.stage else { return None };
            let (command, result) = open.core.take(id)?;
            return Some(self.complete(id, command, result));
        }
        self.take_cold(id)
    }

    /// Whether completions are the core's, all of them.
    #[inline]
    fn is_plain(&self) -> bool {
        self.recovery.is_none()
            && self.late.is_empty()
            && self.keep_alive.as_ref().is_none_or(|probe| !probe.is_asking())
    }

    #[inline(always)]
    fn complete(
        &mut self,
        id: RequestId,
        command: Command,
        result: Result<(), CommandError>,
    ) -> Completion {
        self.timers.remove(id);
        self.durability.completed(id, command, result.is_ok());
        let ReplyDetails { extents, chunks, message, .. } =
            self.take_details(id, command.kind, result.is_err());
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failure(command, error, message)),
        };
        self.attempts.trace.finished(id, &result);
        Completion { id, command, result, extents, chunks, held: false }
    }

    /// Most commands have none.
    #[inline]
    fn take_details(&mut self, id: RequestId, kind: CommandType, failed: bool) -> ReplyDetails {
        let wanted = match kind {
            CommandType::Read => self.reports_chunks,
            CommandType::BlockStatus => true,
            CommandType::Write
            | CommandType::Flush
            | CommandType::Trim
            | CommandType::WriteZeroes
            | CommandType::Cache => false,
        };
        if wanted || failed { self.details.take(id) } else { ReplyDetails::default() }
    }

    #[cold]
    pub(super) fn failure(
        &self,
        command: Command,
        error: CommandError,
        message: Option<ServerMessage>,
    ) -> Error {
        match self.end() {
            Some(end) if error == CommandError::ConnectionLost => end.clone(),
            _ => CommandFailure::new(command, error, message).into(),
        }
    }

    #[cold]
    fn next_completion_cold(&mut self) -> Option<Completion> {
        if let Some(recovery) = self.recovery.as_deref_mut() {
            let id = recovery.first_finished()?;
            return self.take_logged(id);
        }
        if let Some(timer) = self.late.pop_front() {
            return self.take_late(timer);
        }
        let Stage::Open(open) = &mut self.stage else { return None };
        let mut next = open.core.take_next()?;
        if let Some(probe) = self.keep_alive.as_mut().filter(|probe| probe.owns(next.0)) {
            probe.answered();
            next = open.core.take_next()?;
        }
        let (id, command, result) = next;
        Some(self.complete(id, command, result))
    }

    #[cold]
    fn take_cold(&mut self, id: RequestId) -> Option<Completion> {
        if self.recovery.is_some() {
            return self.take_logged(id);
        }
        if let Some(at) = self.late.iter().position(|timer| timer.id == id) {
            let timer = self.late.remove(at)?;
            return self.take_late(timer);
        }
        let Stage::Open(open) = &mut self.stage else { return None };
        let (command, result) = open.core.take(id)?;
        Some(self.complete(id, command, result))
    }

    /// Of a command whose time is over. It may be done all the same.
    fn take_late(&mut self, timer: Timer) -> Option<Completion> {
        let Timer { at, since, id } = timer;
        let state = self.state_name();
        let Stage::Open(open) = &mut self.stage else { return None };
        if let Some((command, result)) = open.core.take(id) {
            return Some(self.complete(id, command, result));
        }
        let command = open.core.command(id)?;
        let after = at.saturating_duration_since(since);
        let held = self.abandon(id) == super::Withdrawn::HalfSent;
        self.look_for_room(self.silence.told());
        self.durability.forget(id);
        let result = Err(Error::late(command, state, after));
        let chunks = self.details.take(id).chunks;
        self.attempts.trace.finished(id, &result);
        Some(Completion { id, command, result, extents: Vec::new(), chunks, held })
    }

    fn take_logged(&mut self, id: RequestId) -> Option<Completion> {
        let recovery = self.recovery.as_deref_mut()?;
        let open = recovery.get(id)?;
        let (result, command) = (open.outcome.clone()?, open.command);
        let held = match open.place {
            None => {
                recovery.take(id, false);
                false
            }
            // Its time is over, but the log still has it.
            Some(_) => self.abandon(id) == super::Withdrawn::HalfSent,
        };
        self.timers.remove(id);
        let ReplyDetails { extents, chunks, .. } =
            self.take_details(id, command.kind, result.is_err());
        self.attempts.trace.finished(id, &result);
        Some(Completion { id, command, result, extents, chunks, held })
    }

    /// Whether [`next_completion`](Self::next_completion) has something.
    #[must_use]
    #[inline]
    pub fn has_completed(&self) -> bool {
        self.completed() > 0
    }

    /// Commands that are finished and whose completion was not taken.
    #[must_use]
    #[inline]
    pub fn completed(&self) -> usize {
        match (&self.recovery, &self.stage) {
            (None, Stage::Open(open)) if self.late.is_empty() && self.keep_alive.is_none() => {
                open.core.completed()
            }
            (Some(recovery), _) => recovery.untaken(),
            (None, Stage::Open(open)) => {
                let core = &open.core;
                let late = self.late.iter();
                let late = late.filter(|late| core.status(late.id) == RequestStatus::InFlight);
                let own = self.keep_alive.as_ref().is_some_and(|probe| probe.is_answered(core));
                (core.completed() + late.count()).saturating_sub(usize::from(own))
            }
            (None, _) => 0,
        }
    }

    /// The command that finished first among those whose completion was not taken.
    #[must_use]
    pub fn peek_completed(&mut self) -> Option<RequestId> {
        if let Some(recovery) = self.recovery.as_deref_mut() {
            return recovery.first_finished();
        }
        if let Some(timer) = self.late.front() {
            return Some(timer.id);
        }
        let Stage::Open(open) = &mut self.stage else { return None };
        let id = open.core.peek_completed()?;
        let Some(probe) = self.keep_alive.as_mut().filter(|probe| probe.owns(id)) else {
            return Some(id);
        };
        probe.answered();
        open.core.take(id);
        open.core.peek_completed()
    }
}
