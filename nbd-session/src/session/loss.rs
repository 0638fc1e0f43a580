//! What follows from the end of a connection, and how a session ends.

use std::time::{Duration, Instant};

use nbd_proto::{
    CommandError, CommandFailure, CommandType, Direction, Disconnect, Errno, Machine,
    PeerMisbehaved, SubmitError,
};

use super::recovery::Trouble;
use super::step::Step;
use super::{End, Goodbye, Open, Session, Stage};
use crate::error::{Error, ErrorKind, broken};
use crate::event::Event;
use crate::limit::Limit;
use crate::replay::{RecoveryError, ReplayLog};

/// How long a server may take to close a connection on which nothing more is sent.
const LINGER: Duration = Duration::from_secs(5);

const NO_LOG: &str = "session, log and connection do not know the same commands";

impl Session {
    /// Asks for the end of the session. No command is accepted from now on, but for those whose
    /// place in the queue came first; what is under way is completed as `when` says. It is over
    /// when [`is_over`](Self::is_over) says so, and [`farewell`](Self::farewell) tells how it
    /// went. What takes longer than the limit ([`Limit::Default`]: that of commands) ends
    /// abruptly.
    ///
    /// Where the connection is lost and made again, what was acknowledged is put back first.
    /// In option mode it is the negotiation that ends.
    pub fn disconnect(&mut self, when: Disconnect, limit: Limit, now: Instant) {
        if let Some(end) = &mut self.end {
            end.wanted = true;
            return;
        }
        let by = limit.end(self.attempts.options.request_timeout, now);
        self.goodbye = Goodbye::Wanted { when, by, since: limit.since(now) };
        match &mut self.stage {
            Stage::Open(_) => {
                if self.recovery.is_some() && when == Disconnect::AbandonUnsent {
                    self.drop_unsent();
                }
                self.wind_up(now);
            }
            Stage::Negotiating(negotiating) if self.facts.is_none() => {
                // Whether the server hears of it is not waited for where it cannot be asked.
                if negotiating.handshake.negotiation().abort().is_err() {
                    self.over_and_out(now);
                }
            }
            _ if self.facts.is_none() => self.over_and_out(now),
            _ => self.wind_up(now),
        }
    }

    /// Ends the session because nobody holds it any more: in good order, as
    /// [`Disconnect::AfterReplies`] does, but nobody waits for that. What takes longer than a
    /// few seconds ends abruptly, unless acknowledged writes are kept that have to be put back.
    pub fn release(&mut self, now: Instant) {
        let patient = self.log().is_some_and(ReplayLog::has_unflushed);
        let limit = if patient { Limit::Never } else { Limit::within(LINGER, now) };
        match &mut self.goodbye {
            Goodbye::No => self.disconnect(Disconnect::AfterReplies, limit, now),
            Goodbye::Wanted { by, .. } => {
                *by = [*by, limit.end(None, now)].into_iter().flatten().min();
            }
        }
    }

    /// Ends the session at once and for good, whatever it is doing, and tells everybody why: for
    /// adapters that cannot go on, such as a task whose runtime has ended.
    pub fn stop(&mut self, cause: impl Into<Error>, now: Instant) {
        if self.end.is_some() {
            return;
        }
        let cause = cause.into();
        let farewell = if self.is_at_risk() { Err(cause.clone()) } else { Ok(()) };
        self.attempts.close(Vec::new());
        self.shut_down_core(now);
        if let Stage::Negotiating(negotiating) = &mut self.stage
            && negotiating.asked.take().is_some()
        {
            self.attempts.option = Some(Err(cause.clone()));
        }
        self.finish_session(cause, farewell, now);
    }

    /// What no connection has been given yet will not be sent.
    fn drop_unsent(&mut self) {
        let Some(recovery) = self.recovery.as_deref_mut() else { return };
        for id in recovery.unfinished() {
            let found = recovery.get(id).map(|open| (open.command, open.place));
            let (Some(log), Some((command, Some(place)))) = (&mut recovery.log, found) else {
                broken(NO_LOG);
                continue;
            };
            if log.request(place).is_none() {
                log.cancel(place);
                let failure = CommandFailure::new(command, CommandError::ConnectionLost, None);
                recovery.answered(id, Err(failure.into()));
            }
        }
    }

