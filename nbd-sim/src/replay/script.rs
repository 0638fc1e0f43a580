//! What the recorded client asked, and the server's bytes with our cookies in them.

use std::collections::BTreeMap;

use nbd_proto::{ClientConfig, Command, CommandFlags, CommandType, ContextId, HandshakeFlags};

use super::Harm;
use crate::hostile::bytes::{cookie, opt};
use crate::oracle::{self, Message, OptionData, Oracle, OracleError, Summary};
use crate::transcript::{Side, Transcript};

/// One thing the recorded client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sent an option that has no data.
    Option(u32),
    /// Asked about an export, or chose it.
    Export {
        /// It chose it.
        go: bool,
        /// Its name.
        name: String,
        /// It asked for block sizes.
        block_sizes: bool,
        /// It asked for name and description.
        full_info: bool,
    },
    /// Listed or selected meta contexts.
    Contexts {
        /// It selected them.
        set: bool,
        /// The export's name.
        name: String,
        /// The queries.
        queries: Vec<String>,
    },
    /// Submitted a command, with these contexts if it chose some.
    Submit(Command, Vec<ContextId>, Vec<u8>),
    /// Disconnected.
    Disconnect,
}

/// A step of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The client does something.
    Act(Action),
    /// The server's bytes arrive.
    Arrive(Vec<u8>),
}

/// A session to be played to our client.
#[derive(Debug, Clone)]
pub struct ClientScript {
    /// How our client must be configured to act like the recorded one.
    pub config: ClientConfig,
    /// What happens, in order.
    pub items: Vec<Item>,
    /// What the oracle says about the recorded session.
    pub summary: Summary,
}

impl ClientScript {
    /// Prepares a recorded session.
    ///
    /// # Errors
    /// When the oracle does not accept it.
    pub fn new(transcript: &Transcript) -> Result<Self, OracleError> {
        let mut oracle = Oracle::new();
        let mut items = Vec::new();
        let mut rewriter = Rewriter::default();
        let mut offered = HandshakeFlags::all();
        let options = options_of(&Oracle::follow(transcript)?);
        if options.first() == Some(&opt::EXPORT_NAME) {
            // Ours chooses like this only where it can do no other.
            offered.remove(HandshakeFlags::FIXED_NEWSTYLE);
        }
        for (side, bytes) in &transcript.bursts {
            let before = oracle.messages().len();
            match side {
                Side::Client => oracle.client_bytes(bytes)?,
                Side::Server => oracle.server_bytes(bytes)?,
            }
            let new = &oracle.messages()[before..];
            match side {
                Side::Client => {
                    for message in new {
                        if let Message::ClientFlags { flags } = message {
                            let sent = HandshakeFlags::from_bits_truncate(*flags as u16);
                            offered &= sent;
                        }
                        rewriter.note(message);
                        items.extend(action(message).map(Item::Act));
                    }
                }
                Side::Server => items.push(Item::Arrive(rewriter.rewrite(bytes, new))),
            }
        }
        let config = ClientConfig::new()
            .structured_replies(false)
            .extended_headers(false)
            .request_meta_contexts(false)
            .option_mode(true)
            .handshake_flags(offered);
        Ok(Self { config, items, summary: oracle.summary().clone() })
    }

    /// How many bytes the server sends.
    pub fn server_bytes(&self) -> usize {
        let arrive = |item: &Item| match item {
            Item::Arrive(bytes) => bytes.len(),
            Item::Act(_) => 0,
        };
        self.items.iter().map(arrive).sum()
    }
}

impl Harm for ClientScript {
    fn bursts(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        self.items.iter_mut().filter_map(|item| match item {
            Item::Arrive(bytes) => Some(bytes),
            Item::Act(_) => None,
        })
    }
}

fn options_of(oracle: &Oracle) -> Vec<u32> {
    let options = oracle.messages().iter().filter_map(|message| match message {
        Message::Option { option, .. } => Some(*option),
        _ => None,
    });
    options.collect()
}

