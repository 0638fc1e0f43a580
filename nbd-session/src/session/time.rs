//! Deadlines.

use std::time::Instant;

use nbd_proto::{Machine, RequestStatus};

use super::choosing::READING_CREDENTIALS;
use super::room::GivenUp;
use super::{Goodbye, Open, Session, Stage};
use crate::error::{Error, broken};
use crate::timers::Timer;

impl Session {
    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing happens before. It may
    /// have passed. `None`: there is nothing to wait for but the stream, steps and commands.
    #[must_use]
    #[inline]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.minds_no_time() { None } else { self.soonest_deadline() }
    }

    /// Whether the stream, steps and commands are all there is to wait for, beyond doubt: most
    /// connections have no limits, and are asked twice for each command that is alone.
    #[inline]
    fn minds_no_time(&self) -> bool {
        let Stage::Open(Open { core, .. }) = &self.stage else { return false };
        self.timers.first().is_none()
            && self.waiters.first_deadline().is_none()
            && self.recovery.is_none()
            && self.keep_alive.is_none()
            && !self.silence.is_measured()
            && matches!(self.goodbye, Goodbye::No)
            && matches!(self.given_up, GivenUp::Few)
            && self.linger.is_none()
            && !core.is_ending()
    }

    fn soonest_deadline(&self) -> Option<Instant> {
        let mut next = sooner(self.timers.first(), self.waiters.first_deadline());
        if let Goodbye::Wanted { by, .. } = self.goodbye {
            next = sooner(next, by);
        }
        if self.end.is_some() {
            return None;
        }
        match &self.stage {
            // Nobody else will notice.
            Stage::Open(_) if self.has_drained() => Some(self.silence.told()),
            Stage::Open(_) => {
                let probe = self.keep_alive.as_ref().map(super::KeepAlive::next);
                next = sooner(next, self.end_of_room());
                sooner(sooner(next, self.silence.deadline()), sooner(probe, self.linger))
            }
            Stage::Waiting(until) => sooner(sooner(next, Some(*until)), self.end_of_patience()),
            Stage::Negotiating(negotiating) => {
                let asked = negotiating.asked.as_ref().and_then(|asked| asked.by);
                sooner(sooner(next, asked), sooner(self.attempts.by, self.end_of_patience()))
            }
            Stage::Credentials | Stage::Connecting => {
                sooner(sooner(next, self.attempts.by), self.end_of_patience())
            }
            Stage::Over => next,
        }
    }

    /// Does what is due: commands whose time is over are finished, without harm to others; a
    /// server that has been silent for too long is a lost connection; a lost connection is
    /// made again. Finding nothing to do is no fault.
    #[cold]
    pub fn handle_timeout(&mut self, now: Instant) {
        self.silence.tell(now);
        while let Some(timer) = self.timers.pop_due(now) {
            self.expire(timer);
        }
        self.waiters.expire(now);
        self.look_how_long(now);
        if let Goodbye::Wanted { by: Some(by), since, .. } = self.goodbye
            && by <= now
            && self.end.is_none()
        {
            let after = by.saturating_duration_since(since);
            let error = Error::timed_out("disconnecting", after);
            self.attempts.close(Vec::new());
            if let Stage::Open(Open { core, .. }) = &mut self.stage {
                // What is under way is told that time is over.
                let _ = core.eof();
            }
            return self.finish_session(error.clone(), Err(error), now);
        }
        if self.end.is_some() {
            return;
        }
        let patience_is_over = self.end_of_patience().is_some_and(|at| at <= now);
        if self.has_drained() {
            match self.recovery {
                Some(_) => return self.lost(super::loss::closed(), now),
                None => self.linger_on(now),
            }
        }
        match &mut self.stage {
            Stage::Open(Open { core, .. }) => {
                if self.linger.is_some_and(|at| at <= now) {
                    return self.lost(super::loss::closed(), now);
                }
                if let Some(limit) = self.silence.is_over(now) {
                    return self.lost(Error::silent(limit), now);
                }
                if let Some(probe) = &mut self.keep_alive {
                    if let Some(limit) = probe.is_over(now, core, &self.silence) {
                        return self.lost(Error::silent(limit), now);
                    }
                    probe.look(now, core, &self.silence);
                    self.silence.look(core);
                }
            }
            Stage::Waiting(_) | Stage::Credentials | Stage::Connecting | Stage::Negotiating(_)
                if patience_is_over =>
            {
                self.out_of_patience(now);
            }
            Stage::Waiting(until) if *until <= now => self.begin_attempt(now),
            Stage::Waiting(_) => {}
            Stage::Negotiating(negotiating) => {
                if let Some(asked) = &negotiating.asked
                    && asked.by.is_some_and(|by| by <= now)
                {
                    let error = negotiating.timed_out(asked.waited());
                    return self.lost(error, now);
                }
                if let Some(after) = self.attempts.expired(now) {
                    let error = negotiating.timed_out(after);
                    self.lost(error, now);
                }
            }
            Stage::Credentials => {
                if let Some(after) = self.attempts.expired(now) {
                    self.lost(Error::timed_out(READING_CREDENTIALS, after), now);
                }
            }
            Stage::Connecting => {
                if let Some(after) = self.attempts.expired(now) {
                    self.lost(Error::timed_out("connecting", after), now);
                }
            }
            Stage::Over => {}
        }
    }

    /// The time of a command is over. Its completion is there to be taken; until then it keeps
    /// its id, and may be finished after all.
    fn expire(&mut self, timer: Timer) {
        let Timer { at, since, id } = timer;
        let state = self.state_name();
        match self.recovery.as_deref_mut() {
            Some(recovery) => {
                let Some(open) = recovery.get(id).filter(|open| open.outcome.is_none()) else {
                    return;
                };
                let after = at.saturating_duration_since(since);
                let error = Error::late(open.command, state, after);
                recovery.finish(id, Err(error));
            }
            None => {
                let Stage::Open(open) = &self.stage else {
                    return broken("without a connection nothing is timed");
                };
                if open.core.status(id) != RequestStatus::InFlight {
                    return;
                }
                self.late.push_back(timer);
            }
        }
        self.stats.timed_out += 1;
    }
}

#[inline]
fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
