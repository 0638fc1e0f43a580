//! A client and a server in memory, with TLS between them.

use nbd_proto::io::IoMode;
use nbd_proto::{
    Buffers, Client, ClientConfig, Command, CommandType, Direction, Discard, Disconnect, Event,
    ExportInfo, Machine, PayloadSink, Phase, Question, Server, ServerConfig, ServerEvent,
    ServerNegotiation, ServerPhase, TlsPolicy, TransmissionFlags,
};
use nbd_session::{Handshake, Link, LinkError};
use nbd_sim::peer::pki::Pki;
use nbd_sim::pipe::{End, Schedule, pipe};
use nbd_sim::rng::Rng;
use nbd_sim::trouble::{Trouble, Troubled};
use nbd_transport::tls::{TlsAcceptor, TlsConfig, TlsConnector, TlsServerConfig};

const SIZE: usize = 1 << 20;

/// Far more turns than any run takes.
const TURNS: usize = 2_000_000;

/// A server over RAM, at one end of a pipe.
pub(crate) struct Served {
    machine: Stage,
    pub(crate) link: Link,
    end: End,
    acceptor: TlsAcceptor,
    disk: Vec<u8>,
    buffers: Buffers<Vec<u8>>,
}

enum Stage {
    Negotiating(Box<ServerNegotiation>),
    Serving(Box<Server>),
    Over,
}

impl Served {
    pub(crate) fn new(end: End, acceptor: TlsAcceptor) -> Self {
        let config = ServerConfig::new().tls(TlsPolicy::Require);
        Self {
            machine: Stage::Negotiating(Box::new(ServerNegotiation::new(config))),
            link: Link::plain(),
            end,
            acceptor,
            disk: vec![0; SIZE],
            buffers: Buffers::new(),
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.machine, Stage::Over)
    }

    pub(crate) fn turn(&mut self) -> Result<(), LinkError> {
        match std::mem::replace(&mut self.machine, Stage::Over) {
            Stage::Negotiating(machine) => self.negotiate(machine),
            Stage::Serving(machine) => self.serve(machine),
            Stage::Over => Ok(()),
        }
    }

    /// A turn beside a client whose stream may have left it.
    fn turn_beside(&mut self, trouble: &Trouble) -> Result<(), Failed> {
        if trouble.has_broken() {
            self.end.close();
        }
        match self.turn() {
            Err(error) if !trouble.has_struck() => Err(Failed::Server(error)),
            _ => Ok(()),
        }
    }

    fn negotiate(&mut self, mut machine: Box<ServerNegotiation>) -> Result<(), LinkError> {
        move_bytes(&mut self.link, &mut *machine, &mut self.end, &mut Discard)?;
        if self.link.direction(&*machine).contains(Direction::WRITE) {
            self.machine = Stage::Negotiating(machine);
            return Ok(());
        }
        match machine.phase() {
            ServerPhase::StartTls if self.link.is_handshaking() => {}
            ServerPhase::StartTls if self.link.is_tls() => machine.tls_ready()?,
            ServerPhase::StartTls => self.link.start_tls(self.acceptor.start()?),
            ServerPhase::Question => {
                if let Some(Question::Go(_)) = machine.question() {
                    let export = ExportInfo::new(SIZE as u64, TransmissionFlags::SEND_FLUSH);
                    machine.describe(export).expect("an export is the question");
                } else {
                    machine.acknowledge().expect("a list is the question");
                }
            }
            ServerPhase::Established => {
                let server = machine.finish().expect("it is established");
                self.machine = Stage::Serving(Box::new(server));
                return Ok(());
            }
            ServerPhase::Busy => {}
            ServerPhase::Closed => return Ok(()),
        }
        self.machine = Stage::Negotiating(machine);
        Ok(())
    }

