//! The server's data phase: the client's engines with the roles swapped.
//!
//! ```text
//!            received                       reply_*, send_*
//!   socket ───────────► request::Role ──► caller ──► outbox ──► socket
//!                          │ payload                   ▲ payload
//!                          ▼                           │
//!                     PayloadSink                 PayloadSource
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | the machine and its public face |
//! | `request` | what the bytes from the client mean, and which requests are sound |
//! | `reply` | answers: simple, structured, extended |

mod reply;
mod request;

use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use crate::config::{Limits, MIN_SCRATCH, ServerConfig};
use crate::engine::Stats;
use crate::engine::intake::{Intake, RecvBufs, Step};
use crate::engine::outbox::Outbox;
use crate::engine::scratch::Scratch;
use crate::engine::slots::{List, Slots};
use crate::error::{Error, PeerMisbehaved, broken};
use crate::event::ServerEvent;
use crate::machine::Machine;
use crate::negotiate::facts::{ExportInfo, Negotiated};
use crate::payload::{PayloadSink, PayloadSource};
use crate::reply::ReplyProgress;
use crate::reply::status::Contexts;
use crate::types::{Command, ContextId, Direction, HeaderStyle, RequestId};
use crate::wire::request::RequestHeader;

use request::Expect;

/// A connection in its data phase, seen from the server.
///
/// It comes out of a [`ServerNegotiation`](crate::ServerNegotiation) and is driven
/// through [`Machine`]. Requests that are malformed, out of bounds or not offered by
/// the export are refused by the machine itself; the others come as
/// [`ServerEvent::Request`] once their payload is in, and are answered in any order,
/// in one piece or several:
///
/// * [`reply`](Self::reply) and [`reply_error`](Self::reply_error) for anything;
/// * [`reply_data`](Self::reply_data) for a read in one piece;
/// * [`send_data`](Self::send_data), [`send_hole`](Self::send_hole) and
///   [`send_error_at`](Self::send_error_at) for a read in several, if structured
///   replies were negotiated;
/// * [`send_extents`](Self::send_extents) for block status.
///
/// A request's slot is free again when its [`ServerEvent::Replied`] has been taken.
/// While none is free nothing is read; call [`received`](Machine::received) with 0
/// afterwards to go on with what has been read already.
pub struct Server {
    intake: Intake,
    core: Core,
}

struct Core {
    facts: Negotiated,
    contexts: Contexts,
    export: ExportInfo,
    limits: Limits,
    slots: Slots<Received>,
    /// Requests nobody has taken yet.
    fresh: List,
    /// Requests whose reply is sent.
    replied: List,
    outbox: Outbox,
    expect: Expect,
    /// Size of the last write's payload: a guess at the next one.
    last_payload: usize,
    messages_received: u64,
    refused: u64,
    life: Life,
    told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// The client sends no more; replies still go out.
    Leaving,
    Dead(Error),
}

/// A request between its arrival and the end of its reply.
#[derive(Debug)]
struct Received {
    command: Command,
    cookie: u64,
    /// The offset field as it was sent, which extended replies repeat.
    offset: u64,
    /// Contexts a block status asks for, if not for all.
    filter: Vec<ContextId>,
    /// How far its reply is.
    reply: ReplyProgress,
    /// An error has been told, so that the reply need not be complete.
    failed: bool,
    /// Messages of the reply that are queued and not sent.
    queued: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its payload is arriving.
    Arriving,
    /// Waiting for the caller to take it.
    Fresh,
    /// Waiting for its reply.
    Open,
    /// The last message of its reply is queued.
    Answered,
    /// The reply is sent.
    Sent,
}

impl Default for Received {
    fn default() -> Self {
        Self {
            command: Command::flush(),
            cookie: 0,
            offset: 0,
            filter: Vec::new(),
            reply: ReplyProgress::default(),
            failed: false,
            queued: 0,
            stage: Stage::Arriving,
        }
    }
}

