//! The server's side of the negotiation.
//!
//! ```text
//!   greeting ─► client flags ─► option ─┬─► answered by the machine ──┐
//!                                ▲      └─► Question ─► the caller ───┤
//!                                └────────────────────────────────────┤
//!                 StartTls ◄── STARTTLS granted ──────────────────────┤
//!                 Established ◄── export described ───────────────────┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | the machine and its public face |
//! | `options` | what the bytes from the client mean |

mod options;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use super::SCRATCH;
use super::facts::{ExportInfo, Negotiated, Protocol};
use crate::config::ServerConfig;
use crate::engine::Stats;
use crate::engine::intake::{Intake, RecvBufs, Step};
use crate::engine::outbox::Outbox;
use crate::engine::scratch::Scratch;
use crate::error::{ApiMisuse, Error, PeerMisbehaved};
use crate::machine::Machine;
use crate::payload::{PayloadSink, PayloadSource};
use crate::server::Server;
use crate::types::{ContextId, Direction, HeaderStyle};
use crate::wire::flags::{HandshakeFlags, TransmissionFlags};
use crate::wire::greeting::{ExportHeader, Style, ZERO_PADDING};
use crate::wire::option::{
    ExportEntry, Info, InfoRequest, InfoType, MetaContext, MetaContextRequest, OptionCode,
    OptionReplyHeader, RefusalCode, ReplyType,
};

use options::Expect;

/// What a server's negotiation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerPhase {
    /// Bytes from or to the client.
    Busy,
    /// The caller: answer [`ServerNegotiation::question`].
    Question,
    /// The caller: send what is due, do the TLS handshake on the transport, then
    /// call [`ServerNegotiation::tls_ready`].
    StartTls,
    /// Nothing, once what is due is sent: [`ServerNegotiation::finish`] gives the
    /// [`Server`].
    Established,
    /// Nothing: it is over, once what is due is sent.
    Closed,
}

/// What a client asks that only the owner of the exports can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which exports are there? Answer with
    /// [`send_export`](ServerNegotiation::send_export) for each and
    /// [`acknowledge`](ServerNegotiation::acknowledge).
    List,
    /// What is this export like? Answer with
    /// [`describe`](ServerNegotiation::describe).
    Info(InfoRequest),
    /// May this export be used? Answer with
    /// [`describe`](ServerNegotiation::describe).
    Go(InfoRequest),
    /// As [`Go`](Self::Go), from a client that knows no better; a refusal closes the
    /// connection.
    ExportName(String),
    /// Which meta contexts match? Answer with
    /// [`send_context`](ServerNegotiation::send_context) for each and
    /// [`acknowledge`](ServerNegotiation::acknowledge).
    ListMetaContext(MetaContextRequest),
    /// Select the meta contexts that match. Answered likewise.
    SetMetaContext(MetaContextRequest),
}

impl Question {
    const fn option(&self) -> OptionCode {
        match self {
            Self::List => OptionCode::List,
            Self::Info(_) => OptionCode::Info,
            Self::Go(_) => OptionCode::Go,
            Self::ExportName(_) => OptionCode::ExportName,
            Self::ListMetaContext(_) => OptionCode::ListMetaContext,
            Self::SetMetaContext(_) => OptionCode::SetMetaContext,
        }
    }
}

/// A server's connection before its data phase.
///
/// It is driven through [`Machine`]. What does not depend on the exports it answers
/// by itself, as configured and as the protocol text asks; the rest it asks of the
/// caller through [`question`](Self::question).
pub struct ServerNegotiation {
    intake: Intake,
    core: Core,
}

struct Core {
    config: ServerConfig,
    facts: Negotiated,
    /// The export the selected meta contexts belong to.
    contexts_of: String,
    outbox: Outbox,
    expect: Expect,
    question: Option<Question>,
    messages_received: u64,
    error: Option<Error>,
}

