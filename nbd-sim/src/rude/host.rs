//! A server in memory: both machines, and an export of zeroes that throws away what is
//! written.

use nbd_proto::wire::option::ExportEntry;
use nbd_proto::{
    CommandType, Discard, Error, ExportInfo, Machine, PayloadSink, Question, RequestId, Server,
    ServerConfig, ServerEvent, ServerNegotiation, ServerPhase, TransmissionFlags, part_mut,
};

use super::{Case, SIZE, Word};
use crate::delivery::Delivery;

/// What a server in memory made of a script.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// What it answered, behind its greeting.
    pub words: Vec<Word>,
    /// What ended the connection before its time.
    pub error: Option<Error>,
    /// It wants nothing more of this client.
    pub closed: bool,
    /// The client's last question was answered.
    pub lives: bool,
}

/// A server at work.
struct Host {
    stage: Stage,
    read_only: bool,
    sent: Vec<u8>,
    error: Option<Error>,
}

enum Stage {
    Haggling(Box<ServerNegotiation>),
    Serving(Box<Server>),
    Over,
}

/// Memory for any write that a request of [`all`](super::all) completes.
struct Memory(Vec<u8>);

impl PayloadSink for Memory {
    fn region(&mut self, _id: RequestId, at: usize, len: usize) -> &mut [u8] {
        part_mut(&mut self.0, at, len)
    }
}

impl Case {
    /// Says the script to a server in memory.
    ///
    /// # Panics
    /// When the server sends what is no message.
    #[must_use]
    pub fn play(&self, delivery: Delivery) -> Heard {
        let mut host = Host::new(self.read_only);
        self.says.iter().for_each(|burst| host.hear(burst, delivery));
        let before = host.words();
        let mut lives = false;
        if let Some((question, answer)) = self.question() {
            host.hear(&question, delivery);
            lives = host.words().split_off(before.len()) == answer;
        }
        if self.closes {
            host.eof();
        }
        let closed = matches!(host.stage, Stage::Over);
        Heard { words: before, error: host.error, closed, lives }
    }
}

impl Host {
    fn new(read_only: bool) -> Self {
        let negotiation = ServerNegotiation::new(ServerConfig::new());
        Self {
            stage: Stage::Haggling(Box::new(negotiation)),
            read_only,
            sent: Vec::new(),
            error: None,
        }
    }

    /// What was sent behind the greeting.
    fn words(&self) -> Vec<Word> {
        let mut rest = self.sent.get(18..).unwrap_or_default();
        let mut words = Vec::new();
        while let Some(word) = Word::read(&mut rest).expect("a server sends messages") {
            words.push(word);
        }
        words
    }

    fn hear(&mut self, burst: &[u8], delivery: Delivery) {
        let mut rest = burst.to_vec();
        while let Some(taken) = self.turn(&rest, delivery) {
            rest.drain(..taken);
        }
    }

    /// Takes some bytes; returns how many while there is something to do.
    fn turn(&mut self, bytes: &[u8], delivery: Delivery) -> Option<usize> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Haggling(machine) => self.haggle(machine, bytes, delivery),
            Stage::Serving(machine) => self.serve(machine, bytes, delivery),
            Stage::Over => None,
        }
    }

    fn haggle(
        &mut self,
        mut machine: Box<ServerNegotiation>,
        bytes: &[u8],
        delivery: Delivery,
    ) -> Option<usize> {
        machine.drain(&mut self.sent, &Discard).expect("no payload");
        let delivered = delivery.deliver(&mut *machine, &mut Discard, bytes);
        machine.drain(&mut self.sent, &Discard).expect("no payload");
        match delivered {
            Ok(taken) => {
                if machine.phase() == ServerPhase::Established {
                    let server = machine.finish().expect("it is established");
                    self.stage = Stage::Serving(Box::new(server));
                    return Some(taken);
                }
                let asked = self.answer(&mut machine);
                machine.drain(&mut self.sent, &Discard).expect("no payload");
                let goes_on = asked || taken > 0;
                if machine.phase() != ServerPhase::Closed {
                    self.stage = Stage::Haggling(machine);
                }
                goes_on.then_some(taken)
            }
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }

    /// Answers as the owner of one nameless export.
    fn answer(&self, machine: &mut ServerNegotiation) -> bool {
        let Some(question) = machine.question().cloned() else {
            return false;
        };
        let name = match &question {
            Question::List => "",
            Question::Info(request) | Question::Go(request) => &request.export,
            Question::ExportName(name) => name,
            Question::ListMetaContext(request) | Question::SetMetaContext(request) => {
                &request.export
            }
        };
        if !name.is_empty() {
            let unknown = nbd_proto::RefusalCode::UnknownExport;
            machine.refuse(unknown, "no").expect("a question");
            return true;
        }
        match question {
            Question::List => {
                let entry = ExportEntry { name: String::new(), description: String::new() };
                machine.send_export(&entry).expect("a list");
                machine.acknowledge().expect("a list");
            }
            Question::Info(_) | Question::Go(_) | Question::ExportName(_) => {
                machine.describe(self.export()).expect("an export");
            }
            Question::ListMetaContext(request) | Question::SetMetaContext(request) => {
                if request.queries.iter().any(|query| query == "base:allocation") {
                    machine.send_context("base:allocation").expect("contexts");
                }
                machine.acknowledge().expect("contexts");
            }
        }
        true
    }

    /// What `nbd serve` offers of an export in memory.
    fn export(&self) -> ExportInfo {
        use TransmissionFlags as Flag;
        let always = Flag::SEND_FLUSH
            | Flag::SEND_FUA
            | Flag::SEND_DF
            | Flag::CAN_MULTI_CONN
            | Flag::BLOCK_STATUS_PAYLOAD;
        let changes = Flag::SEND_WRITE_ZEROES | Flag::SEND_TRIM | Flag::SEND_FAST_ZERO;
        ExportInfo::new(SIZE, always | if self.read_only { Flag::READ_ONLY } else { changes })
    }

    fn serve(
        &mut self,
        mut server: Box<Server>,
        bytes: &[u8],
        delivery: Delivery,
    ) -> Option<usize> {
        let mut memory = Memory(vec![0; 64 << 10]);
        let delivered = if bytes.is_empty() && server.has_buffered() {
            server.received(0, &mut memory).map(|()| 0)
        } else {
            delivery.deliver(&mut *server, &mut memory, bytes)
        };
        let mut answered = false;
        loop {
            while let Some(event) = server.poll_event() {
                match event {
                    ServerEvent::Request { id, command } => {
                        answered = true;
                        assert_ne!(command.kind, CommandType::Read, "none of the reads is sound");
                        server.reply(id, Ok(())).expect("a request");
                    }
                    ServerEvent::Replied { .. } => {}
                    ServerEvent::Disconnected { error } => self.error = error,
                }
            }
            if server.drain(&mut self.sent, &Discard).expect("no payload") == 0 {
                break;
            }
        }
        let goes_on = match delivered {
            Ok(taken) if !server.is_closed() => {
                let more = answered || taken > 0 || server.has_buffered();
                more.then_some(taken)
            }
            Ok(_) => None,
            Err(error) => {
                self.error = Some(error);
                None
            }
        };
        if self.error.is_none() && !server.is_closed() {
            self.stage = Stage::Serving(server);
        }
        goes_on
    }

    fn eof(&mut self) {
        let ended = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Haggling(mut machine) => machine.eof(),
            Stage::Serving(mut server) => server.eof(),
            Stage::Over => Ok(()),
        };
        self.error = self.error.take().or_else(|| ended.err());
    }
}
