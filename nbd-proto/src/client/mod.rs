//! The client's data phase.
//!
//! ```text
//!              submit            received
//!   caller ───────────► outbox      │
//!     ▲                    │        ▼
//!     │ poll_event         ▼     reply::Role ──► PayloadSink
//!     └────────── slots ◄── sent ───┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | `submit` | checks made before a command is queued |
//! | `reply` | what the bytes from the server mean |
//! | `whole` | the same for the common reply, in one go |
//! | `pending` | one command between submission and completion |
//! | `coverage` | which bytes of a read have come |
//! | `status` | validation of block status |

mod coverage;
mod pending;
mod reply;
mod status;
mod submit;
mod whole;

use alloc::collections::VecDeque;
use core::fmt;
use core::ops::ControlFlow;

use crate::config::{ClientConfig, Limits, StrictMode};
use crate::engine::Stats;
use crate::engine::intake::{Intake, RecvBufs, Step};
use crate::engine::outbox::Outbox;
use crate::engine::scratch::Scratch;
use crate::engine::slots::{List, Slots};
use crate::error::{Anomaly, CommandError, Error, PeerMisbehaved, ReplyFault};
use crate::event::Event;
use crate::machine::Machine;
use crate::negotiate::facts::{ExportInfo, Negotiated};
use crate::payload::{PayloadSink, PayloadSource};
use crate::types::{Command, ContextId, Direction, HeaderStyle, RequestId};
use crate::wire::request::{CommandType, RequestHeader};

use pending::{Pending, Stage};
use reply::Expect;
use status::Contexts;
use submit::Gate;

pub(crate) use status::MAX_CONTEXTS;

/// Anomalies kept for the caller; further ones are only counted.
const MAX_ANOMALIES: usize = 16;

/// A connection in its data phase, seen from the client.
///
/// It comes out of a [`Negotiation`](crate::Negotiation) and is driven through
/// [`Machine`]. The methods fall into four families:
///
/// * questions: [`export`](Self::export), [`negotiated`](Self::negotiated),
///   [`in_flight`](Self::in_flight), [`status`](Self::status),
///   [`state_name`](Machine::state_name), [`stats`](Machine::stats);
/// * commands: [`submit`](Self::submit), [`abandon`](Self::abandon),
///   [`disconnect`](Self::disconnect); they queue and never write;
/// * bytes: everything in [`Machine`];
/// * results: [`poll_event`](Self::poll_event), [`take`](Self::take).
///
/// A loop looks like this: submit what there is to ask, write what is due, read
/// what comes, take the events. Submitting much before writing makes few and
/// large writes.
pub struct Client {
    intake: Intake,
    outbox: Outbox,
    core: Core,
}

/// Everything about a client but its two byte engines.
struct Core {
    facts: Negotiated,
    export: ExportInfo,
    contexts: Contexts,
    gate: Gate,
    strict: StrictMode,
    strict_peer: bool,
    limits: Limits,
    slots: Slots<Pending>,
    /// Commands whose final reply is to come, oldest first.
    in_flight: List,
    /// Commands whose reply overtook their payload.
    held: List,
    /// Finished commands nobody has taken yet, oldest first.
    done: List,
    unfinished: usize,
    finished: usize,
    expect: Expect,
    anomalies: VecDeque<Anomaly>,
    anomaly_count: u64,
    messages_received: u64,
    /// Payload that bypassed the intake's own count.
    bytes_copied: u64,
    life: Life,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    /// Commands are accepted.
    Open,
    /// No more commands; the disconnect request goes out after the last reply.
    Draining,
    /// The disconnect request is queued or sent; only the end is to come.
    Disconnecting,
    /// Over.
    Closed(Option<Error>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Untold,
    Told,
}

/// When to send the disconnect request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// After the last reply, as proto.md, "Terminating the transmission phase",
    /// recommends.
    AfterReplies,
    /// After everything that is queued, without waiting for replies.
    AfterRequests,
    /// After the request that is partly sent; those of which no byte has been sent
    /// fail with [`CommandError::ConnectionLost`].
    AbandonUnsent,
}