    /// Goes on with the goodbye that was asked for.
    pub(super) fn wind_up(&mut self, now: Instant) {
        let Goodbye::Wanted { when, .. } = self.goodbye else { return };
        if self.end.is_some() || !self.waiters.is_empty() {
            return;
        }
        if let Some(log) = self.log()
            && !log.is_idle()
        {
            return;
        }
        match &mut self.stage {
            Stage::Open(Open { core, link }) => {
                if !core.is_disconnecting() && !core.is_closed() {
                    let when =
                        if self.recovery.is_some() { Disconnect::AfterReplies } else { when };
                    core.disconnect(when);
                }
                if core.is_ending()
                    && self.linger.is_none()
                    && !link.direction(core).contains(Direction::WRITE)
                {
                    self.attempts.ask(Step::Shutdown { generation: self.attempts.generation });
                    self.linger_on(now);
                }
            }
            Stage::Negotiating(_) | Stage::Waiting(_) | Stage::Credentials | Stage::Connecting => {
                self.over_and_out(now)
            }
            Stage::Over => {}
        }
    }

    /// Nothing more will be sent on this connection. The server's end is waited for, a while.
    pub(super) fn linger_on(&mut self, now: Instant) {
        if self.linger.is_none() {
            self.linger = now.checked_add(LINGER);
        }
    }

    /// Nobody has to be told, and nothing is under way.
    fn over_and_out(&mut self, now: Instant) {
        let unflushed = self.log().is_some_and(ReplayLog::has_unflushed);
        let farewell = if unflushed { Err(RecoveryError::UnflushedLost.into()) } else { Ok(()) };
        self.attempts.close(Vec::new());
        self.stage = Stage::Over;
        self.finish_session(Error::closed(), farewell, now);
    }

    pub(super) fn log(&self) -> Option<&ReplayLog<nbd_proto::RequestId, bytes::Bytes>> {
        self.recovery.as_deref()?.log.as_ref()
    }

    /// Whether it is not certain that everything is done and durable that was acknowledged, or
    /// is under way.
    fn is_at_risk(&self) -> bool {
        if let Some(recovery) = self.recovery.as_deref() {
            return !recovery.unfinished().is_empty()
                || self.log().is_some_and(ReplayLog::has_unflushed);
        }
        let Stage::Open(open) = &self.stage else { return false };
        let can_flush = open.core.export().can_flush();
        // Where the core has noticed it first, it has told everybody already.
        open.core.error().is_some()
            || open.core.outstanding().wanted() > 0
            || can_flush && self.has_unflushed()
    }

    /// The connection is gone, whatever was being done with it.
    #[cold]
    pub(super) fn lost(&mut self, cause: Error, now: Instant) {
        let at_risk = self.is_at_risk();
        let wanted = self.goodbye != Goodbye::No;
        let (last_word, said_goodbye) = match &mut self.stage {
            Stage::Negotiating(negotiating) => {
                let aborted = negotiating.asked.as_ref().is_some_and(|asked| asked.is_abort());
                (negotiating.handshake.last_word(), aborted || wanted && self.facts.is_none())
            }
            Stage::Open(open) => (
                open.link.last_word(),
                wanted && open.core.is_ending() && open.core.in_flight() == 0,
            ),
            _ => (Vec::new(), false),
        };
        self.attempts.close(last_word);
        self.linger = None;
        self.again = Direction::empty();
        self.refused = false;
        let was_open = self.shut_down_core(now);
        if self.end.is_some() {
            // What it had to report was worse than the loss.
            return;
        }
        if said_goodbye {
            // The end is what was wanted; how abrupt it is does not matter, unless the server
            // says what makes no sense.
            let farewell = match cause.kind() {
                ErrorKind::Protocol => Err(cause),
                _ => Ok(()),
            };
            if let Stage::Negotiating(negotiating) = &mut self.stage
                && negotiating.asked.take().is_some()
            {
                let ended = farewell.clone().map(|()| super::OptionReply::Ended);
                self.attempts.option = Some(ended);
            }
            self.finish_session(Error::closed(), farewell, now);
            if let Some(end) = &mut self.end {
                // Also by the option of that name.
                end.wanted = true;
            }
            return;
        }
        if let Stage::Negotiating(negotiating) = &mut self.stage
            && negotiating.asked.take().is_some()
        {
            self.attempts.option = Some(Err(cause.clone()));
        }
        if !was_open {
            let chosen = matches!(&self.stage, Stage::Negotiating(negotiating)
                if negotiating.handshake.peek().config().stops_for_options());
            // What was asked for in option mode cannot be asked for again by itself.
            return if chosen && self.attempts.by.is_none() {
                self.give_up(cause, now)
            } else {
                self.attempt_failed(cause, now)
            };
        }
        // Bytes that failed, or could not be trusted, are lost with the connection. A server
        // that breaks the protocol would do so again.
        if self.recovery.is_none() {
            let farewell = if at_risk { Err(cause.clone()) } else { Ok(()) };
            return self.finish_session(cause, farewell, now);
        }
        if cause.is_transient() || cause.is_of_transport() {
            self.went_down(cause, now);
        } else {
            self.give_up(cause, now);
        }
    }

