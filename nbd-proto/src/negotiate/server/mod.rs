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
//! | `mod` | the public face |
//! | `options` | what the bytes from the client mean |
//! | `answer` | answers to options |
//! | `machine` | the machine, driven with bytes |

mod answer;
mod machine;
mod options;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::facts::{ExportInfo, Negotiated, Protocol, answers};
use super::session::{Session, Side};
use super::{MAX_CONTEXTS, SCRATCH};
use crate::config::{ServerConfig, check_sendable};
use crate::engine::intake::Step;
use crate::engine::outbox::Outbox;
use crate::error::{ApiMisuse, Error, broken};
use crate::server::Server;
use crate::types::ContextId;
use crate::wire::flags::TransmissionFlags;
use crate::wire::greeting::{ExportHeader, Style, ZERO_PADDING};
use crate::wire::option::{
    BlockSizes, ExportEntry, InfoRequest, MetaContext, MetaContextRequest, OptionCode, RefusalCode,
    ReplyType,
};

use options::Expect;

/// So many bytes of answers that have not left, and nothing more is read.
const MAX_UNSENT: usize = SCRATCH;

/// What a server's negotiation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
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
#[expect(clippy::exhaustive_enums, reason = "a client waits for the answer to each")]
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
/// It is driven through [`Machine`](crate::Machine). What does not depend on the exports it answers
/// by itself, as configured and as the protocol text asks; the rest it asks of the
/// caller through [`question`](Self::question).
pub struct ServerNegotiation {
    session: Session<Core>,
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
}