    fn serve(&mut self, mut server: Box<Server>) -> Result<(), LinkError> {
        let Self { link, end, buffers, .. } = self;
        let mut sink = Allocating(buffers);
        while link.direction(&*server).contains(Direction::WRITE) {
            let before = server.stats().bytes_sent;
            link.write(&mut *server, end, &*sink.0, IoMode::Vectored)?;
            if server.stats().bytes_sent == before {
                break;
            }
        }
        if link.direction(&*server).contains(Direction::READ) {
            link.read(&mut *server, end, &mut sink, IoMode::Vectored)?;
        }
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Request { id, command } => {
                    let at = command.offset as usize;
                    let range = at..at + command.length as usize;
                    match command.kind {
                        CommandType::Read => {
                            self.buffers.insert(id, self.disk[range].to_vec());
                            server.reply_data(id).expect("a read is answered");
                        }
                        CommandType::Write => {
                            let data = self.buffers.get(id).expect("it has arrived");
                            self.disk[range].copy_from_slice(data);
                            server.reply(id, Ok(())).expect("a write is answered");
                        }
                        kind => panic!("{kind:?} was never sent"),
                    }
                }
                ServerEvent::Replied { id } => {
                    self.buffers.remove(id);
                }
                ServerEvent::Disconnected { error } => {
                    assert_eq!(error, None);
                    self.end.close();
                    return Ok(());
                }
            }
        }
        self.machine = Stage::Serving(server);
        Ok(())
    }
}

/// Memory for writes, on demand.
struct Allocating<'a>(&'a mut Buffers<Vec<u8>>);

impl PayloadSink for Allocating<'_> {
    fn region(&mut self, id: nbd_proto::RequestId, at: usize, len: usize) -> &mut [u8] {
        if at == 0 && self.0.get(id).is_none() {
            self.0.insert(id, vec![0; len]);
        }
        self.0.region(id, at, len)
    }
}

/// Writes what is due and reads once.
fn move_bytes<M: Machine, S: PayloadSink>(
    link: &mut Link,
    machine: &mut M,
    end: &mut End,
    sink: &mut S,
) -> Result<(), LinkError> {
    if link.direction(machine).contains(Direction::WRITE) {
        link.write(machine, end, &Discard, IoMode::Vectored)?;
    }
    if link.direction(machine).contains(Direction::READ) {
        link.read(machine, end, sink, IoMode::Vectored)?;
    }
    Ok(())
}

/// What one run was made of.
pub(crate) struct Run {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    seed: u64,
    pub(crate) to_server: Schedule,
    pub(crate) to_client: Schedule,
    /// What the client's stream is up to.
    pub(crate) trouble: Trouble,
}

/// Why a run did not go to its end.
#[derive(Debug)]
pub(crate) enum Failed {
    Client(LinkError),
    Server(LinkError),
    Stuck,
}

impl Run {
    pub(crate) fn new(acceptor: &TlsAcceptor, connector: &TlsConnector, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            connector: connector.clone(),
            acceptor: acceptor.clone(),
            seed,
            to_server: Schedule::random(&mut rng),
            to_client: Schedule::random(&mut rng),
            trouble: Trouble::none(),
        }
    }

    pub(crate) fn smooth(acceptor: &TlsAcceptor, connector: &TlsConnector) -> Self {
        Self {
            to_server: Schedule::SMOOTH,
            to_client: Schedule::SMOOTH,
            ..Self::new(acceptor, connector, 1)
        }
    }

    /// Negotiates, then writes and reads all over the disk with many commands in flight.
    /// Returns both ends.
    pub(crate) fn go(self) -> Result<(Link, End, Served), Failed> {
        let mut rng = Rng::new(self.seed);
        let (end, far) = pipe(&mut rng, self.to_server, self.to_client);
        let trouble = self.trouble;
        let mut end = Troubled::new(end, trouble.clone());
        let mut served = Served::new(far, self.acceptor);
        let config = ClientConfig::new().tls(TlsPolicy::Require);
        let mut handshake = Handshake::with_tls(config, self.connector, Some("localhost"))
            .expect("the names are sound");
        let mut turns = 0..TURNS;
        while handshake.phase() != Phase::Established {
            turns.next().ok_or(Failed::Stuck)?;
            handshake.drive(&mut end, IoMode::Vectored).map_err(Failed::Client)?;
            served.turn_beside(&trouble)?;
        }
        let (mut client, mut link) = handshake.finish().expect("it is established");

        let mut todo = commands(&mut rng);
        let mut model = vec![0; SIZE];
        let mut buffers: Buffers<Vec<u8>> = Buffers::new();
        let mut expected = Buffers::<Vec<u8>>::new();
        let mut disconnected = false;
        while !client.is_closed() || !served.is_over() {
            turns.next().ok_or(Failed::Stuck)?;
            if client.in_flight() == 0 {
                submit(&mut client, &mut todo, &mut model, &mut buffers, &mut expected, &mut rng);
                if client.in_flight() == 0 && !disconnected {
                    client.disconnect(Disconnect::AfterReplies);
                    disconnected = true;
                }
            }
            if link.direction(&client).contains(Direction::WRITE) {
                link.write(&mut client, &mut end, &buffers, IoMode::Vectored)
                    .map_err(Failed::Client)?;
            }
            if link.direction(&client).contains(Direction::READ) {
                link.read(&mut client, &mut end, &mut buffers, IoMode::Vectored)
                    .map_err(Failed::Client)?;
            }
            while let Some(event) = client.poll_event() {
                if let Event::Completed { id, result, .. } = event {
                    assert_eq!(result, Ok(()));
                    assert!(buffers.remove(id) == expected.remove(id), "wrong data over TLS");
                }
            }
            served.turn_beside(&trouble)?;
        }
        assert!(served.disk == model, "wrong data on the disk");
        Ok((link, end.into_inner(), served))
    }
}