fn action(message: &Message) -> Option<Action> {
    match message {
        Message::Option { option, data } => Some(match data {
            OptionData::Export { name, requests } => Action::Export {
                go: *option == opt::GO,
                name: name.clone(),
                block_sizes: requests.contains(&3),
                full_info: requests.contains(&1),
            },
            OptionData::ExportName(name) => Action::Export {
                go: true,
                name: name.clone(),
                block_sizes: false,
                full_info: false,
            },
            OptionData::Contexts { name, queries } => Action::Contexts {
                set: *option == opt::SET_META_CONTEXT,
                name: name.clone(),
                queries: queries.clone(),
            },
            OptionData::None | OptionData::Raw(_) => Action::Option(*option),
        }),
        Message::Request(request) if request.command == oracle::Command::Disconnect => {
            Some(Action::Disconnect)
        }
        Message::Request(request) => Some(submission(request)),
        _ => None,
    }
}

fn submission(request: &oracle::Request) -> Action {
    let kind = match request.command {
        oracle::Command::Write => CommandType::Write,
        oracle::Command::Flush => CommandType::Flush,
        oracle::Command::Trim => CommandType::Trim,
        oracle::Command::Cache => CommandType::Cache,
        oracle::Command::WriteZeroes => CommandType::WriteZeroes,
        oracle::Command::BlockStatus => CommandType::BlockStatus,
        oracle::Command::Read | oracle::Command::Disconnect | oracle::Command::Other(_) => {
            CommandType::Read
        }
    };
    let mut command = Command {
        kind,
        flags: CommandFlags::from_bits_retain(request.flags).difference(CommandFlags::PAYLOAD_LEN),
        offset: request.offset,
        length: request.length,
    };
    let mut contexts = Vec::new();
    if kind == CommandType::BlockStatus
        && let Some((effect, ids)) = request.payload.split_first_chunk()
    {
        command.length = u64::from_be_bytes(*effect);
        let ids = ids.as_chunks().0.iter();
        contexts.extend(ids.map(|id| ContextId(u32::from_be_bytes(*id))));
    }
    Action::Submit(command, contexts, request.payload.clone())
}

/// Puts our client's cookies in the place of the recorded ones. The `n`th command of
/// a client that takes no completion before the end gets a slot of its own.
#[derive(Debug, Default)]
struct Rewriter {
    /// Ours, by theirs.
    cookies: BTreeMap<u64, u64>,
    requests: u64,
    /// What is left of the last message of the burst before.
    rest: Vec<u8>,
}

impl Rewriter {
    fn note(&mut self, message: &Message) {
        if let Message::Request(request) = message
            && request.command != oracle::Command::Disconnect
        {
            // A client may use a cookie again once it is answered.
            self.cookies.insert(request.cookie, cookie(self.requests));
            self.requests += 1;
        }
    }

    /// Every reply has its cookie at byte 8. A burst ends with a whole message, which
    /// all recorded ones do; what is not is held back until it is.
    fn rewrite(&mut self, bytes: &[u8], messages: &[Message]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        for message in messages {
            let (length, theirs) = match message {
                Message::SimpleReply { cookie, data, .. } => (16 + data.len(), cookie),
                Message::Chunk { cookie, offset, .. } => {
                    let (header, field) = if offset.is_some() { (32, 8) } else { (20, 4) };
                    let length = &self.rest[header - field..header];
                    let body =
                        length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
                    (header + body, cookie)
                }
                // The negotiation has no cookies.
                _ => return std::mem::take(&mut self.rest),
            };
            let mut reply: Vec<u8> = self.rest.drain(..length).collect();
            let ours = self.cookies.get(theirs).copied().unwrap_or_default();
            reply[8..16].copy_from_slice(&ours.to_be_bytes());
            out.extend(reply);
        }
        out
    }
}
