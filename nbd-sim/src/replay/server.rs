//! A recorded client, played to our server.

use nbd_proto::{
    Buffers, Command, CommandType, Discard, Errno, Error, ExportEntry, ExportInfo, Extent,
    HandshakeFlags, Machine, Question, RefusalCode, RequestId, Server, ServerConfig, ServerEvent,
    ServerNegotiation, ServerPhase, TlsPolicy, TransmissionFlags,
};

use super::Harm;
use crate::arrivals::Arrivals;
use crate::delivery::Delivery;
use crate::oracle::{Message, Oracle, OracleError, Outcome, Style, Summary, Tls};
use crate::transcript::{Side, Transcript};

/// Bytes of the disk behind the server; recorded exports are larger only in name.
const DISK: usize = 1 << 20;

/// A session to be played to our server.
#[derive(Debug, Clone)]
pub struct ServerScript {
    bursts: Vec<Vec<u8>>,
    config: ServerConfig,
    oldstyle: bool,
    export: ExportInfo,
}

/// Everything our server did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTrace {
    /// The oracle's word on the session with our server's answers.
    pub summary: Summary,
    /// Each request and its outcome, in the order in which they were sent.
    pub outcomes: Vec<Outcome>,
    /// The disk at the end.
    pub disk: Vec<u8>,
    /// How it ended.
    pub end: Option<Error>,
}

impl ServerScript {
    /// Prepares a recorded session.
    ///
    /// # Errors
    /// When the oracle does not accept it.
    pub fn new(transcript: &Transcript) -> Result<Self, OracleError> {
        let oracle = Oracle::follow(transcript)?;
        let summary = oracle.summary();
        let offered = oracle.messages().iter().find_map(|message| match message {
            Message::Greeting { flags } => Some(HandshakeFlags::from_bits_truncate(*flags)),
            _ => None,
        });
        let tls = if summary.tls == Tls::Started { TlsPolicy::Allow } else { TlsPolicy::Disable };
        let config = ServerConfig::new()
            .structured_replies(summary.structured || summary.extended)
            .extended_headers(summary.extended)
            .handshake_flags(offered.unwrap_or_default())
            .tls(tls);
        let flags = TransmissionFlags::from_bits_retain(summary.flags.unwrap_or(1));
        let mut bursts: Vec<Vec<u8>> = Vec::new();
        let mut last = Side::Server;
        for (side, bytes) in &transcript.bursts {
            match (side, bursts.last_mut()) {
                (Side::Server, _) => {}
                (Side::Client, Some(burst)) if last == Side::Client => burst.extend(bytes),
                (Side::Client, _) => bursts.push(bytes.clone()),
            }
            last = *side;
        }
        Ok(Self {
            bursts,
            config,
            oldstyle: summary.style == Some(Style::Oldstyle),
            export: ExportInfo::new(summary.size.unwrap_or(0).min(DISK as u64), flags),
        })
    }

    /// How many bytes the client sends.
    pub fn client_bytes(&self) -> usize {
        self.bursts.iter().map(Vec::len).sum()
    }

    /// Plays the session; the client's bytes are cut at `cut` as well.
    ///
    /// # Panics
    /// When the oracle does not accept it.
    pub fn play(&self, delivery: Delivery, cut: Option<usize>) -> ServerTrace {
        let (player, result) = self.perform(delivery, cut, Some(Oracle::new()));
        player.finish(result)
    }

    /// Plays a session that nobody judges, with bytes that may have been changed.
    /// Returns how it ended.
    pub fn play_unjudged(&self) -> Option<Error> {
        let (mut player, result) = self.perform(Delivery::Whole, None, None);
        result.and_then(|()| player.end()).err()
    }

    fn perform(
        &self,
        delivery: Delivery,
        cut: Option<usize>,
        oracle: Option<Oracle>,
    ) -> (Player, Result<(), Error>) {
        let negotiation = if self.oldstyle {
            ServerNegotiation::oldstyle(self.config.clone(), self.export.clone())
        } else {
            ServerNegotiation::new(self.config.clone())
        };
        let mut player = Player {
            life: Life::Haggling(Box::new(negotiation)),
            export: self.export.clone(),
            memory: Buffers::new(),
            disk: vec![7; DISK],
            early: Vec::new(),
            oracle,
        };
        let mut before = 0;
        let mut result = player.work();
        for burst in &self.bursts {
            let at = cut.and_then(|cut| cut.checked_sub(before));
            before += burst.len();
            let (first, second) = burst.split_at(at.unwrap_or(0).min(burst.len()));
            for part in [first, second] {
                result = result.and_then(|()| player.arrive(part, delivery));
            }
        }
        (player, result)
    }
}

impl Harm for ServerScript {
    fn bursts(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        self.bursts.iter_mut()
    }
}

enum Life {
    Haggling(Box<ServerNegotiation>),
    Serving(Box<Server>),
    Over,
}

struct Player {
    life: Life,
    export: ExportInfo,
    /// Payload of requests in work, both ways.
    memory: Buffers<Vec<u8>>,
    disk: Vec<u8>,
    early: Vec<u8>,
    oracle: Option<Oracle>,
}

impl Player {
    fn arrive(&mut self, bytes: &[u8], delivery: Delivery) -> Result<(), Error> {
        if let Some(oracle) = &mut self.oracle {
            oracle.client_bytes(bytes).expect("the recorded client is sound");
        }
        let mut bytes = [std::mem::take(&mut self.early), bytes.to_vec()].concat();
        while !bytes.is_empty() {
            let taken = match &mut self.life {
                Life::Haggling(negotiation) => {
                    delivery.deliver(&mut **negotiation, &mut Discard, &bytes)?
                }
                Life::Serving(server) => {
                    delivery.deliver(&mut **server, &mut Arrivals(&mut self.memory), &bytes)?
                }
                Life::Over => bytes.len(),
            };
            bytes.drain(..taken);
            self.work()?;
            if taken == 0 {
                break;
            }
        }
        self.early = bytes;
        Ok(())
    }