/// What a client knows about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub(crate) fn new(
        facts: Negotiated,
        export: ExportInfo,
        config: &ClientConfig,
        mut scratch: Scratch,
        stats: Stats,
    ) -> Self {
        scratch.grow(config.limits.scratch_len);
        let mut core = Core {
            contexts: Contexts::new(&facts.contexts),
            gate: Gate::default(),
            strict: config.strict,
            strict_peer: config.strict_peer,
            limits: config.limits,
            slots: Slots::new(config.limits.max_in_flight),
            in_flight: List::new(),
            held: List::new(),
            done: List::new(),
            unfinished: 0,
            finished: 0,
            expect: Expect::Header,
            anomalies: VecDeque::new(),
            anomaly_count: 0,
            messages_received: stats.messages_received,
            bytes_copied: 0,
            life: Life::Open,
            end: End::Untold,
            facts,
            export,
        };
        core.gate = Gate::new(&core);
        let first = Step::Parse { need: core.first_need() };
        Self { intake: Intake::new(scratch, first, stats), outbox: Outbox::new(), core }
    }

    /// What was negotiated.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.core.facts
    }

    /// The export.
    #[must_use]
    pub fn export(&self) -> &ExportInfo {
        &self.core.export
    }

    /// The number replies use for a meta context, if it was granted.
    #[must_use]
    pub fn context(&self, name: &str) -> Option<ContextId> {
        let context = self.core.facts.contexts.iter().find(|context| context.name == name)?;
        Some(ContextId(context.id))
    }

    /// Commands that wait for their reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.core.unfinished
    }

    /// Commands that are finished and whose completion has not been taken.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.core.finished
    }

    /// Whether [`submit`](Self::submit) would find no free slot.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.core.slots.is_full()
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.core.life, Life::Closed(_))
    }

    /// Whether the end has been asked for and has not come yet.
    #[must_use]
    pub fn is_disconnecting(&self) -> bool {
        matches!(self.core.life, Life::Draining | Life::Disconnecting)
    }

    /// Whether a request is partly sent, or waits to be, or a reply has been received
    /// in part.
    #[must_use]
    pub fn is_processing(&self) -> bool {
        !self.is_closed()
            && (!self.outbox.is_empty()
                || self.intake.mid_message()
                || !self.core.expect.is_header())
    }

    /// Why the connection is over, if it ended in error.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match &self.core.life {
            Life::Closed(error) => error.as_ref(),
            Life::Open | Life::Draining | Life::Disconnecting => None,
        }
    }

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

    /// Changes the checks made before a command is sent.
    pub fn set_strict(&mut self, mode: StrictMode) {
        self.core.strict = mode;
    }

    /// Asks for the end of the session. No command is accepted from now on.
    pub fn disconnect(&mut self, when: Disconnect) {
        if !matches!(self.core.life, Life::Open | Life::Draining) {
            return;
        }
        self.core.life = Life::Draining;
        match when {
            Disconnect::AfterReplies => self.disconnect_when_drained(),
            Disconnect::AfterRequests => self.queue_disconnect(),
            Disconnect::AbandonUnsent => {
                let mut next = self.core.slots.front(&self.core.in_flight);
                while let Some(id) = next {
                    next = self.core.slots.after(id);
                    let Some(pending) = self.core.slots.get_mut(id) else {
                        continue;
                    };
                    if pending.unsent.is_some_and(|sequence| self.outbox.cancel(sequence)) {
                        pending.unsent = None;
                        self.core.conclude(id, Some(CommandError::ConnectionLost));
                    }
                }
                self.queue_disconnect();
            }
        }
    }

    fn disconnect_when_drained(&mut self) {
        if self.core.life == Life::Draining && self.core.unfinished == 0 {
            self.queue_disconnect();
        }
    }

    fn queue_disconnect(&mut self) {
        let header = RequestHeader {
            flags: crate::wire::flags::CommandFlags::empty(),
            kind: CommandType::Disconnect.to_wire(),
            cookie: 0,
            offset: 0,
            length: 0,
        };
        submit::push_header(&mut self.outbox, self.core.facts.headers, None, header);
        self.core.life = Life::Disconnecting;
    }

    /// Stops waiting for a command. Its completion will not be reported, and its
    /// slot stays reserved until the server's reply has been read through.
    ///
    /// Returns true when the command is out of the machine at once: it was
    /// finished, or no byte of it had been sent, and none will be. Otherwise a
    /// write's payload may still be asked of the [`PayloadSource`] until it is
    /// sent; a read's destination is never asked for again.
    pub fn abandon(&mut self, id: RequestId) -> bool {
        let Some(pending) = self.core.slots.get_mut(id) else {
            return true;
        };
        pending.abandoned = true;
        match pending.stage {
            Stage::Done => {
                self.core.slots.unlink(&mut self.core.done, id);
                self.core.finished -= 1;
                self.core.slots.release(id);
                true
            }
            Stage::Held => false,
            Stage::InFlight => {
                let cancelled = pending.unsent.is_some_and(|sequence| self.outbox.cancel(sequence));
                if cancelled {
                    self.core.slots.unlink(&mut self.core.in_flight, id);
                    self.core.unfinished -= 1;
                    self.core.slots.release(id);
                    self.disconnect_when_drained();
                }
                cancelled
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
        let mut next = self.core.slots.front(&self.core.held);
        while let Some(id) = next {
            next = self.core.slots.after(id);
            self.abandon(id);
        }
    }

    /// The next thing to know, if there is one.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        let core = &mut self.core;
        if let Some(id) = core.slots.front(&core.done) {
            return core.take(id).map(|(command, result)| Event::Completed { id, command, result });
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
    pub fn peek_completed(&self) -> Option<RequestId> {
        self.core.slots.front(&self.core.done)
    }

    /// Takes the completion of one command, out of turn. `None` unless
    /// [`status`](Self::status) says [`RequestStatus::Completed`].
    pub fn take(&mut self, id: RequestId) -> Option<(Command, Result<(), CommandError>)> {
        self.core.take(id)
    }

    fn fail(&mut self, error: Error) -> Error {
        self.core.close(Some(error.clone()));
        self.outbox.close();
        self.intake.stop();
        error
    }

    /// Accounts for one delivery: its outcome, and what follows from it.
    fn delivered(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Ok(()) => {
                self.intake.stats.messages_received = self.core.messages_received;
                self.intake.stats.bytes_copied += core::mem::take(&mut self.core.bytes_copied);
                self.intake.stats.anomalies = self.core.anomaly_count;
                self.disconnect_when_drained();
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn check_alive(&self) -> Result<(), Error> {
        match &self.core.life {
            Life::Closed(Some(error)) => Err(error.clone()),
            Life::Closed(None) | Life::Open | Life::Draining | Life::Disconnecting => Ok(()),
        }
    }
}

impl Core {
    const fn first_need(&self) -> usize {
        match self.facts.headers {
            HeaderStyle::Simple | HeaderStyle::Structured => crate::wire::reply::SimpleReply::LEN,
            HeaderStyle::Extended => crate::wire::reply::ChunkHeader::EXTENDED_LEN,
        }
    }

    /// The final reply to a command is in, or none will come.
    fn conclude(&mut self, id: RequestId, error: Option<CommandError>) {
        let Some(pending) = self.slots.get_mut(id) else {
            return;
        };
        if let Some(error) = error {
            pending.fail(error);
        }
        if pending.unsent.is_some() && !matches!(self.life, Life::Closed(_)) {
            pending.stage = Stage::Held;
            self.slots.unlink(&mut self.in_flight, id);
            self.slots.push_back(&mut self.held, id);
        } else {
            self.finish(id);
        }
    }

    /// Moves a command to the finished ones, or out if nobody waits for it.
    fn finish(&mut self, id: RequestId) {
        let Some(pending) = self.slots.get_mut(id) else {
            return;
        };
        let list = match pending.stage {
            Stage::InFlight => &mut self.in_flight,
            Stage::Held => &mut self.held,
            Stage::Done => return,
        };
        pending.stage = Stage::Done;
        let abandoned = pending.abandoned;
        self.unfinished -= 1;
        self.slots.unlink(list, id);
        if abandoned {
            self.slots.release(id);
        } else {
            self.slots.push_back(&mut self.done, id);
            self.finished += 1;
        }
    }

    /// A command's last byte is sent.
    fn sent(&mut self, id: RequestId) {
        let Some(pending) = self.slots.get_mut(id) else {
            return;
        };
        pending.unsent = None;
        if pending.stage == Stage::Held {
            self.finish(id);
        }
    }

    fn take(&mut self, id: RequestId) -> Option<(Command, Result<(), CommandError>)> {
        let pending = self.slots.get(id).filter(|pending| pending.stage == Stage::Done)?;
        let taken = (pending.command, pending.result());
        self.slots.unlink(&mut self.done, id);
        self.slots.release(id);
        self.finished -= 1;
        Some(taken)
    }

    /// The connection is over: everything unfinished fails, exactly once.
    fn close(&mut self, error: Option<Error>) {
        if matches!(self.life, Life::Closed(_)) {
            return;
        }
        self.life = Life::Closed(error);
        while let Some(id) = self.slots.front(&self.in_flight) {
            self.conclude(id, Some(CommandError::ConnectionLost));
        }
        while let Some(id) = self.slots.front(&self.held) {
            // Its reply came, but its payload never left in full: what a server
            // says about data it cannot have is worth something only if it is an
            // error.
            if let Some(pending) = self.slots.get_mut(id) {
                pending.fail(CommandError::ConnectionLost);
            }
            self.finish(id);
        }
    }

    /// A reply that fits no command in flight.
    fn anomaly(&mut self, fault: ReplyFault, id: RequestId) -> Result<(), Error> {
        if self.strict_peer {
            return Err(PeerMisbehaved::Strict(fault).into());
        }
        self.anomaly_count += 1;
        if self.anomalies.len() < MAX_ANOMALIES {
            self.anomalies.push_back(Anomaly { fault, id });
        }
        Ok(())
    }
}

impl Machine for Client {
    fn recv_bufs<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> RecvBufs<'a> {
        self.intake.recv_bufs(&self.core, sink)
    }

    fn recv_buf<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> &'a mut [u8] {
        self.intake.recv_buf(&self.core, sink, self.core.limits.direct_min)
    }

    fn received<S: PayloadSink>(&mut self, n: usize, sink: &mut S) -> Result<(), Error> {
        self.check_alive()?;
        let result = self.intake.received(n, &mut self.core, sink);
        self.delivered(result)
    }

    fn has_buffered(&self) -> bool {
        self.intake.has_parsable()
    }

    fn feed<S: PayloadSink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, Error> {
        self.check_alive()?;
        let result = self.intake.feed(bytes, &mut self.core, sink);
        self.delivered(result.map(|_| ()))?;
        Ok(bytes.len())
    }

    fn eof(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        let error = match self.core.life {
            Life::Closed(_) => return Ok(()),
            Life::Disconnecting => None,
            Life::Open | Life::Draining if self.intake.mid_message() => {
                Some(PeerMisbehaved::ClosedMidMessage)
            }
            Life::Open | Life::Draining if self.core.unfinished > 0 => Some(PeerMisbehaved::Closed),
            Life::Open | Life::Draining => None,
        };
        match error {
            Some(error) => Err(self.fail(error.into())),
            None => {
                self.core.close(None);
                self.outbox.close();
                self.intake.stop();
                Ok(())
            }
        }
    }

    fn for_each_unsent<'a, P, F>(&'a self, source: &'a P, visit: F) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        self.outbox.for_each_unsent(source, visit)
    }

    fn sent(&mut self, n: usize) -> Result<(), Error> {
        let Self { outbox, core, intake } = self;
        let mut messages = 0;
        let result = outbox.sent(n, |id| {
            messages += 1;
            if let Some(id) = id {
                core.sent(id);
            }
        });
        intake.stats.writes += 1;
        intake.stats.bytes_sent += n as u64;
        intake.stats.messages_sent += messages;
        self.disconnect_when_drained();
        result.map_err(|misuse| self.fail(misuse.into()))
    }

    fn send_failed(&mut self) {
        if matches!(self.core.life, Life::Open) {
            self.core.life = Life::Draining;
        }
        self.outbox.close();
    }

    fn get_direction(&self) -> Direction {
        if self.is_closed() {
            return Direction::empty();
        }
        let mut direction = Direction::READ;
        direction.set(Direction::WRITE, !self.outbox.is_empty());
        direction
    }

    fn is_ending(&self) -> bool {
        matches!(self.core.life, Life::Disconnecting | Life::Closed(_))
    }

    fn state_name(&self) -> &'static str {
        match (&self.core.life, self.core.unfinished, self.core.expect.is_header()) {
            (Life::Open, 0, _) => "ready",
            (Life::Open, _, true) => "waiting for replies",
            (Life::Open, _, false) => "receiving a reply",
            (Life::Draining, ..) => "waiting for the last replies",
            (Life::Disconnecting, ..) => "disconnecting",
            (Life::Closed(None), ..) => "closed",
            (Life::Closed(Some(_)), ..) => "dead",
        }
    }

    fn stats(&self) -> &Stats {
        &self.intake.stats
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state_name())
            .field("in_flight", &self.core.unfinished)
            .field("completed", &self.core.finished)
            .field("headers", &self.core.facts.headers)
            .field("stats", &self.intake.stats)
            .finish_non_exhaustive()
    }
}