impl ServerNegotiation {
    /// A connection on which nothing has been sent or received yet.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let mut outbox = Outbox::new();
        let mut greeting = Vec::from(Style::Newstyle.encode());
        greeting.extend_from_slice(&config.handshake_flags.bits().to_be_bytes());
        outbox.push(None, &greeting);
        Self::with(config, outbox, Expect::ClientFlags, Negotiated::default())
    }

    /// A connection to an oldstyle client: there is nothing to negotiate.
    #[must_use]
    pub fn oldstyle(config: ServerConfig, mut export: ExportInfo) -> Self {
        export.flags |= TransmissionFlags::HAS_FLAGS;
        let mut facts = Negotiated {
            protocol: Protocol::Oldstyle,
            export: Some(export),
            ..Negotiated::default()
        };
        facts.normalise();
        let mut outbox = Outbox::new();
        if let Some(export) = &facts.export {
            let header = ExportHeader { size: export.size, flags: export.flags };
            outbox.push_body(None, &Style::Oldstyle.encode(), |body| {
                body.extend_from_slice(&header.encode_oldstyle());
                body.extend_from_slice(&[0; ZERO_PADDING]);
            });
        }
        Self::with(config, outbox, Expect::Established, facts)
    }

    fn with(config: ServerConfig, outbox: Outbox, expect: Expect, facts: Negotiated) -> Self {
        let core = Core {
            config,
            facts,
            contexts_of: String::new(),
            outbox,
            expect,
            question: None,
            messages_received: 0,
            error: None,
        };
        let first = core.first_step();
        Self { intake: Intake::new(Scratch::new(SCRATCH), first, Stats::default()), core }
    }

    /// What it waits for.
    #[must_use]
    pub fn phase(&self) -> ServerPhase {
        match self.core.expect {
            _ if self.core.error.is_some() => ServerPhase::Closed,
            Expect::ClientFlags
            | Expect::OptionHeader
            | Expect::OptionData { .. }
            | Expect::Oversized(_) => ServerPhase::Busy,
            Expect::Answer => ServerPhase::Question,
            Expect::Tls => ServerPhase::StartTls,
            Expect::Established => ServerPhase::Established,
            Expect::Closed => ServerPhase::Closed,
        }
    }

    /// What the client asks, in [`ServerPhase::Question`].
    #[must_use]
    pub fn question(&self) -> Option<&Question> {
        self.core.question.as_ref()
    }

    /// What has been agreed on so far.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.core.facts
    }

    /// Why it ended in error, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.core.error.as_ref()
    }

    /// Adds one export to the list that was asked for.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless the question is [`Question::List`].
    pub fn send_export(&mut self, entry: &ExportEntry) -> Result<(), ApiMisuse> {
        if self.core.question != Some(Question::List) {
            return Err(ApiMisuse::WrongState);
        }
        self.core.reply(OptionCode::List.to_wire(), ReplyType::Server, |data| entry.encode(data));
        Ok(())
    }

    /// Adds one meta context to those that were asked for. Returns the number block
    /// status replies use for it.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless meta contexts are the question.
    pub fn send_context(&mut self, name: &str) -> Result<ContextId, ApiMisuse> {
        let option = match &self.core.question {
            Some(question @ (Question::ListMetaContext(_) | Question::SetMetaContext(_))) => {
                question.option()
            }
            _ => return Err(ApiMisuse::WrongState),
        };
        let mut context = MetaContext { id: 0, name: String::from(name) };
        if option == OptionCode::SetMetaContext {
            context.id = self.core.facts.contexts.len() as u32 + 1;
            self.core.facts.contexts.push(context.clone());
        }
        self.core.reply(option.to_wire(), ReplyType::MetaContext, |data| context.encode(data));
        Ok(ContextId(context.id))
    }

    /// Ends the answer to a question about exports or meta contexts.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless that is the question.
    pub fn acknowledge(&mut self) -> Result<(), ApiMisuse> {
        match self.core.question.take() {
            Some(
                question @ (Question::List
                | Question::ListMetaContext(_)
                | Question::SetMetaContext(_)),
            ) => {
                self.core.reply(question.option().to_wire(), ReplyType::Ack, |_| {});
                self.answered(Expect::OptionHeader);
                Ok(())
            }
            other => {
                self.core.question = other;
                Err(ApiMisuse::WrongState)
            }
        }
    }

    /// Describes the export that was asked about, and grants it if the client wants
    /// to use it. Flags that need something that was not negotiated are left out;
    /// so are a name, a description and block sizes the client did not ask for.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless an export is the question.
    pub fn describe(&mut self, export: ExportInfo) -> Result<(), ApiMisuse> {
        let (request, option) = match self.core.question.take() {
            Some(Question::Info(request)) => (request, OptionCode::Info),
            Some(Question::Go(request)) => (request, OptionCode::Go),
            Some(Question::ExportName(name)) => {
                (InfoRequest { export: name, info: Vec::new() }, OptionCode::ExportName)
            }
            other => {
                self.core.question = other;
                return Err(ApiMisuse::WrongState);
            }
        };
        if self.core.contexts_of != request.export {
            // proto.md, "NBD_OPT_SET_META_CONTEXT": a selection is for one export.
            self.core.facts.contexts.clear();
        }
        self.core.facts.export = Some(export);
        if let Some(export) = &mut self.core.facts.export {
            export.flags |= TransmissionFlags::HAS_FLAGS;
        }
        self.core.facts.normalise();
        let Some(export) = self.core.facts.export.clone() else {
            return Err(ApiMisuse::WrongState);
        };
        if option == OptionCode::ExportName {
            self.core.send_export_header(&export);
        } else {
            self.core.send_info(option, &request, export);
        }
        let next = match option {
            OptionCode::Info => Expect::OptionHeader,
            _ => Expect::Established,
        };
        self.answered(next);
        Ok(())
    }

    /// Refuses what was asked, with a reason for people.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] when nothing is asked.
    pub fn refuse(&mut self, code: RefusalCode, message: &str) -> Result<(), ApiMisuse> {
        let question = self.core.question.take().ok_or(ApiMisuse::WrongState)?;
        if question.option() == OptionCode::SetMetaContext {
            self.core.facts.contexts.clear();
        }
        if question.option() == OptionCode::ExportName {
            self.answered(Expect::Closed);
        } else {
            self.core.refuse(question.option().to_wire(), code, message);
            self.answered(Expect::OptionHeader);
        }
        Ok(())
    }

    /// The TLS handshake on the transport is done. Everything agreed on before is
    /// forgotten (proto.md, "NBD_OPT_STARTTLS").
    ///
    /// # Errors
    /// [`ApiMisuse::NotUpgrading`] in any other phase than
    /// [`ServerPhase::StartTls`], and [`PeerMisbehaved::PlaintextAfterStartTls`] when
    /// the client sent more in clear.
    pub fn tls_ready(&mut self) -> Result<(), Error> {
        if self.phase() != ServerPhase::StartTls || !self.core.outbox.is_empty() {
            return Err(ApiMisuse::NotUpgrading.into());
        }
        if self.intake.has_unparsed() {
            return Err(self.fail(PeerMisbehaved::PlaintextAfterStartTls.into()));
        }
        self.core.facts.start_tls();
        self.answered(Expect::OptionHeader);
        Ok(())
    }

    /// The data phase, once established; everything received so far goes with it.
    ///
    /// # Errors
    /// Gives itself back in any other phase, or while bytes are still to be sent.
    pub fn finish(self) -> Result<Server, Box<Self>> {
        if self.phase() != ServerPhase::Established || !self.core.outbox.is_empty() {
            return Err(Box::new(self));
        }
        let Some(export) = self.core.facts.export.clone() else {
            return Err(Box::new(self));
        };
        let (scratch, stats) = self.intake.into_parts();
        Ok(Server::new(self.core.facts, export, &self.core.config, scratch, stats))
    }

    fn answered(&mut self, next: Expect) {
        self.core.expect = next;
        self.intake.restart(self.core.first_step());
    }

    fn fail(&mut self, error: Error) -> Error {
        self.core.error = Some(error.clone());
        self.intake.stop();
        error
    }

    fn delivered<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.intake.stats.messages_received = self.core.messages_received;
        result.map_err(|error| self.fail(error))
    }

    fn check_alive(&self) -> Result<(), Error> {
        self.core.error.clone().map_or(Ok(()), Err)
    }
}

