//! Servers that break rules, as data: what each one sends, and what a client owes
//! its user.
//!
//! A [`Case`] is a script of bursts. The client speaks between them; the server does
//! not listen. [`Case::play`] delivers the script in one of several ways, and the
//! outcome must be the one of the table whichever it is.
//!
//! | file | cases |
//! |---|---|
//! | `greeting` | greetings, oldstyle, option replies in general |
//! | `go` | choosing the export |
//! | `contexts` | meta contexts, lists of exports, TLS before its handshake |
//! | `simple` | simple replies |
//! | `read` | structured replies to a read |
//! | `chunk` | structured replies in general |
//! | `status` | block status |
//! | `extended` | extended headers |
//! | `goodbye` | what comes behind the client's goodbye |
//! | `bytes` | the messages, unchecked |
//! | `player` | delivers a script in memory |
//! | `stage` | plays a script over a socket |
//! | `scenes` | servers that harm by what they do with a socket |
//! | `judge` | whether a client over a socket ended as the one in memory |
//! | `overtaken` | a write whose reply overtakes its payload, with feature `adapters` |
//! | `secure` | servers that harm behind TLS, with feature `adapters` |
//! | `tour` | the whole table over sockets, with feature `adapters` |
//! | `guarded` | a buffer that shows who wrote past it |

pub mod bytes;
mod chunk;
mod contexts;
mod extended;
mod go;
mod goodbye;
mod greeting;
mod guarded;
mod judge;
#[cfg(feature = "adapters")]
mod overtaken;
mod player;
mod read;
mod scenes;
#[cfg(feature = "adapters")]
mod secure;
mod simple;
mod stage;
mod status;
#[cfg(feature = "adapters")]
mod tour;

use nbd_proto::{
    ClientConfig, Command, CommandError, Errno, Error, Negotiated, RefusalCode, ReplyFault,
};

pub use guarded::Guarded;
pub use judge::{Failure, Played};
#[cfg(feature = "adapters")]
pub use overtaken::{OVERTAKEN, overtake};
pub use player::Observed;
pub use scenes::{Scene, scenes};
#[cfg(feature = "adapters")]
pub use secure::play_secrets;
pub use stage::{Address, Stage};
#[cfg(feature = "adapters")]
pub use tour::{play_scenes, tour};

/// What every byte of data is that a scripted server sends.
pub const DATA: u8 = 0x5a;

/// One server that breaks rules, or does something that looks as if.
#[derive(Debug)]
pub struct Case {
    /// Its name in the table.
    pub id: &'static str,
    /// What the client is configured to do.
    pub config: ClientConfig,
    /// What the client wants to know.
    pub asks: Ask,
    /// What the server sends, burst by burst.
    pub bursts: Vec<Vec<u8>>,
    /// What the client asks once connected.
    pub commands: Vec<Command>,
    /// Whether the client then says goodbye, before there is an answer.
    pub farewell: bool,
    /// What the server sends after that.
    pub replies: Vec<Vec<u8>>,
    /// Whether the server then closes.
    pub closes: bool,
    /// What the client owes its user.
    pub outcome: Outcome,
}

/// What a client wants to know of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The export.
    Export,
    /// Which exports there are.
    Exports,
    /// Which meta contexts there are.
    Contexts,
}

/// What a client owes its user.
#[derive(Debug)]
pub enum Outcome {
    /// Connecting fails with this error.
    Refuse(Error),
    /// Connecting is refused by the server with this code.
    RefusedWith(RefusalCode),
    /// Nothing but a deadline of the user ends it.
    Waits,
    /// The connection stands, and this holds of it.
    Connects(fn(&Negotiated) -> bool),
    /// So many names are told, then the option ends so.
    Lists(usize, Result<(), RefusalCode>),
    /// The commands end so and the connection lives.
    Lives(Vec<Answer>),
    /// The commands end so, and no other is accepted, but nothing is wrong.
    Leaves(Vec<Answer>),
    /// The connection dies of this; the commands end so.
    Dies(Error, Vec<Answer>),
}

/// How a command ends; `None` while it waits.
pub type Answer = Option<Result<(), CommandError>>;

