//! From a step to a connection that is ready.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_proto::Phase;
use nbd_proto::io::{IoMode, Progress};
use nbd_transport::Endpoint;
use nbd_transport::tls::{TlsConfigError, TlsConnector};

use super::attempts::Next;
use super::choosing::Negotiating;
use super::loss::closed;
use super::step::Step;
use super::{Goodbye, Open, Session, Stage};
use crate::error::{Error, broken};
use crate::event::Event;
use crate::handshake::Handshake;
use crate::link::LinkError;
use crate::replay::ReplayLog;

const NO_TROUBLE: &str = "what was not lost is not put off";

impl Session {
    /// The next thing to do for the adapter, told once. A step whose outcome never comes is
    /// given up when connecting has taken too long.
    pub fn next_step(&mut self) -> Option<Step> {
        self.attempts.next_step()
    }

    /// What came of [`Step::Credentials`]. Credentials that cannot be used end the session.
    pub fn credentials(&mut self, outcome: Result<TlsConnector, TlsConfigError>, now: Instant) {
        if let Stage::Negotiating(negotiating) = &mut self.stage
            && negotiating.handshake.wants_credentials()
        {
            return match outcome {
                Ok(connector) => {
                    let host = self.attempts.host();
                    let started = negotiating.handshake.give_credentials(connector.clone(), host);
                    self.attempts.keep_credentials(connector);
                    if let Err(error) = started {
                        self.lost(error.into(), now);
                    }
                }
                Err(error) => self.lost(error.into(), now),
            };
        }
        if !matches!(self.stage, Stage::Credentials) {
            return;
        }
        match outcome {
            Ok(connector) => {
                self.stage = Stage::Connecting;
                self.attempts.take_credentials(connector);
            }
            Err(error) => self.attempt_failed(error.into(), now),
        }
    }

    /// What came of [`Step::Connect`]: a stream that stands just before the first byte of the
    /// server's greeting, and what it is good at; or why there is none. The outcome of an older
    /// step is ignored: drop its stream.
    pub fn connected(&mut self, generation: u64, outcome: Result<IoMode, Error>, now: Instant) {
        if generation != self.attempts.generation || !matches!(self.stage, Stage::Connecting) {
            return;
        }
        let begun = outcome.and_then(|mode| {
            self.attempts.mode = mode;
            let config = self.attempts.config.clone();
            Ok(match self.attempts.connector() {
                Some(connector) => {
                    Handshake::with_tls(config, connector.clone(), self.attempts.host().as_deref())?
                }
                None if self.attempts.has_late_credentials() => Handshake::with_late_tls(config)?,
                None => Handshake::new(config)?,
            })
        });
        match begun {
            Ok(handshake) => {
                self.stage = Stage::Negotiating(Box::new(Negotiating::new(handshake)));
            }
            Err(error) => self.attempt_failed(error, now),
        }
    }

    /// Begins to connect to the next target.
    pub(super) fn begin_attempt(&mut self, now: Instant) {
        let recovery = self.recovery.as_deref();
        let again = recovery.is_some_and(|recovery| recovery.log.is_some());
        let reads_files = self.attempts.begin(again, self.end_of_patience(), now);
        self.stage = if reads_files { Stage::Credentials } else { Stage::Connecting };
    }

    /// When it is not tried any more to make a lost connection again.
    pub(super) fn end_of_patience(&self) -> Option<Instant> {
        let recovery = self.recovery.as_deref()?;
        recovery.trouble?.since.checked_add(recovery.policy.patience())
    }

    /// There was no connection yet, and this attempt leads to none.
    #[cold]
    pub(super) fn attempt_failed(&mut self, cause: Error, now: Instant) {
        let again = self.recovery.as_deref().is_some_and(|recovery| recovery.log.is_some());
        if cause.is_callers() {
            return self.give_up(cause, now);
        }
        let endpoint = self.endpoint().cloned();
        let round = match self.attempts.failed(cause.clone()) {
            Next::Endpoint => {
                self.tell_failed(endpoint, cause);
                return self.begin_attempt(now);
            }
            Next::Round(failures) => failures,
        };
        if !again {
            return self.give_up(Error::no_endpoint(round), now);
        }
        // Who has been here before and finds bytes damaged on the way may find them sound the
        // next time.
        if round.iter().any(|error| error.is_transient() || error.is_damage()) {
            self.tell_failed(endpoint, cause);
            self.put_off(now);
        } else {
            self.give_up(cause, now);
        }
    }

    fn tell_failed(&mut self, endpoint: Option<Endpoint>, cause: Error) {
        // Who does not go on is told by the error.
        let Some(recovery) = self.recovery.as_deref_mut() else { return };
        let attempts = recovery.trouble.map_or(0, |trouble| trouble.attempts);
        recovery.cause = Some(cause.clone());
        self.attempts.tell(Event::Failed { endpoint, attempts, cause });
    }