/// Ranges and whether they are written.
fn commands(rng: &mut Rng) -> Vec<(usize, usize, bool)> {
    let lengths = [1, 28, 512, 4096, 5000, 16 << 10, 40_000, 256 << 10];
    (0..60)
        .map(|_| {
            let length = rng.pick(&lengths);
            (rng.below(SIZE - length), length, rng.one_in(2))
        })
        .collect()
}

/// Submits a batch that does not touch a range twice.
fn submit(
    client: &mut Client,
    todo: &mut Vec<(usize, usize, bool)>,
    model: &mut [u8],
    buffers: &mut Buffers<Vec<u8>>,
    expected: &mut Buffers<Vec<u8>>,
    rng: &mut Rng,
) {
    let mut busy: Vec<std::ops::Range<usize>> = Vec::new();
    while let Some((at, length, write)) = todo.pop() {
        let range = at..at + length;
        if busy.iter().any(|other| other.start < range.end && range.start < other.end) {
            todo.push((at, length, write));
            return;
        }
        busy.push(range.clone());
        let (offset, count) = (at as u64, length as u32);
        if write {
            rng.fill(&mut model[range.clone()]);
            let id = client.submit(Command::write(offset, count)).expect("it is sound");
            buffers.insert(id, model[range.clone()].to_vec());
            expected.insert(id, model[range].to_vec());
        } else {
            let id = client.submit(Command::read(offset, count)).expect("it is sound");
            buffers.insert(id, vec![0xEE; length]);
            expected.insert(id, model[range].to_vec());
        }
    }
}

pub(crate) fn certificates(pki: &Pki, verify_clients: bool) -> (TlsAcceptor, TlsConnector) {
    let server = TlsServerConfig::directory(pki.dir()).verify_clients(verify_clients);
    let client = TlsConfig::new().directory(pki.dir());
    (
        server.acceptor().unwrap_or_else(|error| panic!("{error}")),
        client.connector().unwrap_or_else(|error| panic!("{error}")),
    )
}

#[cfg(feature = "psk")]
pub(crate) fn keys() -> (TlsAcceptor, TlsConnector) {
    let server = TlsServerConfig::psk_key_bytes("alice", [7; 32]);
    let client = TlsConfig::new().psk_key_bytes([7; 32]).username("alice");
    (
        server.acceptor().unwrap_or_else(|error| panic!("{error}")),
        client.connector().unwrap_or_else(|error| panic!("{error}")),
    )
}

pub(crate) fn backends(pki: &Pki) -> Vec<(TlsAcceptor, TlsConnector)> {
    vec![
        certificates(pki, true),
        #[cfg(feature = "psk")]
        keys(),
    ]
}