/// Success.
pub const DONE_WELL: Answer = Some(Ok(()));
/// The connection went away under the command.
pub const LOST: Answer = Some(Err(CommandError::ConnectionLost));
/// The command still waits.
pub const WAITING: Answer = None;

/// The server said so.
pub const fn told(errno: Errno) -> Answer {
    Some(Err(CommandError::Server(errno)))
}

/// The reply was at fault.
pub const fn fault(fault: ReplyFault) -> Answer {
    Some(Err(CommandError::Fault(fault)))
}

/// Every case there is.
pub fn all() -> Vec<Case> {
    [
        greeting::cases(),
        greeting::option_cases(),
        go::cases(),
        contexts::meta_cases(),
        contexts::list_cases(),
        contexts::tls_cases(),
        simple::cases(),
        read::cases(),
        chunk::cases(),
        status::cases(),
        extended::cases(),
        goodbye::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn refuse(error: impl Into<Error>) -> Outcome {
    Outcome::Refuse(error.into())
}

/// The one command is lost with the connection.
fn dies(error: impl Into<Error>) -> Outcome {
    Outcome::Dies(error.into(), vec![LOST])
}

/// The one command fails with a fault; the connection lives.
fn spoilt(what: ReplyFault) -> Outcome {
    Outcome::Lives(vec![fault(what)])
}

/// The one command fails as the server said; the connection lives.
fn fails(errno: Errno) -> Outcome {
    Outcome::Lives(vec![told(errno)])
}

/// The one command succeeds.
fn succeeds() -> Outcome {
    Outcome::Lives(vec![DONE_WELL])
}

/// A client that asks for nothing but the export.
fn plain() -> ClientConfig {
    ClientConfig::new().structured_replies(false).extended_headers(false)
}

/// A case of connecting: the server sends `bursts` and stays.
fn connecting(id: &'static str, bursts: Vec<Vec<u8>>, outcome: Outcome) -> Case {
    Case {
        id,
        config: plain(),
        asks: Ask::Export,
        bursts,
        commands: Vec::new(),
        farewell: false,
        replies: Vec::new(),
        closes: false,
        outcome,
    }
}

/// A case of the data phase after a sound negotiation of this form.
fn talking(
    id: &'static str,
    form: Form,
    commands: &[Command],
    reply: Vec<u8>,
    outcome: Outcome,
) -> Case {
    Case {
        config: form.config(),
        bursts: form.bursts(),
        commands: commands.to_vec(),
        replies: vec![reply],
        ..connecting(id, Vec::new(), outcome)
    }
}

/// What was negotiated before a case of the data phase.
#[derive(Debug, Clone, Copy)]
enum Form {
    Simple,
    /// Structured replies and `base:allocation` as context 1.
    Structured,
    /// The same, and `x:y` as context 7.
    TwoContexts,
    /// Extended headers and `base:allocation` as context 1.
    Extended,
}

impl Form {
    fn config(self) -> ClientConfig {
        let structured = plain().structured_replies(true).meta_context("base:allocation");
        match self {
            Self::Simple => plain(),
            Self::Structured => structured,
            Self::TwoContexts => structured.meta_context("x:y"),
            Self::Extended => structured.extended_headers(true),
        }
    }

    fn bursts(self) -> Vec<Vec<u8>> {
        use bytes::{ack, context, granted, greeting, join, opt};
        let one = context(1, b"base:allocation");
        let end = ack(opt::SET_META_CONTEXT);
        match self {
            Self::Simple => vec![greeting(3), granted()],
            Self::Structured => {
                vec![greeting(3), ack(opt::STRUCTURED_REPLY), join(&[&one, &end]), granted()]
            }
            Self::TwoContexts => vec![
                greeting(3),
                ack(opt::STRUCTURED_REPLY),
                join(&[&one, &context(7, b"x:y"), &end]),
                granted(),
            ],
            Self::Extended => {
                vec![greeting(3), ack(opt::EXTENDED_HEADERS), join(&[&one, &end]), granted()]
            }
        }
    }
}

impl Case {
    /// The server closes after its last burst.
    const fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    fn with(mut self, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Self {
        self.config = change(self.config);
        self
    }
}