    /// Waits a while before the next attempt.
    pub(super) fn put_off(&mut self, now: Instant) {
        let Some(recovery) = self.recovery.as_deref_mut() else { return broken(NO_TROUBLE) };
        let Some(trouble) = &mut recovery.trouble else { return broken(NO_TROUBLE) };
        let delay = self.attempts.delay(&recovery.policy, trouble.attempts);
        trouble.attempts = trouble.attempts.saturating_add(1);
        // Beyond the end of time it is looked at again in a year.
        let year = Duration::from_secs(365 * 24 * 3600);
        self.stage = Stage::Waiting(now.checked_add(delay).unwrap_or(now + year));
    }

    /// A handshake has moved bytes.
    pub(super) fn negotiated_so_far(
        &mut self,
        result: Result<Progress, LinkError>,
        now: Instant,
    ) -> Progress {
        let Stage::Negotiating(negotiating) = &mut self.stage else {
            broken("what has moved bytes of a negotiation is in one");
            return Progress::Closed;
        };
        negotiating.collect();
        let progress = match result {
            Ok(progress) => progress,
            Err(error) => {
                self.lost(error.into(), now);
                return Progress::Closed;
            }
        };
        match negotiating.handshake.phase() {
            Phase::Busy | Phase::StartTls if progress == Progress::Closed => {
                self.lost(closed(), now);
                Progress::Closed
            }
            Phase::StartTls if negotiating.handshake.wants_credentials() => {
                if !negotiating.awaits_credentials {
                    negotiating.awaits_credentials = true;
                    self.attempts.ask_for_credentials();
                }
                Progress::Blocked
            }
            Phase::Busy | Phase::StartTls => progress,
            Phase::Idle => {
                // From here on it is the caller who takes the time.
                self.attempts.by = None;
                if let Some(outcome) = negotiating.finish() {
                    self.attempts.option = Some(outcome);
                }
                progress
            }
            Phase::Established if negotiating.is_choosing() => {
                self.attempts.by = None;
                progress
            }
            Phase::Established => {
                self.opened(now);
                Progress::More
            }
            Phase::Closed => {
                let error = negotiating.handshake.peek().error().cloned();
                self.lost(error.map_or_else(closed, Error::from), now);
                Progress::Closed
            }
        }
    }

    /// The negotiation is done: commands are accepted.
    pub(super) fn opened(&mut self, now: Instant) {
        let Stage::Negotiating(negotiating) = mem::replace(&mut self.stage, Stage::Over) else {
            return;
        };
        let Negotiating { handshake, asked, awaits_credentials } = *negotiating;
        let export = handshake.peek().export_name().to_owned();
        let config = handshake.peek().config().clone();
        let (mut core, link) = match handshake.finish() {
            Ok(done) => done,
            // Something is still to be sent.
            Err(handshake) => {
                self.stage = Stage::Negotiating(Box::new(Negotiating {
                    handshake,
                    asked,
                    awaits_credentials,
                }));
                return;
            }
        };
        let facts = core.negotiated().clone();
        self.capacity = core.capacity();
        if let Some(recovery) = self.recovery.as_deref_mut() {
            let agreed = match &mut recovery.log {
                Some(log) => log.resume(&facts).map_err(Into::into),
                None => ReplayLog::new(&recovery.policy, &facts, core.capacity())
                    .map(|log| recovery.log = Some(log)),
            };
            if let Err(error) = agreed {
                let error = Error::from(error);
                self.attempts.close(Vec::new());
                if asked.is_some() {
                    self.attempts.option = Some(Err(error.clone()));
                }
                return self.attempt_failed(error, now);
            }
            recovery.opened = now;
        }
        self.attempts.trace.established(&facts);
        self.attempts.opened(&config, &export, &facts);
        if let Some(mode) = self.strict {
            core.set_strict(mode);
        }
        match self.recovery.as_deref().and_then(|recovery| recovery.log.as_ref()) {
            Some(log) if self.facts.as_deref() == Some(log.facts()) => {}
            Some(log) => self.facts = Some(Arc::new(log.facts().clone())),
            None => self.facts = Some(Arc::new(facts)),
        }
        self.export_name = export;
        self.stats.connections += 1;
        self.stage = Stage::Open(Open { core, link });
        self.silence.restart();
        if let Some(probe) = &mut self.keep_alive {
            probe.restart(now);
        }
        if let Some(lost) = self.recovery.as_deref_mut().and_then(|recovery| recovery.lost.take()) {
            self.attempts.tell(Event::Reconnected { after: now.saturating_duration_since(lost) });
        }
        if asked.is_some() {
            self.attempts.option = Some(Ok(super::OptionReply::Ready));
        }
        self.hand_over();
        if self.goodbye != Goodbye::No {
            self.wind_up(now);
        }
    }
}