    /// The core reports all that it had. Returns whether there was one.
    fn shut_down_core(&mut self, now: Instant) -> bool {
        let Stage::Open(Open { core, .. }) = &mut self.stage else { return false };
        // Why it has ended, the caller of this knows better.
        let _ = core.eof();
        self.leave();
        self.silence.restart();
        if self.recovery.is_some() {
            self.drain(now);
            self.drop_core();
            if let Some(probe) = &mut self.keep_alive {
                probe.restart(now);
            }
        }
        true
    }

    /// What the core has counted stays.
    fn drop_core(&mut self) {
        if let Stage::Open(Open { core, .. }) = &self.stage {
            self.stats.wire += *core.stats();
        }
        self.stage = Stage::Over;
    }

    /// The connection is to be made again.
    fn went_down(&mut self, cause: Error, now: Instant) {
        let Some(recovery) = self.recovery.as_deref_mut() else { return broken(NO_LOG) };
        // One that was silent was of no use.
        if !cause.is_timeout() {
            recovery.settle_trouble(now);
        }
        let unfinished = recovery.unfinished();
        self.stats.sent_again += unfinished.len() as u64;
        for id in unfinished {
            // What came with a part of the answer comes again with the whole.
            self.details.restart(id);
        }
        if let Some(log) = &mut recovery.log {
            log.lost();
        }
        recovery.lost = Some(now);
        recovery.cause = Some(cause.clone());
        recovery.trouble.get_or_insert(Trouble { since: now, attempts: 0 });
        self.attempts.tell(Event::Lost { cause });
        self.put_off(now);
        self.take_failed(now);
        self.wind_up(now);
    }

    /// No other connection will be made: because of this.
    #[cold]
    pub(super) fn give_up(&mut self, cause: Error, now: Instant) {
        let recovery = self.recovery.as_deref();
        let after = recovery.and_then(|recovery| recovery.trouble).map(|trouble| trouble.since);
        let cause = match after {
            Some(since) if cause.recovery().is_none() => {
                Error::not_reconnected(now.saturating_duration_since(since), cause)
            }
            _ => cause,
        };
        let farewell = if self.is_at_risk() { Err(cause.clone()) } else { Ok(()) };
        self.attempts.tell(Event::GaveUp { cause: cause.clone() });
        self.finish_session(cause, farewell, now);
    }

    /// Patience is over.
    pub(super) fn out_of_patience(&mut self, now: Instant) {
        let cause = if matches!(self.stage, Stage::Waiting(_)) {
            self.recovery.as_deref().and_then(|recovery| recovery.cause.clone())
        } else {
            self.attempts.close(Vec::new());
            let after = now.saturating_duration_since(self.attempts.began);
            Some(Error::timed_out("making the connection again", after))
        };
        self.give_up(cause.unwrap_or_else(closed), now);
    }

    /// It is over, and everybody who waits is told.
    pub(super) fn finish_session(
        &mut self,
        cause: Error,
        farewell: Result<(), Error>,
        _now: Instant,
    ) {
        if self.end.is_some() {
            return;
        }
        self.attempts.trace.ended(&cause);
        let wanted = self.goodbye != Goodbye::No;
        self.end = Some(End { cause: cause.clone(), farewell, wanted });
        if let Some(recovery) = self.recovery.as_deref_mut() {
            for id in recovery.unfinished() {
                recovery.finish(id, Err(cause.clone()));
            }
            self.drop_core();
        } else if !matches!(self.stage, Stage::Open(_)) {
            self.stage = Stage::Over;
        }
        self.linger = None;
        self.leave();
        self.waiters.close(&cause);
        self.timers = crate::timers::Timers::default();
    }

