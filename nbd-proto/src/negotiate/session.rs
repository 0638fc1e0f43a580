//! What both sides of a negotiation do alike: they move bytes, and may fail.
//!
//! ```text
//!   Negotiation        ServerNegotiation      the public faces
//!        └──────┬────────────┘
//!            Session ── intake, error
//!        ┌──────┴────────────┐
//!   client::Core         server::Core         a Side each: what was agreed, what
//!                                             comes next, what is to be sent
//! ```

use core::ops::ControlFlow;

use super::SCRATCH;
use crate::engine::Stats;
use crate::engine::intake::{Intake, RecvBufs, Role, Step};
use crate::engine::outbox::Outbox;
use crate::engine::scratch::Scratch;
use crate::error::{ApiMisuse, Error, PeerMisbehaved};
use crate::payload::{PayloadSink, PayloadSource};
use crate::types::Direction;

/// One side of a negotiation, as far as the session has to know it.
pub(super) trait Side {
    /// Messages that are still to be sent.
    fn outbox(&self) -> &Outbox;

    fn outbox_mut(&mut self) -> &mut Outbox;

    fn messages_received(&self) -> u64;

    /// Whether TLS is agreed on, so that nothing more may come in clear.
    fn awaits_tls(&self) -> bool;

    /// Whether the peer has nothing to say until more is sent.
    fn awaits_its_turn(&self) -> bool;

    /// Whether the peer is not heard until more is sent.
    fn is_deaf(&self) -> bool;

    /// Whether a message has begun of which more is to come.
    fn is_mid_message(&self) -> bool;

    /// What the next bytes are.
    fn first_step(&self) -> Step;
}

/// A connection before its data phase.
pub(super) struct Session<C> {
    pub(super) core: C,
    intake: Intake,
    /// Why it ended.
    error: Option<Error>,
}

impl<C: Side> Session<C> {
    pub(super) fn new(core: C) -> Self {
        let intake = Intake::new(Scratch::new(SCRATCH), core.first_step(), Stats::default());
        Self { core, intake, error: None }
    }

    pub(super) const fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    pub(super) const fn stats(&self) -> &Stats {
        &self.intake.stats
    }

    pub(super) fn check_alive(&self) -> Result<(), Error> {
        self.error.clone().map_or(Ok(()), Err)
    }

    pub(super) fn fail(&mut self, error: Error) -> Error {
        self.error = Some(error.clone());
        self.intake.stop();
        error
    }

    /// The side changed what it expects outside of a delivery.
    pub(super) fn restart(&mut self) {
        self.intake.restart(self.core.first_step());
    }

    /// No more bytes are expected.
    pub(super) const fn stop(&mut self) {
        self.intake.stop();
    }

    /// Nothing of the last message is left to receive or to parse.
    pub(super) const fn has_unparsed(&self) -> bool {
        self.intake.has_unparsed()
    }

    /// Whatever was received goes to the machine that takes over.
    pub(super) fn into_parts(self) -> (C, Scratch, Stats) {
        let (scratch, stats) = self.intake.into_parts();
        (self.core, scratch, stats)
    }

    fn is_upgrading(&self) -> bool {
        self.error.is_none() && self.core.awaits_tls()
    }

    /// Whether there may be `more` behind what was parsed. An answer that comes before its
    /// question is an answer to something else, and bytes sent in clear must never be taken
    /// for bytes inside TLS (proto.md, "NBD_OPT_STARTTLS").
    fn check_rest(&mut self, more: bool) -> Result<(), Error> {
        if more && self.core.awaits_its_turn() {
            return Err(self.fail(PeerMisbehaved::WrongOption.into()));
        }
        if more && self.is_upgrading() {
            return Err(self.fail(PeerMisbehaved::PlaintextAfterStartTls.into()));
        }
        Ok(())
    }

    /// Checks that what is inside TLS may follow. That nothing else is held, every delivery
    /// has seen to.
    pub(super) fn check_upgrade(&self) -> Result<(), ApiMisuse> {
        let due = self.is_upgrading() && self.core.outbox().is_empty();
        if due { Ok(()) } else { Err(ApiMisuse::NotUpgrading) }
    }

    pub(super) fn recv_bufs<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> RecvBufs<'a>
    where
        C: Role<S>,
    {
        if self.core.is_deaf() {
            return self.intake.no_bufs();
        }
        self.intake.recv_bufs(&self.core, sink)
    }

    pub(super) fn recv_buf<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> &'a mut [u8]
    where
        C: Role<S>,
    {
        if self.core.is_deaf() {
            return self.intake.no_bufs().scratch;
        }
        self.intake.recv_buf(&self.core, sink, usize::MAX)
    }

    pub(super) fn received<S: PayloadSink>(&mut self, n: usize, sink: &mut S) -> Result<(), Error>
    where
        C: Role<S>,
    {
        self.check_alive()?;
        let result = self.intake.received(n, &mut self.core, sink);
        self.delivered(result)?;
        self.check_rest(self.intake.has_unparsed())
    }

    pub(super) fn has_buffered(&self) -> bool {
        self.intake.has_parsable()
    }

    pub(super) fn feed<S: PayloadSink>(
        &mut self,
        bytes: &[u8],
        sink: &mut S,
    ) -> Result<usize, Error>
    where
        C: Role<S>,
    {
        self.check_alive()?;
        let result = self.intake.feed(bytes, &mut self.core, sink);
        let taken = self.delivered(result)?;
        self.check_rest(taken < bytes.len() || self.intake.has_unparsed())?;
        Ok(taken)
    }

    fn delivered<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.intake.stats.messages_received = self.core.messages_received();
        result.map_err(|error| self.fail(error))
    }

    /// The peer closed the connection although more was due.
    pub(super) fn cut_off(&mut self) -> Error {
        let error = if self.intake.mid_message() || self.core.is_mid_message() {
            PeerMisbehaved::ClosedMidMessage
        } else {
            PeerMisbehaved::Closed
        };
        self.fail(error.into())
    }

    pub(super) fn for_each_unsent<'a, P, F>(&'a self, source: &'a P, visit: F) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        self.core.outbox().for_each_unsent(source, visit)
    }

    pub(super) fn sent(&mut self, n: usize) -> Result<(), Error> {
        let result = self.core.outbox_mut().sent(n, &mut self.intake.stats, |_| {});
        result.map_err(|misuse| self.fail(misuse.into()))
    }

    /// What it waits for, when the side `reads` or has something else to wait for. What is
    /// queued goes out even after a failure: it is the last word to the peer.
    pub(super) fn direction(&self, reads: bool) -> Direction {
        let mut direction = Direction::empty();
        direction.set(Direction::WRITE, !self.core.outbox().is_empty());
        let reads = reads && !self.intake.is_waiting() && !self.core.is_deaf();
        direction.set(Direction::READ, reads);
        direction
    }
}
