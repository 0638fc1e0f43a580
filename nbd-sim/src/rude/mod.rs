//! Clients that break rules, as data: what each one says, and what a server owes them
//! and everybody else.
//!
//! A [`Case`] is a script of bursts and what the server has to answer, word by word.
//! [`Case::play`] says it to the machines in memory, [`Case::perform`] to a server
//! behind a socket, which must serve [`SIZE`] bytes.
//!
//! | file | cases |
//! |---|---|
//! | `haggling` | greetings and options |
//! | `requests` | requests of the data phase |
//! | `extended` | requests with extended headers |
//! | `says` | the messages, unchecked |
//! | `word` | what a server answers, as far as a client may rely on it |
//! | `host` | a server in memory |
//! | `visit` | a script over a socket |

mod extended;
mod haggling;
mod host;
mod requests;
pub mod says;
mod visit;
mod word;

use nbd_proto::Error;

use crate::hostile::bytes::{opt, rep};
use says::{export_name, flags, go, option, set_context};

pub use host::Heard;
pub use visit::{Visit, Wire};
pub use word::Word;

/// Size of the export: the largest request fits into it.
pub const SIZE: u64 = 1 << 40;

/// One client that breaks rules, or does something that looks as if.
#[derive(Debug)]
pub struct Case {
    /// Its name in the table.
    pub id: &'static str,
    /// Whether the export refuses changes.
    pub read_only: bool,
    /// What the client says, burst by burst.
    pub says: Vec<Vec<u8>>,
    /// Whether it then says nothing more for good.
    pub closes: bool,
    /// What the server answers, behind its greeting.
    pub hears: Vec<Word>,
    /// What becomes of the connection.
    pub end: End,
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It lives, and the next option is answered.
    Haggles,
    /// It lives, and the next request is answered.
    Lives,
    /// It ends, and the server blames nobody.
    Leaves,
    /// It ends, and the server blames the client.
    Dies(Error),
}

/// Every case there is.
#[must_use]
pub fn all() -> Vec<Case> {
    [haggling::cases(), requests::cases(), extended::cases()].into_iter().flatten().collect()
}

/// A case of the negotiation, from the client flags on.
fn haggling(id: &'static str, says: &[&[u8]], hears: &[Word], end: End) -> Case {
    Case {
        id,
        read_only: false,
        says: says.iter().map(|burst| burst.to_vec()).collect(),
        closes: false,
        hears: hears.to_vec(),
        end,
    }
}

/// A case of the data phase.
fn talking(id: &'static str, form: Form, says: &[&[u8]], hears: &[Word], end: End) -> Case {
    let case = haggling(id, says, hears, end);
    Case {
        says: [form.says(), case.says].concat(),
        hears: [form.hears(), case.hears].concat(),
        ..case
    }
}

/// What was negotiated before a case of the data phase.
#[derive(Debug, Clone, Copy)]
enum Form {
    Simple,
    Structured,
    Extended,
}

impl Form {
    fn says(self) -> Vec<Vec<u8>> {
        match self {
            Self::Simple => vec![flags(), export_name(b"")],
            Self::Structured => {
                vec![flags(), option(opt::STRUCTURED_REPLY, &[]), set_context(), go(b"")]
            }
            Self::Extended => {
                vec![flags(), option(opt::EXTENDED_HEADERS, &[]), set_context(), go(b"")]
            }
        }
    }

    fn hears(self) -> Vec<Word> {
        let first = match self {
            Self::Simple => return vec![Word::Export],
            Self::Structured => opt::STRUCTURED_REPLY,
            Self::Extended => opt::EXTENDED_HEADERS,
        };
        let granted = [Word::Option(opt::GO, rep::INFO), Word::Option(opt::GO, rep::ACK)];
        let context = opt::SET_META_CONTEXT;
        let chosen = [Word::Option(context, rep::META_CONTEXT), Word::Option(context, rep::ACK)];
        [&[Word::Option(first, rep::ACK)], &chosen[..], &granted].concat()
    }
}

impl Case {
    /// The client says nothing more.
    const fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The same client, which has gone after so many bytes.
    #[must_use]
    pub fn cut(&self, mut length: usize) -> Self {
        let mut says = self.says.clone();
        for burst in &mut says {
            burst.truncate(length);
            length -= burst.len();
        }
        let hears = self.hears.clone();
        Self { says, hears, closes: true, end: End::Leaves, ..*self }
    }

    /// Bytes of the whole script.
    #[must_use]
    pub fn len(&self) -> usize {
        self.says.iter().map(Vec::len).sum()
    }

    /// Whether the client says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the client asks to see whether the connection lives, and the answer.
    fn question(&self) -> Option<(Vec<u8>, Vec<Word>)> {
        match self.end {
            End::Haggles => {
                let list = option(opt::LIST, &[]);
                let answer = [rep::SERVER, rep::ACK].map(|kind| Word::Option(opt::LIST, kind));
                Some((list, answer.to_vec()))
            }
            End::Lives => {
                let extended = self.hears.contains(&Word::Option(opt::EXTENDED_HEADERS, rep::ACK));
                let flush = says::request(extended, 0, says::FLUSH, says::COOKIE + 1, 0, 0);
                Some((flush, vec![Word::Reply(says::COOKIE + 1, 0)]))
            }
            End::Leaves | End::Dies(_) => None,
        }
    }
}
