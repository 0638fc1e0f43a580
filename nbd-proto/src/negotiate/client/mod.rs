//! The client's side of the negotiation.
//!
//! ```text
//!                    ┌──────────────► Established (oldstyle)
//!   Greeting ────────┤
//!                    └─► options, in this order, as configured:
//!
//!      STARTTLS ─► TLS handshake by the caller ─► everything learned is forgotten
//!      EXTENDED_HEADERS ─► else STRUCTURED_REPLY
//!      Idle, in option mode, until the caller goes on
//!      SET_META_CONTEXT
//!      GO ─► Established
//!       └─ unknown to the server ─► EXPORT_NAME ─► Established
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | the public face |
//! | `options` | what a caller may ask for in option mode |
//! | `order` | which option comes next |
//! | `replies` | what the bytes from the server mean |
//! | `machine` | the machine, driven with bytes |

mod machine;
mod options;
mod order;
mod replies;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::facts::{Gathered, Negotiated};
use super::session::{Session, Side};
use crate::client::Client;
use crate::config::{ClientConfig, check_sendable};
use crate::engine::intake::Step;
use crate::engine::outbox::Outbox;
use crate::error::{ApiMisuse, Error, Refusal, broken};
use crate::wire::option::{ExportEntry, MetaContext, OptionCode};

use options::check_all;
use order::{Goal, Stage};
use replies::Expect;

/// What a negotiation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
pub enum Phase {
    /// Bytes from or to the server.
    Busy,
    /// The caller, in option mode: choose the next option.
    Idle,
    /// The caller: the server agreed to TLS. Send what is due, do the TLS
    /// handshake on the transport, then call [`Negotiation::tls_ready`].
    StartTls,
    /// Nothing: [`Negotiation::finish`] gives the [`Client`].
    Established,
    /// Nothing: it is over.
    Closed,
}

/// What a negotiation reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NegotiationEvent {
    /// One export of [`Negotiation::list`].
    Export(ExportEntry),
    /// One meta context of [`Negotiation::list_meta_contexts`] or
    /// [`Negotiation::set_meta_contexts`].
    MetaContext(MetaContext),
    /// An option is done, whether the caller asked for it or the automatic order
    /// did.
    Finished {
        /// The option.
        option: OptionCode,
        /// Whether the server granted it.
        result: Result<(), Refusal>,
    },
}

/// A client's connection before its data phase.
///
/// It is driven through [`Machine`](crate::Machine) until [`phase`](Self::phase) says
/// [`Phase::Established`], then turned into a [`Client`] with
/// [`finish`](Self::finish). It sends options by itself, in the order the protocol
/// asks for. In [option mode](ClientConfig::option_mode) it stops in between, for
/// the caller to ask for more, as often as the server allows; [`go`](Self::go) ends
/// that.
pub struct Negotiation {
    session: Session<Core>,
}

struct Core {
    config: ClientConfig,
    facts: Negotiated,
    export: String,
    outbox: Outbox,
    expect: Expect,
    stage: Stage,
    goal: Goal,
    /// The caller asked for the option under way, not the automatic order.
    explicit: bool,
    /// The sequence number of the last option.
    asked: u64,
    /// Replies to the option under way, and their bytes.
    replies: u32,
    bytes: u64,
    gathered: Gathered,
    /// Contexts granted so far by the option under way.
    granted: Vec<MetaContext>,
    /// What the option under way asked for.
    queries: Vec<String>,
    events: VecDeque<NegotiationEvent>,
    messages_received: u64,
}

impl Negotiation {
    /// A connection on which nothing has been sent or received yet.
    ///
    /// # Errors
    /// [`ApiMisuse::NameTooLong`] and [`ApiMisuse::BadName`] when the export's name or
    /// a meta context's is longer than 4096 bytes or contains NUL.
    pub fn new(config: ClientConfig) -> Result<Self, ApiMisuse> {
        check_sendable(&config.export)?;
        check_all(&config.meta_contexts)?;
        let core = Core {
            export: config.export.clone(),
            config,
            facts: Negotiated::default(),
            outbox: Outbox::new(),
            expect: Expect::Magic,
            stage: Stage::Tls,
            goal: Goal::Go,
            explicit: false,
            asked: 0,
            replies: 0,
            bytes: 0,
            gathered: Gathered::default(),
            granted: Vec::new(),
            queries: Vec::new(),
            events: VecDeque::new(),
            messages_received: 0,
        };
        Ok(Self { session: Session::new(core) })
    }