impl Core {
    fn reply(&mut self, option: u32, kind: ReplyType, write: impl FnOnce(&mut Vec<u8>)) {
        let mut data = Vec::new();
        write(&mut data);
        let header = OptionReplyHeader { option, kind: kind.to_wire(), length: data.len() as u32 };
        self.outbox.push_body(None, &header.encode(), |body| body.append(&mut data));
    }

    fn refuse(&mut self, option: u32, code: RefusalCode, message: &str) {
        self.reply(option, ReplyType::Refused(code), |data| {
            data.extend_from_slice(message.as_bytes());
        });
    }

    fn send_info(&mut self, option: OptionCode, request: &InfoRequest, export: ExportInfo) {
        let asked = |kind: InfoType| request.info.contains(&kind.to_wire());
        let name = export.canonical_name.filter(|_| asked(InfoType::Name));
        let text = export.description.filter(|_| asked(InfoType::Description));
        let sizes = export.block_sizes.filter(|_| asked(InfoType::BlockSize));
        let facts = [
            Some(Info::Export(export.size, export.flags)),
            name.map(Info::Name),
            text.map(Info::Description),
            sizes.map(Info::BlockSize),
        ];
        for info in facts.into_iter().flatten() {
            self.reply(option.to_wire(), ReplyType::Info, |data| info.encode(data));
        }
        self.reply(option.to_wire(), ReplyType::Ack, |_| {});
    }

