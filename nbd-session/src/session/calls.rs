//! From a command to its completion.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_proto::{
    Command, CommandError, CommandFailure, CommandType, ContextId, Extent, ReadChunk, ReplyDetails,
    RequestId, RequestStatus, ServerMessage, SubmitError,
};

use super::lasting::Open as LastingOpen;
use super::{Goodbye, Open, Session, Stage};
use crate::error::Error;
use crate::limit::Limit;
use crate::line::{Admission, Ticket};
use crate::timers::Timer;

/// A command and all that may go with it.
///
/// ```
/// use nbd_proto::{Command, ContextId};
/// use nbd_session::{Limit, Request};
///
/// let request = Request::new(Command::block_status(0, 4096))
///     .contexts(&[ContextId(1)])
///     .limit(Limit::Never);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Request<'a> {
    command: Command,
    limit: Limit,
    contexts: Option<&'a [ContextId]>,
    payload: Option<Bytes>,
    ticket: Option<Ticket>,
    report_chunks: bool,
}

impl<'a> Request<'a> {
    /// Nothing but the command.
    pub const fn new(command: Command) -> Self {
        Self {
            command,
            limit: Limit::Default,
            contexts: None,
            payload: None,
            ticket: None,
            report_chunks: false,
        }
    }

    /// The command.
    #[must_use]
    pub const fn command(&self) -> &Command {
        &self.command
    }

    /// How long it may take.
    pub const fn limit(mut self, limit: Limit) -> Self {
        self.limit = limit;
        self
    }

    /// A block status about some of the meta contexts only, by the numbers that
    /// [`Session::context`] tells; needs
    /// [`BLOCK_STATUS_PAYLOAD`](nbd_proto::TransmissionFlags::BLOCK_STATUS_PAYLOAD).
    #[doc(alias = "nbd_aio_block_status_filter")]
    pub const fn contexts(mut self, contexts: &'a [ContextId]) -> Self {
        self.contexts = Some(contexts);
        self
    }

    /// The data of a write, for the session to keep: needed if it
    /// [says so](Session::keeps_payload), and taken in any case.
    pub fn payload(mut self, payload: Bytes) -> Self {
        self.payload = Some(payload);
        self
    }

    /// Reports the parts of a read in [`Completion::chunks`].
    #[doc(alias = "nbd_aio_pread_structured")]
    pub const fn report_chunks(mut self) -> Self {
        self.report_chunks = true;
        self
    }

    /// In the room that is kept for this ticket.
    pub const fn ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }
}

impl From<Command> for Request<'_> {
    fn from(command: Command) -> Self {
        Self::new(command)
    }
}

/// A command that is finished.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Completion {
    /// The id its submission returned; it is free from now on, unless its payload is still
    /// [held](Self::held).
    pub id: RequestId,
    /// What was asked for.
    pub command: Command,
    /// How it went.
    pub result: Result<(), Error>,
    /// The extents of a block status, in order for each context; at most 2^20, and at least
    /// one for each context.
    pub extents: Vec<(ContextId, Extent)>,
    /// The parts of the answer to a read that was to [report](Request::report_chunks) them:
    /// data or holes, in whatever order the server sent them; at most 2^20.
    pub chunks: Vec<ReadChunk>,
    /// The payload of this write may still be asked for, because its time was over when it was
    /// half sent: keep it until [`Session::next_released`] says its id, or let the session
    /// [copy](Session::copy_held) it.
    pub held: bool,
}

impl Session {
    /// Submits a command. Nothing is sent yet: see [`direction`](Self::direction). The data of
    /// a read or write is not given here, but lent to [`read`](Self::read) and
    /// [`write`](Self::write), under the id that this returns.
    ///
    /// # Errors
    /// The command was not sent: it does not fit the export, there is
    /// [no room](Error::is_full), the export is not ready, or it is over. Its payload has not
    /// left the caller.
    #[inline(always)]
    pub fn submit(
        &mut self,
        command: Command,
        limit: Limit,
        now: Instant,
    ) -> Result<RequestId, Error> {
        if let Stage::Open(Open { core, .. }) = &mut self.stage
            && self.lasting.is_none()
            && self.line.is_empty()
            && matches!(self.goodbye, Goodbye::No)
        {
            self.quiet.tell(now);
            let id = match core.submit(command) {
                Ok(id) => id,
                Err(error) => return Err(self.not_sent(command, error)),
            };
            self.quiet.look(core);
            self.durability.submitted(id, command.kind);
            self.start_timer(id, limit, now);
            self.way.trace.submitted(id, &command);
            return Ok(id);
        }
        self.submit_request(Request::new(command).limit(limit), now)
    }

