//! From a command to the connection: room, checks, and how long it may take.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_proto::{Command, CommandType, ContextId, RequestId, SubmitError};

use super::durability::wants_flush;
use super::recovery::Call;
use super::request::Request;
use super::{Goodbye, Open, Session, Stage};
use crate::error::Error;
use crate::limit::Limit;
use crate::timers::Timer;

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
        self.silence.tell(now);
        self.submit_with_clock(command, limit, || now)
    }

    /// The same with a clock, which is looked at only where time makes a difference, because a
    /// limit is set: that is a good part of what a small request costs.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    #[inline(always)]
    pub fn submit_with_clock(
        &mut self,
        command: Command,
        limit: Limit,
        clock: impl FnOnce() -> Instant,
    ) -> Result<RequestId, Error> {
        if let Stage::Open(Open { core, .. }) = &mut self.stage
            && self.recovery.is_none()
            && self.waiters.is_empty()
            && matches!(self.goodbye, Goodbye::No)
        {
            let id = match core.submit(command) {
                Ok(id) => id,
                Err(error) => return Err(self.not_sent(command, error)),
            };
            self.durability.submitted(id, command.kind);
            if self.silence.is_measured() || self.is_limited(limit) {
                self.submitted_at(id, limit, clock());
            }
            self.attempts.trace.submitted(id, &command);
            return Ok(id);
        }
        self.submit_request(Request::new(command).limit(limit), clock())
    }

    fn submitted_at(&mut self, id: RequestId, limit: Limit, now: Instant) {
        self.silence.tell(now);
        if let Stage::Open(Open { core, .. }) = &self.stage {
            self.silence.look(core);
        }
        if self.is_limited(limit) {
            self.start_timer(id, limit, now);
        }
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
        self.silence.tell(now);
        let left = request.ticket.map_or(Ok(None), |ticket| self.waiters.leave(ticket));
        let submitted = left.and_then(|waited| self.submit_out_of_line(request, waited, now));
        // The line may be empty now, whatever became of the command.
        self.wind_up(now);
        submitted
    }

    /// `waited` is the limit of what had room kept for it.
    #[inline]
    fn submit_out_of_line(
        &mut self,
        request: Request<'_>,
        waited: Option<Limit>,
        now: Instant,
    ) -> Result<RequestId, Error> {
        let Request { command, limit, report_chunks, .. } = request;
        if self.end.is_none() && self.goodbye != Goodbye::No && waited.is_none() {
            return Err(Error::not_sent(command, SubmitError::Disconnecting));
        }
        if waited.is_none() && !self.waiters.is_empty() && self.is_full() {
            return Err(Error::full());
        }
        let id = if self.recovery.is_some() {
            self.submit_logged(request, now)?
        } else if let Stage::Open(Open { core, .. }) = &mut self.stage {
            let submitted = match request.contexts {
                None => core.submit(command),
                Some(contexts) => core.submit_filtered(command, contexts),
            };
            match submitted {
                Ok(id) => {
                    self.silence.look(core);
                    id
                }
                Err(error) => return Err(self.not_sent(command, error)),
            }
        } else {
            return Err(self.not_sent(command, SubmitError::NotConnected));
        };
        if self.recovery.is_none() {
            self.durability.submitted(id, command.kind);
        }
        if report_chunks {
            self.reports_chunks = true;
            self.details.report_chunks(id);
        }
        self.start_timer(id, waited.unwrap_or(limit), now);
        self.attempts.trace.submitted(id, &command);
        Ok(id)
    }

    /// The same for who has the buffer of a read or write in hand: it has to be as long as the
    /// command says, and of a write that is to be [kept](Self::keeps_payload) it is copied,
    /// unless the request shares its data. Such a write needs no buffer.
    ///
    /// # Errors
    /// As [`submit_request`](Self::submit_request), and as [`check_payload`](Self::check_payload).
    pub fn submit_lent(
        &mut self,
        mut request: Request<'_>,
        lent: Option<&[u8]>,
        now: Instant,
    ) -> Result<RequestId, Error> {
        let keeps = self.keeps_payload(&request.command);
        let shared = request.payload.as_ref().filter(|_| keeps);
        let given = lent.map_or_else(|| shared.map_or(0, Bytes::len), <[u8]>::len);
        if let Err(error) = self.check_payload(&request.command, given) {
            if let Some(ticket) = request.ticket {
                self.stop_waiting(ticket, now);
            }
            return Err(error);
        }
        if keeps && shared.is_none() {
            request.payload = lent.map(Bytes::copy_from_slice);
        }
        self.submit_request(request, now)
    }

    fn start_timer(&mut self, id: RequestId, limit: Limit, now: Instant) {
        if let Some(at) = limit.end(self.attempts.options.request_timeout, now) {
            self.timers.insert(Timer { at, since: limit.since(now), id });
        }
    }

    #[inline]
    fn is_limited(&self, limit: Limit) -> bool {
        match limit {
            Limit::Default => self.attempts.options.request_timeout.is_some(),
            Limit::Never => false,
            Limit::Until(_) | Limit::Within { .. } => true,
        }
    }

    /// How long commands may take from now on, in place of
    /// [`ConnectOptions::request_timeout`](crate::ConnectOptions::request_timeout).
    pub fn set_request_timeout(&mut self, limit: impl Into<Option<Duration>>) {
        let options = self.attempts.options.clone();
        self.attempts.options = options.request_timeout(limit);
    }

    /// The same limit for several commands that make up one call.
    #[must_use]
    pub fn fixed(&self, limit: Limit, now: Instant) -> Limit {
        match (limit, self.attempts.options.request_timeout) {
            (Limit::Default, Some(time)) => Limit::within(time, now),
            (Limit::Default, None) => Limit::Never,
            (limit, _) => limit,
        }
    }

    /// How a transfer is split into commands: the length of a piece, and the limit for all of
    /// them together.
    #[inline]
    pub fn pieces(
        &self,
        length: usize,
        limit: Limit,
        clock: impl FnOnce() -> Instant,
    ) -> (usize, Limit) {
        let most = self.max_request();
        (most, if length > most { self.fixed(limit, clock()) } else { limit })
    }

    /// What ended the connection says more than that there is none.
    #[cold]
    fn not_sent(&self, command: Command, error: SubmitError) -> Error {
        match self.end() {
            Some(end) if error == SubmitError::NotConnected => end.clone(),
            // The stream takes no more, and what became of the connection is not known yet.
            None if error == SubmitError::NotConnected && self.refused => {
                std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
            }
            None if error == SubmitError::Full => self.no_room(),
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
        command.kind == CommandType::Write && self.attempts.options.keeps_unflushed()
    }

    fn submit_logged(&mut self, request: Request<'_>, now: Instant) -> Result<RequestId, Error> {
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
        self.check_logged(command, contexts)?;
        let full = self.room() == 0;
        let Some(recovery) = self.recovery.as_deref_mut() else { return Err(no_log()) };
        if recovery.log.is_none() {
            return Err(Error::not_sent(command, SubmitError::NotConnected));
        }
        if full {
            return Err(Error::full());
        }
        if matches!(self.stage, Stage::Open(_)) {
            recovery.settle_trouble(now);
        }
        let id = recovery.claim();
        let Some(log) = &mut recovery.log else { return Err(no_log()) };
        match log.submit(id, command, payload) {
            Ok(place) => {
                let contexts = contexts.map(Box::from);
                recovery.fill(id, Call { command, contexts, place: Some(place), outcome: None });
            }
            Err(error) => {
                recovery.unclaim(id);
                return Err(Error::not_sent(command, error));
            }
        }
        self.hand_over();
        self.take_failed(now);
        Ok(id)
    }

    /// What can be told at once is told at once, and not when there is a connection again.
    fn check_logged(&self, command: Command, contexts: Option<&[ContextId]>) -> Result<(), Error> {
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

    /// How many writes have been acknowledged so far that a flush has to make durable: to be
    /// noted before a flush is submitted elsewhere that covers this connection too, and told
    /// to [`flushed_elsewhere`](Self::flushed_elsewhere) when that has succeeded.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.durability.acknowledged()
    }

    /// Whether writes were acknowledged that no flush has made durable, those among them whose
    /// completion was not taken yet: see [`pool`](crate::pool) for who asks.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        match (self.log(), &self.stage) {
            (Some(log), _) => log.has_unflushed(),
            (None, Stage::Open(Open { core, .. })) => {
                let untaken = |(_, command, result): (_, _, Result<_, _>)| {
                    result.is_ok() && wants_flush(command)
                };
                self.durability.has_unflushed() || core.completions().any(untaken)
            }
            (None, _) => self.durability.has_unflushed(),
        }
    }

    /// A flush on another connection has made so many writes of this one durable.
    pub fn flushed_elsewhere(&mut self, acknowledged: u64) {
        self.durability.settle(acknowledged);
    }
}

fn no_log() -> Error {
    Error::internal("there is no log")
}