    /// From the log to the core, as far as there is room.
    pub(super) fn hand_over(&mut self) {
        while let Some(recovery) = self.recovery.as_deref_mut()
            && let Some(log) = recovery.log.as_mut()
            && let Stage::Open(Open { core, .. }) = &mut self.stage
            && !core.is_full()
            && !core.is_closed()
            && let Some((place, command)) = log.due()
        {
            let is_filtered = command.kind == CommandType::BlockStatus;
            let filter = is_filtered.then(|| recovery.contexts_now(place)).flatten();
            let submitted = match filter {
                None => core.submit(command),
                Some(contexts) => core.submit_filtered(command, &contexts),
            };
            let Some(log) = &mut recovery.log else { return broken(NO_LOG) };
            match submitted {
                Ok(id) => {
                    // An acknowledged write that is put back, or a flush of the log's own.
                    let put_back = log.owner(place).is_none() && command.kind != CommandType::Flush;
                    self.stats.sent_again += u64::from(put_back);
                    log.sent(place, id);
                }
                // The connection is ending; that will show.
                Err(SubmitError::Full | SubmitError::Disconnecting | SubmitError::NotConnected) => {
                    break;
                }
                Err(error) => {
                    if let Some(id) = log.refused(place, error) {
                        recovery.answered(id, Err(Error::not_sent(command, error)));
                    }
                }
            }
        }
        if let Stage::Open(open) = &self.stage {
            self.silence.look(&open.core);
        }
    }

    /// From the core to the log and to those who wait.
    pub(super) fn drain(&mut self, now: Instant) {
        while let Some(recovery) = self.recovery.as_deref_mut()
            && let Stage::Open(Open { core, .. }) = &mut self.stage
            && let Some((sent_as, _, result)) = core.take_next()
        {
            if let Some(probe) = self.keep_alive.as_mut().filter(|probe| probe.owns(sent_as)) {
                probe.answered();
                recovery.settle_trouble(now);
                continue;
            }
            match result {
                // Nothing has come of it: it is sent again.
                Err(CommandError::ConnectionLost | CommandError::Server(Errno::Shutdown)) => {}
                // Of use: the next loss has nothing to do with the last one.
                _ => recovery.trouble = None,
            }
            let Some(log) = &mut recovery.log else { return broken(NO_LOG) };
            // It may be sent again, or be nobody's.
            let Some((id, result)) = log.completed(sent_as, result) else { continue };
            let Some(command) = recovery.get(id).map(|open| open.command) else {
                broken(NO_LOG);
                continue;
            };
            let result = result.map_err(|error| {
                let message = self.details.take_message(id);
                CommandFailure::new(command, error, message).into()
            });
            recovery.answered(id, result);
        }
        if let (Some(recovery), Stage::Open(Open { core, .. })) = (&mut self.recovery, &self.stage)
            && core.is_shutting_down()
            && let Some(log) = &mut recovery.log
        {
            log.drain();
        }
        self.take_failed(now);
        self.hand_over();
    }

    /// Whether the server said that it is shutting down, and has answered all it had.
    pub(super) fn has_drained(&self) -> bool {
        let Stage::Open(Open { core, .. }) = &self.stage else { return false };
        // The core says goodbye by itself then, also when the command that was told so is
        // nobody's any more.
        let is_leaving = self.goodbye == Goodbye::No && self.linger.is_none() && core.is_ending();
        is_leaving || self.log().is_some_and(ReplayLog::is_drained)
    }

    /// Commands that failed without having been sent, and what ends everything.
    pub(super) fn take_failed(&mut self, now: Instant) {
        let Some(recovery) = self.recovery.as_deref_mut() else { return };
        let Some(log) = recovery.log.as_mut().filter(|log| log.has_failed()) else { return };
        let mut failed = Vec::new();
        while let Some(one) = log.poll_failed() {
            failed.push(one);
        }
        let fault = log.fault().cloned();
        for (id, error) in failed {
            recovery.answered(id, Err(error.into()));
        }
        if let Some(fault) = fault
            && self.end.is_none()
        {
            if matches!(self.stage, Stage::Open(_)) {
                self.attempts.close(Vec::new());
            }
            self.give_up(fault.into(), now);
        }
    }
}

pub(super) fn closed() -> Error {
    nbd_proto::Error::from(PeerMisbehaved::Closed).into()
}