    /// Submits a command with all that may go with it.
    ///
    /// # Errors
    /// As [`submit`](Self::submit). A ticket is void then.
    pub fn submit_request(
        &mut self,
        request: Request<'_>,
        now: Instant,
    ) -> Result<RequestId, Error> {
        self.quiet.tell(now);
        let Request { command, limit, report_chunks, .. } = request;
        let kept = request.ticket.is_some_and(|ticket| self.line.leave(ticket));
        if self.end.is_none() && self.goodbye != Goodbye::No && !kept {
            return Err(Error::not_sent(command, SubmitError::Disconnecting));
        }
        if !kept && !self.line.is_empty() && self.is_full() {
            return Err(Error::full());
        }
        let id = if self.lasting.is_some() {
            self.submit_lasting(request, now)?
        } else if let Stage::Open(Open { core, .. }) = &mut self.stage {
            let submitted = match request.contexts {
                None => core.submit(command),
                Some(contexts) => core.submit_filtered(command, contexts),
            };
            match submitted {
                Ok(id) => {
                    self.quiet.look(core);
                    id
                }
                Err(error) => return Err(self.not_sent(command, error)),
            }
        } else {
            return Err(self.not_sent(command, SubmitError::NotConnected));
        };
        if self.lasting.is_none() {
            self.durability.submitted(id, command.kind);
        }
        if report_chunks {
            self.reports_chunks = true;
            self.details.report_chunks(id);
        }
        self.start_timer(id, limit, now);
        self.way.trace.submitted(id, &command);
        self.wind_up(now);
        Ok(id)
    }

    #[inline]
    fn start_timer(&mut self, id: RequestId, limit: Limit, now: Instant) {
        if self.is_limited(limit) {
            self.limit(id, limit, now);
        }
    }

    fn limit(&mut self, id: RequestId, limit: Limit, now: Instant) {
        if let Some(at) = limit.end(self.way.options.request_timeout, now) {
            self.timers.insert(Timer { at, since: limit.since(now), id });
        }
    }

    #[inline]
    fn is_limited(&self, limit: Limit) -> bool {
        match limit {
            Limit::Default => self.way.options.request_timeout.is_some(),
            Limit::Never => false,
            Limit::Until(_) | Limit::Within { .. } => true,
        }
    }

    /// The time to tell [`submit`](Self::submit) and its like: what the clock says where that
    /// makes a difference, and where nothing has a limit, the time that was told last. Looking
    /// at a clock is a good part of what a small request costs.
    #[inline]
    pub fn submission_time(&self, limit: Limit, clock: impl FnOnce() -> Instant) -> Instant {
        let idle = self.lasting.is_none()
            && !self.quiet.is_measured()
            && matches!(self.goodbye, Goodbye::No)
            && !self.is_limited(limit);
        if idle { self.quiet.told() } else { clock() }
    }

    /// How long commands may take from now on, in place of
    /// [`ConnectOptions::request_timeout`](crate::ConnectOptions::request_timeout).
    pub fn set_request_timeout(&mut self, limit: impl Into<Option<Duration>>) {
        let options = self.way.options.clone();
        self.way.options = options.request_timeout(limit);
    }

    /// The same limit for several commands that make up one call.
    #[must_use]
    pub fn fixed(&self, limit: Limit, now: Instant) -> Limit {
        match (limit, self.way.options.request_timeout) {
            (Limit::Default, Some(time)) => Limit::within(time, now),
            (Limit::Default, None) => Limit::Never,
            (limit, _) => limit,
        }
    }

