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
//! | `mod` | the machine and its public face |
//! | `order` | which option comes next |
//! | `replies` | what the bytes from the server mean |

mod order;
mod replies;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use super::SCRATCH;
use super::facts::{Gathered, Negotiated};
use crate::client::Client;
use crate::config::{ClientConfig, check_sendable};
use crate::engine::Stats;
use crate::engine::intake::{Intake, RecvBufs, Step};
use crate::engine::outbox::Outbox;
use crate::engine::scratch::Scratch;
use crate::error::{ApiMisuse, Error, PeerIncompatible, PeerMisbehaved, Refusal};
use crate::machine::Machine;
use crate::negotiate::facts::Protocol;
use crate::payload::{PayloadSink, PayloadSource};
use crate::types::{Direction, HeaderStyle};
use crate::wire::greeting::Style;
use crate::wire::option::{
    ExportEntry, MetaContext, MetaContextRequest, OptionCode, OptionHeader, RefusalCode,
};

use order::{Goal, Stage};
use replies::Expect;

/// What a negotiation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
/// It is driven through [`Machine`] until [`phase`](Self::phase) says
/// [`Phase::Established`], then turned into a [`Client`] with
/// [`finish`](Self::finish). It sends options by itself, in the order the protocol
/// asks for. In [option mode](ClientConfig::option_mode) it stops in between, for
/// the caller to ask for more, as often as the server allows; [`go`](Self::go) ends
/// that.
pub struct Negotiation {
    intake: Intake,
    core: Core,
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
    error: Option<Error>,
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
            replies: 0,
            bytes: 0,
            gathered: Gathered::default(),
            granted: Vec::new(),
            queries: Vec::new(),
            events: VecDeque::new(),
            messages_received: 0,
            error: None,
        };
        let first = Step::Parse { need: Style::LEN };
        let intake = Intake::new(Scratch::new(SCRATCH), first, Stats::default());
        Ok(Self { intake, core })
    }

    /// What it waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.core.expect {
            _ if self.core.error.is_some() => Phase::Closed,
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
        &self.core.facts
    }

    /// The name of the export that is asked for.
    #[must_use]
    pub fn export_name(&self) -> &str {
        &self.core.export
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.core.config
    }

    /// Why it ended in error, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.core.error.as_ref()
    }

    /// The next thing to know, if there is one.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<NegotiationEvent> {
        self.core.events.pop_front()
    }

    /// The TLS handshake on the transport is done: all bytes from now on are those
    /// inside TLS. Everything learned before it is forgotten
    /// (proto.md, "NBD_OPT_STARTTLS").
    ///
    /// # Errors
    /// [`ApiMisuse::NotUpgrading`] in any other phase than [`Phase::StartTls`], and
    /// [`PeerMisbehaved::PlaintextAfterStartTls`] when the server sent more in clear.
    pub fn tls_ready(&mut self) -> Result<(), Error> {
        if self.phase() != Phase::StartTls || !self.core.outbox.is_empty() {
            return Err(ApiMisuse::NotUpgrading.into());
        }
        if self.intake.has_unparsed() {
            return Err(self.fail(PeerMisbehaved::PlaintextAfterStartTls.into()));
        }
        self.core.facts.start_tls();
        self.core.finish_option(OptionCode::StartTls, Ok(()));
        if self.core.explicit {
            // Who asked for TLS by hand asks for the rest again by hand, too.
            self.core.expect = Expect::Nothing;
            return self.follow();
        }
        self.go_on()
    }

    /// Asks for the list of exports; each comes as [`NegotiationEvent::Export`].
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    pub fn list(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::List, |_| {})
    }

    /// Asks for the export's details without choosing it. Selects the configured
    /// meta contexts first. On success [`negotiated`](Self::negotiated) tells them.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    pub fn info(&mut self) -> Result<(), Error> {
        self.check_option()?;
        self.core.goal = Goal::Info;
        self.core.stage = Stage::MetaContext;
        self.go_on()
    }

    /// Chooses the export and goes on to the data phase. Selects the configured
    /// meta contexts first. When the server refuses, the negotiation is idle again.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`].
    pub fn go(&mut self) -> Result<(), Error> {
        self.check_idle()?;
        self.core.goal = Goal::Go;
        self.core.stage = Stage::MetaContext;
        self.go_on()
    }

    /// Ends the negotiation in good order.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    pub fn abort(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::Abort, |_| {})
    }

    /// Asks for TLS. On success the phase is [`Phase::StartTls`] and, after
    /// [`tls_ready`](Self::tls_ready), idle again with everything forgotten that was
    /// negotiated before; a refusal is reported and changes nothing.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    pub fn start_tls(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::StartTls, |_| {})
    }

    /// Asks for structured replies.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    pub fn structured_replies(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::StructuredReply, |_| {})
    }

    /// Asks for extended headers, which imply structured replies.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and when the server is not fixed newstyle.
    pub fn extended_headers(&mut self) -> Result<(), Error> {
        self.ask(OptionCode::ExtendedHeaders, |_| {})
    }

    /// Asks which meta contexts match the queries, or which exist when there are
    /// none; each comes as [`NegotiationEvent::MetaContext`]. Changes nothing.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], when the server is not fixed newstyle or structured
    /// replies were not negotiated, and for a bad name.
    pub fn list_meta_contexts(&mut self, queries: &[&str]) -> Result<(), Error> {
        self.ask_contexts(OptionCode::ListMetaContext, queries)
    }

    /// Selects meta contexts for the export, in place of those selected before;
    /// each one granted comes as [`NegotiationEvent::MetaContext`]. To keep the
    /// selection, switch off
    /// [`request_meta_contexts`](ClientConfig::request_meta_contexts).
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], when the server is not fixed newstyle or structured
    /// replies were not negotiated, and for a bad name.
    pub fn set_meta_contexts(&mut self, queries: &[&str]) -> Result<(), Error> {
        self.ask_contexts(OptionCode::SetMetaContext, queries)
    }

    /// Asks for another export from now on. Forgets what is known about the one
    /// before, its meta contexts included.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and for a bad name.
    pub fn set_export_name(&mut self, name: impl Into<String>) -> Result<(), Error> {
        self.check_idle()?;
        let name = name.into();
        check_sendable(&name)?;
        if name != self.core.export {
            self.core.facts.forget_export();
            self.core.facts.contexts.clear();
            self.core.export = name;
        }
        Ok(())
    }

    /// Changes the configuration of what is still to come.
    ///
    /// # Errors
    /// Outside [`Phase::Idle`], and for a bad name.
    pub fn reconfigure(
        &mut self,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> Result<(), Error> {
        self.check_idle()?;
        let config = change(self.core.config.clone());
        check_all(&config.meta_contexts)?;
        let name = config.export.clone();
        self.core.config = config;
        self.set_export_name(name)
    }

    /// The data phase, once established; everything received so far goes with it.
    ///
    /// # Errors
    /// Gives itself back in any other phase, or while bytes are still to be sent.
    pub fn finish(self) -> Result<Client, Box<Self>> {
        if self.phase() != Phase::Established || !self.core.outbox.is_empty() {
            return Err(Box::new(self));
        }
        let Some(export) = self.core.facts.export.clone() else {
            return Err(Box::new(self));
        };
        let (scratch, stats) = self.intake.into_parts();
        Ok(Client::new(self.core.facts, export, &self.core.config, scratch, stats))
    }

    fn check_idle(&self) -> Result<(), Error> {
        if let Some(error) = &self.core.error {
            return Err(error.clone());
        }
        if self.phase() == Phase::Idle { Ok(()) } else { Err(ApiMisuse::WrongState.into()) }
    }

    fn check_option(&self) -> Result<(), Error> {
        self.check_idle()?;
        match self.core.facts.protocol {
            Protocol::FixedNewstyle => Ok(()),
            Protocol::Newstyle | Protocol::Oldstyle => {
                Err(PeerIncompatible::NotFixedNewstyle.into())
            }
        }
    }

    fn ask(&mut self, option: OptionCode, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.check_option()?;
        self.core.explicit = true;
        self.core.send_option(option, write);
        self.follow()
    }

    fn ask_contexts(&mut self, option: OptionCode, queries: &[&str]) -> Result<(), Error> {
        check_all(queries)?;
        self.check_option()?;
        // proto.md, "NBD_OPT_LIST_META_CONTEXT", "NBD_OPT_SET_META_CONTEXT".
        if self.core.facts.headers == HeaderStyle::Simple {
            return Err(PeerIncompatible::NoStructuredReplies.into());
        }
        let queries = queries.iter().map(|query| String::from(*query)).collect();
        self.core.explicit = true;
        self.core.send_contexts(option, queries);
        self.follow()
    }

    /// Lets the automatic order send the next option.
    fn go_on(&mut self) -> Result<(), Error> {
        match self.core.next_option() {
            Ok(()) => self.follow(),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The core changed what it expects outside of a delivery.
    fn follow(&mut self) -> Result<(), Error> {
        self.intake.restart(self.core.first_step());
        Ok(())
    }

    fn fail(&mut self, error: Error) -> Error {
        self.core.error = Some(error.clone());
        self.intake.stop();
        error
    }

    fn delivered(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.intake.stats.messages_received = self.core.messages_received;
        match (result, &self.core.error) {
            (Err(error), _) => Err(self.fail(error)),
            (Ok(()), Some(error)) => Err(error.clone()),
            (Ok(()), None) => Ok(()),
        }
    }

    fn check_alive(&self) -> Result<(), Error> {
        self.core.error.clone().map_or(Ok(()), Err)
    }
}

fn check_all(names: &[impl AsRef<str>]) -> Result<(), ApiMisuse> {
    names.iter().try_for_each(|name| check_sendable(name.as_ref()))
}

impl Core {
    /// Queues an option and expects its replies.
    fn send_option(&mut self, option: OptionCode, write: impl FnOnce(&mut Vec<u8>)) {
        let mut data = Vec::new();
        write(&mut data);
        let header = OptionHeader { option: option.to_wire(), length: data.len() as u32 };
        self.outbox.push_body(None, &header.encode(), |body| body.append(&mut data));
        self.replies = 0;
        self.bytes = 0;
        self.gathered = Gathered::default();
        self.granted.clear();
        self.expect = Expect::ReplyHeader(option);
    }

    fn send_contexts(&mut self, option: OptionCode, queries: Vec<String>) {
        let request = MetaContextRequest { export: self.export.clone(), queries };
        self.send_option(option, |data| request.encode(data));
        self.queries = request.queries;
        if option == OptionCode::SetMetaContext {
            // proto.md, "NBD_OPT_SET_META_CONTEXT": whatever comes of it, the
            // former selection is gone.
            self.facts.contexts.clear();
        }
    }

    fn finish_option(&mut self, option: OptionCode, result: Result<(), Refusal>) {
        self.events.push_back(NegotiationEvent::Finished { option, result });
    }
}

impl Machine for Negotiation {
    fn recv_bufs<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> RecvBufs<'a> {
        self.intake.recv_bufs(&self.core, sink)
    }

    fn recv_buf<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> &'a mut [u8] {
        self.intake.recv_buf(&self.core, sink, usize::MAX)
    }

    fn received<S: PayloadSink>(&mut self, n: usize, sink: &mut S) -> Result<(), Error> {
        self.check_alive()?;
        let result = self.intake.received(n, &mut self.core, sink);
        self.delivered(result)?;
        if self.phase() == Phase::StartTls && self.intake.has_unparsed() {
            return Err(self.fail(PeerMisbehaved::PlaintextAfterStartTls.into()));
        }
        Ok(())
    }

    fn has_buffered(&self) -> bool {
        self.intake.has_parsable()
    }

    fn feed<S: PayloadSink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, Error> {
        self.check_alive()?;
        if self.phase() == Phase::StartTls && !bytes.is_empty() {
            return Err(self.fail(PeerMisbehaved::PlaintextAfterStartTls.into()));
        }
        let result = self.intake.feed(bytes, &mut self.core, sink);
        match result {
            Ok(n) => self.delivered(Ok(())).map(|()| n),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn eof(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        match self.core.expect {
            Expect::Closed => Ok(()),
            // proto.md, "NBD_OPT_ABORT": either side may close without more words.
            Expect::ReplyHeader(OptionCode::Abort) => {
                self.core.expect = Expect::Closed;
                self.intake.stop();
                Ok(())
            }
            // proto.md, "NBD_OPT_EXPORT_NAME": this is how a server refuses.
            Expect::ExportHeader if !self.intake.has_unparsed() => {
                let refusal = Refusal {
                    option: OptionCode::ExportName,
                    code: RefusalCode::UnknownExport,
                    message: String::from("the server closed the connection"),
                };
                Err(self.fail(refusal.into()))
            }
            _ if self.intake.mid_message() => {
                Err(self.fail(PeerMisbehaved::ClosedMidMessage.into()))
            }
            _ => Err(self.fail(PeerMisbehaved::Closed.into())),
        }
    }

    fn for_each_unsent<'a, P, F>(&'a self, source: &'a P, visit: F) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        self.core.outbox.for_each_unsent(source, visit)
    }

    fn sent(&mut self, n: usize) -> Result<(), Error> {
        let mut messages = 0;
        let result = self.core.outbox.sent(n, |_| messages += 1);
        self.intake.stats.writes += 1;
        self.intake.stats.bytes_sent += n as u64;
        self.intake.stats.messages_sent += messages;
        result.map_err(|misuse| self.fail(misuse.into()))
    }

    fn send_failed(&mut self) {
        self.core.outbox.close();
    }

    fn get_direction(&self) -> Direction {
        let mut direction = Direction::empty();
        // What is queued goes out even after a failure: it is the last word to the
        // server.
        direction.set(Direction::WRITE, !self.core.outbox.is_empty());
        let reads = matches!(self.phase(), Phase::Busy | Phase::Idle);
        direction.set(Direction::READ, reads && !self.intake.is_waiting());
        direction
    }

    fn is_ending(&self) -> bool {
        self.phase() == Phase::Closed
            || matches!(self.core.expect, Expect::ReplyHeader(OptionCode::Abort))
    }

    fn state_name(&self) -> &'static str {
        match (&self.core.error, self.core.expect) {
            (Some(_), _) => "negotiation failed",
            (None, expect) => expect.name(),
        }
    }

    fn stats(&self) -> &Stats {
        &self.intake.stats
    }
}

impl fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiation")
            .field("state", &self.state_name())
            .field("export", &self.core.export)
            .field("negotiated", &self.core.facts)
            .finish_non_exhaustive()
    }
}