impl Server {
    pub(crate) fn new(
        facts: Negotiated,
        export: ExportInfo,
        config: &ServerConfig,
        mut scratch: Scratch,
        stats: Stats,
    ) -> Self {
        scratch.may_grow(MIN_SCRATCH, config.limits.scratch_len);
        let core = Core {
            contexts: Contexts::new(&facts.contexts),
            facts,
            export,
            limits: config.limits,
            slots: Slots::new(config.limits.max_in_flight),
            fresh: List::new(),
            replied: List::new(),
            outbox: Outbox::new(),
            expect: Expect::Header,
            last_payload: 0,
            messages_received: stats.messages_received,
            refused: stats.anomalies,
            life: Life::Open,
            told: false,
        };
        let first = core.first_step();
        Self { intake: Intake::new(scratch, first, stats), core }
    }

    /// What was negotiated.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.core.facts
    }

    /// The export, as it was described to the client.
    #[must_use]
    pub fn export(&self) -> &ExportInfo {
        &self.core.export
    }

    /// Requests that are not answered in full.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.core.slots.used() as usize
    }

    /// The contexts a block status asks for: those of its filter, or all.
    #[must_use]
    pub fn contexts(&self, id: RequestId) -> Vec<ContextId> {
        match self.core.slots.get(id) {
            Some(received) if !received.filter.is_empty() => received.filter.clone(),
            Some(_) => self.core.facts.contexts.iter().map(|context| context.id).collect(),
            None => Vec::new(),
        }
    }

    /// Whether the connection is over and every reply has left, or never will.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self.core.life {
            Life::Open => false,
            Life::Leaving => self.core.slots.used() == 0 && self.core.outbox.is_empty(),
            Life::Dead(_) => true,
        }
    }

    /// Takes no more requests. Those that have arrived are still to be answered; one
    /// whose payload is still arriving is dropped.
    pub fn stop(&mut self) {
        if self.core.life == Life::Open {
            self.core.life = Life::Leaving;
            self.intake.stop();
            match self.core.expect {
                Expect::Payload(id) | Expect::Filter { id, .. } | Expect::Refuse { id, .. } => {
                    self.core.slots.release(id);
                }
                Expect::Header | Expect::Slot => {}
            }
        }
    }

    /// The next thing to know, if there is one.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        let core = &mut self.core;
        if let Some(id) = core.slots.pop_front(&mut core.replied) {
            let id = core.with_cookie(id);
            core.slots.release(id);
            if core.life == Life::Open && core.expect == Expect::Slot {
                core.expect = Expect::Header;
                self.intake.restart(core.first_step());
            }
            return Some(ServerEvent::Replied { id });
        }
        // On a dead connection nobody can be answered.
        if !core.is_dead()
            && let Some(id) = core.slots.pop_front(&mut core.fresh)
        {
            let id = core.with_cookie(id);
            let received = core.slots.get_mut(id)?;
            received.stage = Stage::Open;
            return Some(ServerEvent::Request { id, command: received.command });
        }
        if self.is_closed() && !self.core.told {
            self.core.told = true;
            let error = match &self.core.life {
                Life::Dead(error) => Some(error.clone()),
                Life::Open | Life::Leaving => None,
            };
            return Some(ServerEvent::Disconnected { error });
        }
        None
    }

    fn fail(&mut self, error: Error) -> Error {
        if !matches!(self.core.life, Life::Dead(_)) {
            self.core.life = Life::Dead(error.clone());
        }
        self.core.outbox.close();
        self.intake.stop();
        error
    }

    fn check_alive(&self) -> Result<(), Error> {
        match &self.core.life {
            Life::Dead(error) => Err(error.clone()),
            Life::Open | Life::Leaving => Ok(()),
        }
    }

    fn delivered<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.intake.stats.messages_received = self.core.messages_received;
        self.intake.stats.anomalies = self.core.refused;
        result.map_err(|error| self.fail(error))
    }
}