    /// What ended the connection says more than that there is none.
    #[cold]
    fn not_sent(&self, command: Command, error: SubmitError) -> Error {
        match self.end() {
            Some(end) if error == SubmitError::NotConnected => end.clone(),
            // Nobody wants the end, neither the caller nor the server: the stream takes no more.
            None if error == SubmitError::Disconnecting
                && self.goodbye == Goodbye::No
                && self.refused =>
            {
                super::loss::closed()
            }
            _ => Error::not_sent(command, error),
        }
    }

    /// Whether a command has come with the right payload, by its length in bytes; 0 without
    /// one. What else is wrong with the command is told first.
    ///
    /// # Errors
    /// When it has not: a read or write takes as many bytes as it says, others none.
    #[inline]
    pub fn check_payload(&self, command: &Command, given: usize) -> Result<(), Error> {
        match Error::check_payload(command, given) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.worse(*command).unwrap_or(error)),
        }
    }

    #[cold]
    fn worse(&self, command: Command) -> Option<Error> {
        if let Some(end) = self.end() {
            return Some(end.clone());
        }
        let Stage::Open(Open { core, .. }) = &self.stage else { return None };
        let error = core.check(command).err()?;
        (error != SubmitError::NotConnected).then(|| Error::not_sent(command, error))
    }

    /// Whether the payload of such a command has to be given to
    /// [`submit_request`](Self::submit_request), because it is to be sent again even after it
    /// was acknowledged.
    #[must_use]
    pub fn keeps_payload(&self, command: &Command) -> bool {
        command.kind == CommandType::Write && self.way.options.keeps_unflushed()
    }

    fn submit_lasting(&mut self, request: Request<'_>, now: Instant) -> Result<RequestId, Error> {
        let Request { command, contexts, payload, .. } = request;
        if payload.is_none() && self.keeps_payload(&command) {
            return Err(Error::check_payload(&command, 0)
                .err()
                .unwrap_or_else(|| Error::not_sent(command, SubmitError::PayloadTooLong)));
        }
        if let Some(payload) = &payload {
            Error::check_payload(&command, payload.len())?;
        }
        if self.end.is_some() {
            return Err(self.not_sent(command, SubmitError::NotConnected));
        }
        self.check_lasting(command, contexts)?;
        let full = self.room() == 0;
        let Some(lasting) = self.lasting.as_deref_mut() else { return Err(no_log()) };
        if lasting.log.is_none() {
            return Err(Error::not_sent(command, SubmitError::NotConnected));
        }
        if full {
            return Err(Error::full());
        }
        let id = lasting.claim();
        let Some(log) = &mut lasting.log else { return Err(no_log()) };
        match log.submit(id, command, payload) {
            Ok(place) => {
                let contexts = contexts.map(Box::from);
                lasting
                    .fill(id, LastingOpen { command, contexts, place: Some(place), outcome: None });
            }
            Err(error) => {
                lasting.unclaim(id);
                return Err(Error::not_sent(command, error));
            }
        }
        self.hand_over();
        self.take_failed(now);
        Ok(id)
    }

    /// What can be told at once is told at once, and not when there is a connection again.
    fn check_lasting(&self, command: Command, contexts: Option<&[ContextId]>) -> Result<(), Error> {
        if let Stage::Open(Open { core, .. }) = &self.stage
            && contexts.is_none()
        {
            return match core.check(command) {
                Ok(()) | Err(SubmitError::Full) => Ok(()),
                // That will pass: the connection is ending.
                Err(SubmitError::Disconnecting | SubmitError::NotConnected) => Ok(()),
                Err(error) => Err(Error::not_sent(command, error)),
            };
        }
        Ok(())
    }

    /// For how many more commands there is room, those included for whom some is kept.
    #[inline]
    pub(super) fn room(&self) -> usize {
        let used = match (&self.lasting, &self.stage) {
            (Some(lasting), _) => lasting.used(),
            (None, Stage::Open(open)) => open.core.in_flight() + open.core.completed(),
            (None, _) => return 0,
        };
        self.capacity.saturating_sub(used)
    }

    /// Takes a place in the line of those who wait for [room](Self::is_full).
    /// [`next_admission`](Self::next_admission) tells when it is its turn; then
    /// [submit](Request::ticket). The limit counts while waiting too: give the call the same.
    pub fn wait_for_room(&mut self, limit: Limit, now: Instant) -> Ticket {
        let end = limit.end(self.way.options.request_timeout, now);
        let ticket = self.line.enter(end, limit.since(now));
        if let Some(end) = &self.end {
            self.line.close(&end.cause);
        }
        ticket
    }

    /// Gives a place in the line back, or the room that was kept for it.
    pub fn leave_line(&mut self, ticket: Ticket, now: Instant) {
        self.line.leave(ticket);
        self.wind_up(now);
    }

    /// Whose turn it is, if it is anybody's.
    pub fn next_admission(&mut self) -> Option<Admission> {
        if self.line.has_waiting() && self.is_ready() {
            self.line.admit(self.room());
        }
        self.line.next_news()
    }

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
        self.lasting.is_none()
            && self.late.is_empty()
            && self.probe.as_ref().is_none_or(|probe| !probe.is_asking())
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
        self.way.trace.finished(id, &result);
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
        if let Some(lasting) = self.lasting.as_deref_mut() {
            let id = lasting.first_finished()?;
            return self.take_lasting(id);
        }
        if let Some(timer) = self.late.pop_front() {
            return self.take_late(timer);
        }
        let Stage::Open(open) = &mut self.stage else { return None };
        let mut next = open.core.take_next()?;
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.owns(next.0)) {
            probe.answered();
            next = open.core.take_next()?;
        }
        let (id, command, result) = next;
        Some(self.complete(id, command, result))
    }

    #[cold]
    fn take_cold(&mut self, id: RequestId) -> Option<Completion> {
        if self.lasting.is_some() {
            return self.take_lasting(id);
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
        self.durability.forget(id);
        let result = Err(Error::late(command, state, after));
        let chunks = self.details.take(id).chunks;
        self.way.trace.finished(id, &result);
        Some(Completion { id, command, result, extents: Vec::new(), chunks, held })
    }

    fn take_lasting(&mut self, id: RequestId) -> Option<Completion> {
        let lasting = self.lasting.as_deref_mut()?;
        let open = lasting.get(id)?;
        let (result, command) = (open.outcome.clone()?, open.command);
        let held = match open.place {
            None => {
                lasting.take(id, false);
                false
            }
            // Its time is over, but the log still has it.
            Some(_) => self.abandon(id) == super::Withdrawn::HalfSent,
        };
        self.timers.remove(id);
        let ReplyDetails { extents, chunks, .. } =
            self.take_details(id, command.kind, result.is_err());
        self.way.trace.finished(id, &result);
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
        match (&self.lasting, &self.stage) {
            (Some(lasting), _) => lasting.untaken(),
            (None, Stage::Open(open)) => {
                let core = &open.core;
                let late = self.late.iter();
                let late = late.filter(|late| core.status(late.id) == RequestStatus::InFlight);
                let own = self.probe.as_ref().is_some_and(|probe| probe.is_answered(core));
                (core.completed() + late.count()).saturating_sub(usize::from(own))
            }
            (None, _) => 0,
        }
    }

    /// The command that finished first among those whose completion was not taken.
    #[must_use]
    pub fn peek_completed(&mut self) -> Option<RequestId> {
        if let Some(lasting) = self.lasting.as_deref_mut() {
            return lasting.first_finished();
        }
        if let Some(timer) = self.late.front() {
            return Some(timer.id);
        }
        let Stage::Open(open) = &mut self.stage else { return None };
        let id = open.core.peek_completed()?;
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.owns(id)) else {
            return Some(id);
        };
        probe.answered();
        open.core.take(id);
        open.core.peek_completed()
    }

    /// How many writes have been acknowledged so far that a flush has to make durable: to be
    /// noted before a flush is submitted elsewhere that covers this connection too, and told
    /// to [`flushed_elsewhere`](Self::flushed_elsewhere) when that has succeeded.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.durability.acknowledged()
    }

    /// Whether writes were acknowledged that no flush has made durable: see
    /// [`pool`](crate::pool) for who asks.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        self.log().map_or_else(|| self.durability.has_unflushed(), |log| log.has_unflushed())
    }

    /// A flush on another connection has made so many writes of this one durable.
    pub fn flushed_elsewhere(&mut self, acknowledged: u64) {
        self.durability.settle(acknowledged);
    }
}

fn no_log() -> Error {
    Error::internal("there is no log")
}