    fn send_export_header(&mut self, export: &ExportInfo) {
        let header = ExportHeader { size: export.size, flags: export.flags };
        let padded = !self.facts.handshake_flags.contains(HandshakeFlags::NO_ZEROES);
        self.outbox.push_body(None, &header.encode_newstyle(), |body| {
            if padded {
                body.extend_from_slice(&[0; ZERO_PADDING]);
            }
        });
    }

    const fn is_extended(&self) -> bool {
        matches!(self.facts.headers, HeaderStyle::Extended)
    }
}

impl Machine for ServerNegotiation {
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
        if self.phase() == ServerPhase::StartTls && self.intake.has_unparsed() {
            return Err(self.fail(PeerMisbehaved::PlaintextAfterStartTls.into()));
        }
        Ok(())
    }

    fn has_buffered(&self) -> bool {
        self.intake.has_parsable()
    }

    fn feed<S: PayloadSink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, Error> {
        self.check_alive()?;
        if self.phase() == ServerPhase::StartTls && !bytes.is_empty() {
            return Err(self.fail(PeerMisbehaved::PlaintextAfterStartTls.into()));
        }
        let result = self.intake.feed(bytes, &mut self.core, sink);
        self.delivered(result)
    }

    fn eof(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        match self.core.expect {
            Expect::Closed => Ok(()),
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
        direction.set(Direction::WRITE, !self.core.outbox.is_empty());
        direction.set(Direction::READ, self.phase() == ServerPhase::Busy);
        direction
    }

    fn is_ending(&self) -> bool {
        self.phase() == ServerPhase::Closed
    }

    fn state_name(&self) -> &'static str {
        match (&self.core.error, self.core.expect) {
            (Some(_), _) => "negotiation failed",
            (None, Expect::ClientFlags) => "waiting for client flags",
            (None, Expect::OptionHeader) => "waiting for an option",
            (None, Expect::OptionData { .. } | Expect::Oversized(_)) => "receiving an option",
            (None, Expect::Answer) => "waiting for an answer to an option",
            (None, Expect::Tls) => "starting TLS",
            (None, Expect::Established) => "established",
            (None, Expect::Closed) => "closed",
        }
    }

    fn stats(&self) -> &Stats {
        &self.intake.stats
    }
}

impl fmt::Debug for ServerNegotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerNegotiation")
            .field("state", &self.state_name())
            .field("question", &self.core.question)
            .field("negotiated", &self.core.facts)
            .finish_non_exhaustive()
    }
}

impl Core {
    const fn first_step(&self) -> Step {
        self.expect.first_step()
    }
}