    /// Does what the machine waits for, until it waits for the client.
    fn work(&mut self) -> Result<(), Error> {
        loop {
            let mut sent = Vec::new();
            let again = match &mut self.life {
                Life::Haggling(negotiation) => {
                    let answered = answer(negotiation, &self.export)?;
                    negotiation.drain(&mut sent, &Discard)?;
                    if negotiation.phase() == ServerPhase::StartTls {
                        negotiation.tls_ready()?;
                    }
                    answered
                }
                Life::Serving(server) => {
                    let served = serve(server, &mut self.memory, &mut self.disk);
                    server.drain(&mut sent, &self.memory)?;
                    served
                }
                Life::Over => false,
            };
            if let Some(oracle) = &mut self.oracle {
                let judged = oracle.server_bytes(&sent);
                judged.unwrap_or_else(|error| panic!("our server: {error}"));
            }
            let more = self.settle()?;
            if !again && !more {
                return Ok(());
            }
        }
    }

    /// From the negotiation to the data phase; parses what has been held back.
    fn settle(&mut self) -> Result<bool, Error> {
        match std::mem::replace(&mut self.life, Life::Over) {
            Life::Haggling(mut negotiation) => {
                if negotiation.phase() == ServerPhase::Established {
                    let server = negotiation.finish().expect("everything is sent");
                    self.life = Life::Serving(Box::new(server));
                    return Ok(true);
                }
                let more = negotiation.has_buffered();
                let result = negotiation.received(0, &mut Discard);
                self.life = Life::Haggling(negotiation);
                result.map(|()| more)
            }
            Life::Serving(mut server) => {
                let more = server.has_buffered();
                let result = server.received(0, &mut Arrivals(&mut self.memory));
                self.life = Life::Serving(server);
                result.map(|()| more)
            }
            Life::Over => Ok(false),
        }
    }

    /// The client has left.
    fn end(&mut self) -> Result<(), Error> {
        match &mut self.life {
            Life::Haggling(negotiation) if negotiation.phase() != ServerPhase::Closed => {
                // Many a client leaves without a word.
                match negotiation.eof() {
                    Err(Error::Misbehaved(nbd_proto::PeerMisbehaved::Closed)) => Ok(()),
                    other => other,
                }
            }
            Life::Serving(server) => server.eof(),
            Life::Haggling(_) | Life::Over => Ok(()),
        }
    }

    fn finish(mut self, result: Result<(), Error>) -> ServerTrace {
        let ended = self.end();
        let mut oracle = self.oracle.expect("the session is judged");
        let summary = oracle.finish().expect("whole messages").clone();
        ServerTrace {
            outcomes: summary.requests.iter().map(|exchange| exchange.outcome.clone()).collect(),
            summary,
            disk: self.disk,
            end: result.and(ended).err(),
        }
    }
}

/// Answers a question; returns whether there was one.
fn answer(negotiation: &mut ServerNegotiation, export: &ExportInfo) -> Result<bool, Error> {
    let Some(question) = negotiation.question().cloned() else {
        return Ok(false);
    };
    match question {
        Question::List => {
            negotiation.send_export(&ExportEntry {
                name: "disk".to_owned(),
                description: String::new(),
            })?;
            negotiation.acknowledge()?;
        }
        Question::Info(request) if request.export == "bad" => {
            negotiation.refuse(RefusalCode::UnknownExport, "no such export")?;
        }
        Question::Info(_) | Question::Go(_) | Question::ExportName(_) => {
            negotiation.describe(export.clone())?;
        }
        Question::ListMetaContext(request) | Question::SetMetaContext(request) => {
            for query in request.queries.iter().filter(|query| !query.ends_with(':')) {
                negotiation.send_context(query)?;
            }
            negotiation.acknowledge()?;
        }
    }
    Ok(true)
}

/// Answers every request that has arrived; returns whether there was one.
fn serve(server: &mut Server, memory: &mut Buffers<Vec<u8>>, disk: &mut [u8]) -> bool {
    let mut any = false;
    while let Some(event) = server.poll_event() {
        any = true;
        match event {
            ServerEvent::Request { id, command } => {
                perform(server, id, command, memory, disk).expect("a fitting answer");
            }
            ServerEvent::Replied { id } => {
                memory.remove(id);
            }
            ServerEvent::Disconnected { .. } => return false,
        }
    }
    any
}

fn perform(
    server: &mut Server,
    id: RequestId,
    command: Command,
    memory: &mut Buffers<Vec<u8>>,
    disk: &mut [u8],
) -> Result<(), nbd_proto::ApiMisuse> {
    let start = command.offset as usize;
    let range = start..start + command.length as usize;
    let Some(area) = disk.get_mut(range) else {
        return server.reply_error(id, Errno::Io, "beyond the disk");
    };
    match command.kind {
        CommandType::Read => {
            memory.insert(id, area.to_vec());
            server.reply_data(id)
        }
        CommandType::BlockStatus => {
            let extent = Extent { length: command.length, status: 0 };
            for context in server.contexts(id) {
                server.send_extents(id, context, &[extent], false)?;
            }
            server.end_reply(id)
        }
        CommandType::Write => {
            area.copy_from_slice(&memory.remove(id).unwrap_or_default());
            server.reply(id, Ok(()))
        }
        CommandType::WriteZeroes => {
            area.fill(0);
            server.reply(id, Ok(()))
        }
        CommandType::Trim | CommandType::Flush | CommandType::Cache => server.reply(id, Ok(())),
    }
}