impl ServerNegotiation {
    /// A connection on which nothing has been sent or received yet.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let mut outbox = Outbox::new();
        let mut greeting = Vec::from(Style::Newstyle.encode());
        greeting.extend_from_slice(&config.handshake_flags.bits().to_be_bytes());
        outbox.push(&greeting);
        Self::with(config, outbox, Expect::ClientFlags, Negotiated::default())
    }

    /// A connection to an oldstyle client: there is nothing to negotiate. Block sizes that
    /// make no sense are as good as none.
    #[must_use]
    pub fn oldstyle(config: ServerConfig, mut export: ExportInfo) -> Self {
        export.flags |= TransmissionFlags::HAS_FLAGS;
        export.block_sizes = export.block_sizes.filter(|sizes| sizes.are_sane());
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

    /// A connection on which somebody else has negotiated, as Linux has it done for its network
    /// block devices. Nothing is sent and nothing is expected before the data phase; `facts` is
    /// what was agreed on, and without an export there is none.
    ///
    /// ```
    /// use nbd_proto::{ExportInfo, Negotiated, ServerConfig, ServerNegotiation, TransmissionFlags};
    ///
    /// let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
    /// let mut facts = Negotiated::default();
    /// facts.export = Some(ExportInfo::new(1 << 20, flags));
    /// let server = ServerNegotiation::agreed(ServerConfig::new(), facts).finish();
    /// assert!(server.is_ok());
    /// ```
    #[must_use]
    pub fn agreed(config: ServerConfig, mut facts: Negotiated) -> Self {
        facts.normalise();
        let expect = if facts.export.is_some() { Expect::Established } else { Expect::Closed };
        Self::with(config, Outbox::new(), expect, facts)
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
        };
        Self { session: Session::new(core) }
    }

    /// What it waits for.
    #[must_use]
    pub fn phase(&self) -> ServerPhase {
        match self.session.core.expect {
            _ if self.error().is_some() => ServerPhase::Closed,
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
        self.session.core.question.as_ref()
    }

    /// What has been agreed on so far.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.session.core.facts
    }

    /// Why it ended in error, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.session.error()
    }

    /// Adds one export to the list that was asked for.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless the question is [`Question::List`];
    /// [`ApiMisuse::NameTooLong`] and [`ApiMisuse::BadName`] for a name or a description that
    /// cannot travel.
    pub fn send_export(&mut self, entry: &ExportEntry) -> Result<(), ApiMisuse> {
        if self.session.core.question != Some(Question::List) {
            return Err(ApiMisuse::WrongState);
        }
        check_sendable(&entry.name)?;
        check_sendable(&entry.description)?;
        self.session
            .core
            .reply(OptionCode::List.to_wire(), ReplyType::Server, |data| entry.encode(data));
        Ok(())
    }

    /// Adds one meta context to those that were asked for. Returns the number block
    /// status replies use for it.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless meta contexts are the question;
    /// [`ApiMisuse::NameTooLong`], [`ApiMisuse::BadName`], [`ApiMisuse::BadContext`] and
    /// [`ApiMisuse::TooManyContexts`] for one that a client would not put up with; one that is
    /// to be selected and was not asked for is one of them. Nothing is sent then.
    pub fn send_context(&mut self, name: &str) -> Result<ContextId, ApiMisuse> {
        let (option, asked) = match &self.session.core.question {
            // Where nothing is asked for, everything is meant.
            Some(Question::ListMetaContext(_)) => (OptionCode::ListMetaContext, true),
            Some(Question::SetMetaContext(request)) => {
                // proto.md, "The `base:` metadata namespace": this form selects nothing.
                let mut queries = request.queries.iter().filter(|query| *query != "base:");
                let asked = queries.any(|query| answers(name, query));
                (OptionCode::SetMetaContext, asked)
            }
            _ => return Err(ApiMisuse::WrongState),
        };
        check_sendable(name)?;
        let mut context = MetaContext { id: ContextId(0), name: String::from(name) };
        // proto.md, "Metadata querying": a namespace, a colon, a name within it.
        if !name.contains(':') || !asked {
            return Err(ApiMisuse::BadContext);
        }
        if option == OptionCode::SetMetaContext {
            let granted = &mut self.session.core.facts.contexts;
            if granted.iter().any(|old| old.name == name) {
                return Err(ApiMisuse::BadContext);
            }
            if granted.len() >= MAX_CONTEXTS {
                return Err(ApiMisuse::TooManyContexts);
            }
            context.id = ContextId((granted.len() as u32).saturating_add(1));
            granted.push(context.clone());
        }
        self.session
            .core
            .reply(option.to_wire(), ReplyType::MetaContext, |data| context.encode(data));
        Ok(context.id)
    }

    /// Ends the answer to a question about exports or meta contexts.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless that is the question.
    pub fn acknowledge(&mut self) -> Result<(), ApiMisuse> {
        match self.session.core.question.take() {
            Some(
                question @ (Question::List
                | Question::ListMetaContext(_)
                | Question::SetMetaContext(_)),
            ) => {
                self.session.core.reply(question.option().to_wire(), ReplyType::Ack, |_| {});
                self.answered(Expect::OptionHeader);
                Ok(())
            }
            other => {
                self.session.core.question = other;
                Err(ApiMisuse::WrongState)
            }
        }
    }

    /// Describes the export that was asked about, and grants it if the client wants
    /// to use it. Flags that need something that was not negotiated are left out;
    /// so are a name, a description and block sizes the client did not ask for. The maximum
    /// of the block sizes is [`Limits::max_payload`](crate::Limits::max_payload), unless the
    /// export's own is less.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] unless an export is the question;
    /// [`ApiMisuse::NameTooLong`] and [`ApiMisuse::BadName`] for a name or a description that
    /// cannot travel; [`ApiMisuse::BadBlockSizes`] for block sizes that clients would not
    /// believe, or that leave no room for a payload.
    pub fn describe(&mut self, mut export: ExportInfo) -> Result<(), ApiMisuse> {
        let max_payload = self.session.core.config.limits.max_payload;
        export.block_sizes = Some(sizes_to_tell(export.block_sizes, max_payload)?);
        for text in [&export.canonical_name, &export.description].into_iter().flatten() {
            check_sendable(text)?;
        }
        let (request, option) = match self.session.core.question.take() {
            Some(Question::Info(request)) => (request, OptionCode::Info),
            Some(Question::Go(request)) => (request, OptionCode::Go),
            Some(Question::ExportName(name)) => {
                (InfoRequest { export: name, info: Vec::new() }, OptionCode::ExportName)
            }
            other => {
                self.session.core.question = other;
                return Err(ApiMisuse::WrongState);
            }
        };
        if option != OptionCode::Info && self.session.core.contexts_of != request.export {
            // proto.md, "NBD_OPT_SET_META_CONTEXT": a selection is for one export, the one
            // that is chosen in the end.
            self.session.core.facts.contexts.clear();
        }
        self.session.core.facts.export = Some(export);
        if let Some(export) = &mut self.session.core.facts.export {
            export.flags |= TransmissionFlags::HAS_FLAGS;
        }
        self.session.core.facts.normalise();
        let Some(export) = self.session.core.facts.export.clone() else {
            return Err(ApiMisuse::WrongState);
        };
        if option == OptionCode::ExportName {
            self.session.core.send_export_header(&export);
        } else {
            self.session.core.send_info(option, &request, export);
        }
        let next = match option {
            OptionCode::Info => Expect::OptionHeader,
            _ => Expect::Established,
        };
        self.answered(next);
        Ok(())
    }

    /// Refuses what was asked, with a reason for people, of which at most 4096 bytes are sent.
    ///
    /// # Errors
    /// [`ApiMisuse::WrongState`] when nothing is asked.
    pub fn refuse(&mut self, code: RefusalCode, message: &str) -> Result<(), ApiMisuse> {
        let question = self.session.core.question.take().ok_or(ApiMisuse::WrongState)?;
        if question.option() == OptionCode::SetMetaContext {
            self.session.core.facts.contexts.clear();
        }
        if question.option() == OptionCode::ExportName {
            self.answered(Expect::Closed);
        } else {
            self.session.core.refuse(question.option().to_wire(), code, message);
            self.answered(Expect::OptionHeader);
        }
        Ok(())
    }

    /// The TLS handshake on the transport is done. Everything agreed on before is
    /// forgotten (proto.md, "NBD_OPT_STARTTLS").
    ///
    /// # Errors
    /// [`ApiMisuse::NotUpgrading`] in any other phase than [`ServerPhase::StartTls`], and while bytes
    /// are still to be sent in clear. What came in clear behind the acknowledgement has ended
    /// the negotiation already.
    pub fn tls_ready(&mut self) -> Result<(), Error> {
        self.session.check_upgrade()?;
        self.session.core.facts.start_tls();
        self.answered(Expect::OptionHeader);
        Ok(())
    }

    /// The data phase, once established; everything received so far goes with it.
    ///
    /// # Errors
    /// Gives itself back in any other phase, or while bytes are still to be sent.
    pub fn finish(self) -> Result<Server, Box<Self>> {
        if self.phase() != ServerPhase::Established || !self.session.core.outbox.is_empty() {
            return Err(Box::new(self));
        }
        let Some(export) = self.session.core.facts.export.clone() else {
            broken("what is established has an export");
            return Err(Box::new(self));
        };
        let (core, scratch, stats) = self.session.into_parts();
        Ok(Server::new(core.facts, export, &core.config, scratch, stats))
    }

    fn answered(&mut self, next: Expect) {
        self.session.core.expect = next;
        self.session.restart();
    }
}

/// The block sizes of an export, with no larger a maximum than the longest payload taken.
///
/// proto.md, "Size constraints": the defaults are those that hold where none are told.
fn sizes_to_tell(own: Option<BlockSizes>, max_payload: u32) -> Result<BlockSizes, ApiMisuse> {
    let mut sizes = own.unwrap_or(BlockSizes { minimum: 1, preferred: 4096, maximum: u32::MAX });
    if !sizes.are_sane() {
        return Err(ApiMisuse::BadBlockSizes);
    }
    sizes.maximum = sizes.maximum.min(max_payload);
    if sizes.preferred > sizes.maximum {
        // The largest power of two that is not beyond it.
        sizes.preferred = 1 << sizes.maximum.max(1).ilog2();
    }
    if sizes.are_sane() { Ok(sizes) } else { Err(ApiMisuse::BadBlockSizes) }
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
        // A client may send one option behind the other.
        false
    }

    fn is_deaf(&self) -> bool {
        // One that only asks and never listens does not make answers pile up.
        self.outbox.fixed_len() >= MAX_UNSENT
    }

    fn is_mid_message(&self) -> bool {
        self.expect.is_mid_message()
    }

    fn first_step(&self) -> Step {
        self.expect.first_step()
    }
}