    /// What it waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.session.core.expect {
            _ if self.error().is_some() => Phase::Closed,
            Expect::Closed => Phase::Closed,
            Expect::Established => Phase::Established,
            Expect::Tls => Phase::StartTls,
            Expect::Nothing => Phase::Idle,
            Expect::Magic
            | Expect::Oldstyle
            | Expect::HandshakeFlags
            | Expect::ReplyHeader(_)
            | Expect::ReplyBody { .. }
            | Expect::SkippedBody(_)
            | Expect::ExportHeader
            | Expect::Padding => Phase::Busy,
        }
    }

    /// What has been agreed on so far.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.session.core.facts
    }

    /// The name of the export that is asked for.
    #[must_use]
    pub fn export_name(&self) -> &str {
        &self.session.core.export
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.session.core.config
    }

    /// Why it ended in error, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.session.error()
    }

    /// The next thing to know, if there is one.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<NegotiationEvent> {
        self.session.core.events.pop_front()
    }

    /// The TLS handshake on the transport is done: all bytes from now on are those
    /// inside TLS. Everything learned before it is forgotten
    /// (proto.md, "NBD_OPT_STARTTLS").
    ///
    /// # Errors
    /// [`ApiMisuse::NotUpgrading`] in any other phase than [`Phase::StartTls`], and while bytes
    /// are still to be sent in clear. What came in clear behind the acknowledgement has ended
    /// the negotiation already.
    pub fn tls_ready(&mut self) -> Result<(), Error> {
        self.session.check_upgrade()?;
        self.session.core.facts.start_tls();
        self.session.core.finish_option(OptionCode::StartTls, Ok(()));
        if self.session.core.explicit {
            // Who asked for TLS by hand asks for the rest again by hand, too.
            self.session.core.expect = Expect::Nothing;
            self.session.restart();
            return Ok(());
        }
        self.go_on()
    }

    /// The data phase, once established; everything received so far goes with it.
    ///
    /// # Errors
    /// Gives itself back in any other phase, or while bytes are still to be sent.
    pub fn finish(self) -> Result<Client, Box<Self>> {
        if self.phase() != Phase::Established || !self.session.core.outbox.is_empty() {
            return Err(Box::new(self));
        }
        let Some(export) = self.session.core.facts.export.clone() else {
            broken("what is established has an export");
            return Err(Box::new(self));
        };
        let (core, scratch, stats) = self.session.into_parts();
        Ok(Client::new(core.facts, export, &core.config, scratch, stats))
    }

    /// Lets the automatic order send the next option.
    fn go_on(&mut self) -> Result<(), Error> {
        match self.session.core.next_option() {
            Ok(()) => {
                self.session.restart();
                Ok(())
            }
            Err(error) => Err(self.session.fail(error)),
        }
    }
}

impl Side for Core {
    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn messages_received(&self) -> u64 {
        self.messages_received
    }

    fn awaits_tls(&self) -> bool {
        self.expect == Expect::Tls
    }

    fn awaits_its_turn(&self) -> bool {
        // No byte is sent of the option that the server would answer.
        matches!(self.expect, Expect::ReplyHeader(_) | Expect::ExportHeader)
            && !self.outbox.has_begun(self.asked)
    }

    fn is_deaf(&self) -> bool {
        // A server may answer an option that is partly sent, and then read no further.
        false
    }

    fn is_mid_message(&self) -> bool {
        self.expect.is_mid_message()
    }

    fn first_step(&self) -> Step {
        self.expect.first_step()
    }
}
