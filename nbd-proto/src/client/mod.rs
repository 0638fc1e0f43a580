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
//! | `completion` | from a reply to whoever waits for the command |
//! | `outstanding` | what the server owes, and whether it gets on with it |
//! | `ending` | how a session ends |
//! | `machine` | the client, driven with bytes |
//! | `pending` | one command between submission and completion |

mod completion;
mod ending;
mod machine;
mod outstanding;
mod pending;
mod reply;
mod submit;

use alloc::collections::{BinaryHeap, VecDeque};
use core::cmp::Reverse;

use crate::config::{ClientConfig, Limits, MIN_SCRATCH, StrictMode};
use crate::engine::Stats;
use crate::engine::intake::{Intake, Step};
use crate::engine::outbox::Outbox;
use crate::engine::scratch::Scratch;
use crate::engine::slots::{List, Slots};
use crate::error::{Anomaly, Error};
use crate::negotiate::facts::{ExportInfo, Negotiated};
use crate::reply::status::Contexts;
use crate::types::{ContextId, HeaderStyle, RequestId};

use pending::Pending;
use reply::Expect;
use submit::Gate;

pub use completion::RequestStatus;
pub use ending::Disconnect;
pub use outstanding::Outstanding;

/// A connection in its data phase, seen from the client.
///
/// It comes out of a [`Negotiation`](crate::Negotiation) and is driven through
/// [`Machine`](crate::Machine). The methods fall into four families:
///
/// * questions: [`export`](Self::export), [`negotiated`](Self::negotiated),
///   [`in_flight`](Self::in_flight), [`status`](Self::status),
///   [`state_name`](crate::Machine::state_name), [`stats`](crate::Machine::stats);
/// * commands: [`submit`](Self::submit), [`abandon`](Self::abandon),
///   [`disconnect`](Self::disconnect); they queue and never write;
/// * bytes: everything in [`Machine`](crate::Machine);
/// * results: [`poll_event`](Self::poll_event), [`take`](Self::take).
///
/// A loop looks like this: submit what there is to ask, write what is due, read
/// what comes, take the events. Submitting much before writing makes few and
/// large writes.
pub struct Client {
    intake: Intake,
    core: Core,
}

/// Everything about a client but what receives.
struct Core {
    outbox: Outbox,
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
    /// Commands whose reply overtook their request, the first to be sent on top.
    held: BinaryHeap<Reverse<(u64, RequestId)>>,
    /// Finished commands nobody has taken yet, oldest first.
    done: List,
    /// Commands in the first two; all other slots in use are in the third.
    unfinished: usize,
    /// Of these, those that may take as long as they like.
    operations: usize,
    /// Of these, in order, those that are not sent whole: their places in the outbox.
    unsent_operations: VecDeque<u64>,
    /// And those that were abandoned.
    abandoned: usize,
    /// The most operations that an answer has overtaken.
    overtaken: usize,
    /// The server has said that it is shutting down.
    shutdown: bool,
    /// Grows with whatever brings one of them forward.
    progress: u64,
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

impl Client {
    pub(crate) fn new(
        facts: Negotiated,
        export: ExportInfo,
        config: &ClientConfig,
        mut scratch: Scratch,
        stats: Stats,
    ) -> Self {
        scratch.may_grow(MIN_SCRATCH, config.limits.scratch_len);
        let mut core = Core {
            outbox: Outbox::new(),
            contexts: Contexts::new(&facts.contexts),
            gate: Gate::default(),
            strict: config.strict,
            strict_peer: config.strict_peer,
            limits: config.limits,
            slots: Slots::new(config.limits.max_in_flight),
            in_flight: List::new(),
            held: BinaryHeap::new(),
            done: List::new(),
            unfinished: 0,
            operations: 0,
            unsent_operations: VecDeque::new(),
            abandoned: 0,
            overtaken: 0,
            shutdown: false,
            progress: 0,
            expect: Expect::Header,
            anomalies: VecDeque::new(),
            anomaly_count: stats.anomalies,
            messages_received: stats.messages_received,
            bytes_copied: 0,
            life: Life::Open,
            end: End::Untold,
            facts,
            export,
        };
        core.gate = Gate::new(&core);
        let first = Step::Parse { need: core.first_need() };
        Self { intake: Intake::new(scratch, first, stats), core }
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
        Some(context.id)
    }

    /// Commands that wait for their reply, abandoned ones included; see
    /// [`outstanding`](Self::outstanding).
    #[must_use]
    #[inline]
    #[doc(alias = "nbd_aio_in_flight")]
    pub fn in_flight(&self) -> usize {
        self.core.unfinished
    }

    /// Commands that are finished and whose completion has not been taken.
    #[must_use]
    #[inline]
    pub fn completed(&self) -> usize {
        (self.core.slots.used() as usize).saturating_sub(self.core.unfinished)
    }

    /// Whether [`submit`](Self::submit) would find no free slot.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.core.slots.is_full()
    }

    /// The most commands that can be in flight.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.core.slots.capacity()
    }

    /// Whether the connection is over.
    #[must_use]
    #[inline]
    #[doc(alias = "nbd_aio_is_closed")]
    pub fn is_closed(&self) -> bool {
        matches!(self.core.life, Life::Closed(_))
    }

    /// Whether the end has been asked for and has not come yet.
    #[must_use]
    pub fn is_disconnecting(&self) -> bool {
        matches!(self.core.life, Life::Draining | Life::Disconnecting)
    }

    /// Whether the server has said that it is shutting down (proto.md, "Terminating the
    /// transmission phase"). Nothing more is sent then but the goodbye, by itself, after the
    /// last reply.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.core.shutdown
    }

    /// Whether a request is partly sent, or waits to be, or a reply has been received
    /// in part.
    #[must_use]
    #[doc(alias = "nbd_aio_is_processing")]
    pub fn is_processing(&self) -> bool {
        !self.is_closed()
            && (!self.core.outbox.is_empty()
                || self.intake.mid_message()
                || !self.core.expect.is_header())
    }

    /// Why the connection is over, if it ended in error.
    #[must_use]
    #[doc(alias = "nbd_aio_is_dead")]
    pub fn error(&self) -> Option<&Error> {
        match &self.core.life {
            Life::Closed(error) => error.as_ref(),
            Life::Open | Life::Draining | Life::Disconnecting => None,
        }
    }

    /// Changes the checks made before a command is sent.
    pub fn set_strict(&mut self, mode: StrictMode) {
        self.core.strict = mode;
    }
}

impl Core {
    const fn first_need(&self) -> usize {
        match self.facts.headers {
            HeaderStyle::Simple | HeaderStyle::Structured => crate::wire::reply::SimpleReply::LEN,
            HeaderStyle::Extended => crate::wire::reply::ChunkHeader::EXTENDED_LEN,
        }
    }
}