impl Core {
    const fn is_dead(&self) -> bool {
        matches!(self.life, Life::Dead(_))
    }

    /// The library contradicts itself: the connection ends, and says why.
    fn give_up(&mut self, error: Error) {
        self.life = Life::Dead(error);
        self.outbox.close();
    }

    /// The id as it is told to the caller: with the cookie that the client has chosen.
    fn with_cookie(&self, id: RequestId) -> RequestId {
        self.slots.get(id).map_or(id, |received| id.with_cookie(received.cookie))
    }

    const fn header_len(&self) -> usize {
        match self.facts.headers {
            HeaderStyle::Simple | HeaderStyle::Structured => RequestHeader::COMPACT_LEN,
            HeaderStyle::Extended => RequestHeader::EXTENDED_LEN,
        }
    }

    const fn first_step(&self) -> Step {
        Step::Parse { need: self.header_len() }
    }

    /// One message of a reply is sent.
    fn sent(&mut self, id: RequestId) {
        let Some(received) = self.slots.get_mut(id) else {
            return broken("a request outlives what answers it");
        };
        received.queued = received.queued.saturating_sub(1);
        if received.queued == 0 && received.stage == Stage::Answered {
            received.stage = Stage::Sent;
            self.slots.push_back(&mut self.replied, id);
        }
    }
}

impl Machine for Server {
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
        self.delivered(result)
    }

    fn eof(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        // Between a header and the first byte of its payload a message is begun, too.
        let begun = self.intake.mid_message() || self.core.expect.is_payload();
        if self.core.life == Life::Open && begun && !self.intake.is_waiting() {
            return Err(self.fail(PeerMisbehaved::ClosedMidMessage.into()));
        }
        self.core.life = Life::Leaving;
        self.intake.stop();
        Ok(())
    }

    fn for_each_unsent<'a, P, F>(&'a self, source: &'a P, visit: F) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        if self.core.is_dead() {
            // Answers to requests that were taken before the end go nowhere.
            return Ok(());
        }
        self.core.outbox.for_each_unsent(source, visit)
    }

    fn sent(&mut self, n: usize) -> Result<(), Error> {
        let mut outbox = core::mem::replace(&mut self.core.outbox, Outbox::new());
        let result = outbox.sent(n, &mut self.intake.stats, |id| self.core.sent(id));
        self.core.outbox = outbox;
        result.map_err(|misuse| self.fail(misuse.into()))
    }

    fn send_failed(&mut self) {
        self.fail(PeerMisbehaved::Closed.into());
    }

    fn get_direction(&self) -> Direction {
        let mut direction = Direction::empty();
        let writes = !self.core.is_dead() && !self.core.outbox.is_empty();
        direction.set(Direction::WRITE, writes);
        let reads = self.core.life == Life::Open && !self.intake.is_waiting();
        direction.set(Direction::READ, reads);
        direction
    }

    fn is_ending(&self) -> bool {
        match self.core.life {
            Life::Open => false,
            Life::Leaving | Life::Dead(_) => true,
        }
    }

    fn awaited(&self) -> usize {
        0
    }

    fn state_name(&self) -> &'static str {
        match (&self.core.life, self.core.expect, self.core.slots.used()) {
            (Life::Open, Expect::Slot, _) => "waiting for replies to leave",
            (Life::Open, Expect::Header, 0) => "ready",
            (Life::Open, Expect::Header, _) => "serving",
            (Life::Open, ..) => "receiving a request",
            (Life::Leaving, ..) => "sending the last replies",
            (Life::Dead(_), ..) => "dead",
        }
    }

    fn stats(&self) -> &Stats {
        &self.intake.stats
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("state", &self.state_name())
            .field("in_flight", &self.core.slots.used())
            .field("headers", &self.core.facts.headers)
            .field("stats", &self.intake.stats)
            .finish_non_exhaustive()
    }
}
