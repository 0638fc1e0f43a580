//! A client and a server over TLS in memory, whatever the cuts.

use crate::pki::Pki;
use nbd_proto::io::IoMode;
use nbd_proto::{
    Client, ClientConfig, Command, CommandType, Direction, Discard, Disconnect, Event, ExportInfo,
    Machine, PayloadSink, Phase, Question, Server, ServerConfig, ServerEvent, ServerNegotiation,
    ServerPhase, Table, TlsPolicy, TransmissionFlags,
};
use nbd_sim::pipe::{End, Schedule, Way, pipe};
use nbd_sim::rng::Rng;
use nbd_transport::tls::{
    TlsAcceptor, TlsConfig, TlsConnector, TlsError, TlsPeer, TlsServerConfig,
};
use nbd_transport::{Handshake, Link, LinkError};
use std::io::ErrorKind;

const SIZE: usize = 1 << 20;

/// Far more turns than any run takes.
const TURNS: usize = 2_000_000;

/// A server over RAM, at one end of a pipe.
struct Served {
    machine: Stage,
    link: Link,
    end: End,
    acceptor: TlsAcceptor,
    disk: Vec<u8>,
    buffers: Table<Vec<u8>>,
}

enum Stage {
    Negotiating(Box<ServerNegotiation>),
    Serving(Box<Server>),
    Over,
}

impl Served {
    fn new(end: End, acceptor: TlsAcceptor) -> Self {
        let config = ServerConfig::new().tls(TlsPolicy::Require);
        Self {
            machine: Stage::Negotiating(Box::new(ServerNegotiation::new(config))),
            link: Link::plain(),
            end,
            acceptor,
            disk: vec![0; SIZE],
            buffers: Table::new(),
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.machine, Stage::Over)
    }

    fn turn(&mut self) -> Result<(), LinkError> {
        match std::mem::replace(&mut self.machine, Stage::Over) {
            Stage::Negotiating(machine) => self.negotiate(machine),
            Stage::Serving(machine) => self.serve(machine),
            Stage::Over => Ok(()),
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
                    let export = ExportInfo::new(SIZE as u64, TransmissionFlags::empty());
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
struct Allocating<'a>(&'a mut Table<Vec<u8>>);

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
struct Run {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    seed: u64,
    to_server: Schedule,
    to_client: Schedule,
}

/// Why a run did not go to its end.
#[derive(Debug)]
enum Failed {
    Client(LinkError),
    Server(LinkError),
    Stuck,
}

impl Run {
    fn new(acceptor: &TlsAcceptor, connector: &TlsConnector, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            connector: connector.clone(),
            acceptor: acceptor.clone(),
            seed,
            to_server: Schedule::random(&mut rng),
            to_client: Schedule::random(&mut rng),
        }
    }

    fn smooth(acceptor: &TlsAcceptor, connector: &TlsConnector) -> Self {
        Self {
            to_server: Schedule::SMOOTH,
            to_client: Schedule::SMOOTH,
            ..Self::new(acceptor, connector, 1)
        }
    }

    /// Negotiates, then writes and reads all over the disk with many commands in flight.
    /// Returns both ends.
    fn go(self) -> Result<(Link, End, Served), Failed> {
        let mut rng = Rng::new(self.seed);
        let (mut end, far) = pipe(&mut rng, self.to_server, self.to_client);
        let mut served = Served::new(far, self.acceptor);
        let config = ClientConfig::new().tls(TlsPolicy::Require);
        let mut handshake = Handshake::with_tls(config, self.connector, Some("localhost"))
            .expect("the names are sound");
        let mut turns = 0..TURNS;
        while handshake.phase() != Phase::Established {
            turns.next().ok_or(Failed::Stuck)?;
            handshake.drive(&mut end, IoMode::Vectored).map_err(Failed::Client)?;
            served.turn().map_err(Failed::Server)?;
        }
        let (mut client, mut link) = handshake.finish().expect("it is established");

        let mut todo = commands(&mut rng);
        let mut model = vec![0; SIZE];
        let mut buffers: Table<Vec<u8>> = Table::new();
        let mut expected = Table::<Vec<u8>>::new();
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
            served.turn().map_err(Failed::Server)?;
        }
        assert!(served.disk == model, "wrong data on the disk");
        Ok((link, end, served))
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
    buffers: &mut Table<Vec<u8>>,
    expected: &mut Table<Vec<u8>>,
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

fn certificates(pki: &Pki, verify_clients: bool) -> (TlsAcceptor, TlsConnector) {
    let server = TlsServerConfig::directory(pki.dir()).verify_clients(verify_clients);
    let client = TlsConfig::new().directory(pki.dir());
    (
        server.acceptor().unwrap_or_else(|error| panic!("{error}")),
        client.connector().unwrap_or_else(|error| panic!("{error}")),
    )
}

#[cfg(feature = "psk")]
fn keys() -> (TlsAcceptor, TlsConnector) {
    let server = TlsServerConfig::psk_key("alice", [7; 32]);
    let client = TlsConfig::new().psk_key([7; 32]).username("alice");
    (
        server.acceptor().unwrap_or_else(|error| panic!("{error}")),
        client.connector().unwrap_or_else(|error| panic!("{error}")),
    )
}

fn backends(pki: &Pki) -> Vec<(TlsAcceptor, TlsConnector)> {
    vec![
        certificates(pki, true),
        #[cfg(feature = "psk")]
        keys(),
    ]
}

#[test]
fn whatever_the_cuts_the_data_arrives() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        for seed in 0..24 {
            let run = Run::new(&acceptor, &connector, seed);
            if let Err(failed) = run.go() {
                panic!("seed {seed}: {failed:?}");
            }
        }
    }
}

#[test]
fn each_side_knows_the_other() {
    let pki = Pki::new();
    let (acceptor, connector) = certificates(&pki, true);
    let (link, _, served) = Run::smooth(&acceptor, &connector).go().expect("it works");
    for link in [&link, &served.link] {
        let info = link.tls_info().expect("TLS is in use");
        assert!(matches!(info.peer, TlsPeer::Certificate { .. }), "{info:?}");
        assert!(info.to_string().starts_with("TLS 1.3 with TLS13_AES_128_GCM_SHA256"), "{info}");
    }
    let (acceptor, connector) = certificates(&pki, false);
    let (_, _, served) = Run::smooth(&acceptor, &connector).go().expect("it works");
    let info = served.link.tls_info().expect("TLS is in use");
    assert_eq!(info.peer, TlsPeer::Anonymous);
}

#[cfg(feature = "psk")]
#[test]
fn each_side_knows_whose_key_it_was() {
    let (acceptor, connector) = keys();
    let (link, _, served) = Run::smooth(&acceptor, &connector).go().expect("it works");
    for link in [&link, &served.link] {
        let info = link.tls_info().expect("TLS is in use");
        assert_eq!(
            info.to_string().split_once(", "),
            Some(("TLS 1.3 with TLS_AES_128_GCM_SHA256", "by the key of alice",))
        );
    }
}

#[cfg(feature = "psk")]
#[test]
fn a_wrong_key_or_user_is_refused_by_the_server() {
    for (user, key) in [("alice", 8), ("bob", 7)] {
        let (acceptor, _) = keys();
        let client = TlsConfig::new().psk_key([key; 32]).username(user);
        let connector = client.connector().expect("it is sound");
        match Run::smooth(&acceptor, &connector).go() {
            Err(Failed::Server(LinkError::Tls(error))) => {
                let text = error.to_string();
                assert!(text.contains("key"), "{text}");
            }
            other => panic!("{:?}", other.err()),
        }
    }
}

/// Records in a stream of ciphertext, by content type.
fn records(bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let [kind, _, _, high, low, tail @ ..] = rest {
        let length = usize::from(*high) << 8 | usize::from(*low);
        records.push((*kind, length));
        rest = tail.get(length..).expect("records are whole");
    }
    records
}

#[test]
fn a_batch_of_headers_is_one_record_in_one_write() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (mut end, far) = pipe(&mut Rng::new(1), Schedule::SMOOTH, Schedule::SMOOTH);
        let mut served = Served::new(far, acceptor);
        let config = ClientConfig::new().tls(TlsPolicy::Require).extended_headers(false);
        let mut handshake =
            Handshake::with_tls(config, connector, Some("localhost")).expect("it is sound");
        while handshake.phase() != Phase::Established {
            handshake.drive(&mut end, IoMode::Vectored).expect("it works");
            served.turn().expect("it works");
        }
        let (mut client, mut link) = handshake.finish().expect("it is established");
        for slot in 0..64 {
            let read = Command::read(slot * 4096, 4096);
            client.submit(read).expect("it is sound");
        }
        let calls = end.calls();
        link.write(&mut client, &mut end, &Discard, IoMode::Vectored).expect("there is room");
        assert!(!link.direction(&client).contains(Direction::WRITE));
        assert_eq!(end.calls() - calls, 1);
        let (way, burst) = end.log().last().expect("something was sent");
        assert_eq!(*way, Way::Sent);
        let [(23, length)] = records(burst)[..] else {
            panic!("not one record of data: {:?}", records(burst));
        };
        assert!((64 * 28..64 * 28 + 40).contains(&length), "{length}");
    }
}

#[test]
fn nothing_but_the_request_for_tls_goes_out_in_clear() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (_, end, _) = Run::smooth(&acceptor, &connector).go().expect("it works");
        let sent: Vec<u8> = end
            .log()
            .iter()
            .filter(|(way, _)| *way == Way::Sent)
            .flat_map(|(_, burst)| burst.clone())
            .collect();
        let (clear, tls) = sent.split_at(4 + 16);
        assert_eq!(clear, b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0");
        // From then on there is nothing but records, and the last one is an alert: close_notify
        // (in TLS 1.3 it looks like data, of two bytes, its type, and the tag).
        let records = records(tls);
        assert!(records.iter().all(|(kind, _)| (20..=23).contains(kind)), "{records:?}");
        assert_eq!(records.last(), Some(&(23, 2 + 1 + 16)));
    }
}

#[test]
fn a_cut_is_told_from_an_end_at_every_byte() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (_, end, _) = Run::smooth(&acceptor, &connector).go().expect("it works");
        let seen: usize = end
            .log()
            .iter()
            .filter(|(way, _)| *way == Way::Seen)
            .map(|(_, burst)| burst.len())
            .sum();
        let mut rng = Rng::new(3);
        let handshake = 0..3000;
        let later = (0..40).map(|_| rng.below(seen - 1));
        for at in handshake.step_by(97).chain(later) {
            let mut run = Run::smooth(&acceptor, &connector);
            run.to_client.eof_at = Some(at as u64);
            match run.go() {
                Err(Failed::Client(error)) => {
                    let expected = match &error {
                        LinkError::Protocol(_) => at < 18 + 20,
                        LinkError::Tls(
                            TlsError::ClosedInHandshake { .. }
                            | TlsError::ClosedAfterHandshake { .. }
                            | TlsError::Truncated,
                        ) => at >= 18 + 20,
                        LinkError::Io(error) => error.kind() == ErrorKind::BrokenPipe,
                        _ => false,
                    };
                    assert!(expected, "cut at {at}: {error:?}");
                }
                other => panic!("cut at {at}: {:?}", other.err()),
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_never_taken_for_data() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let mut rng = Rng::new(4);
        for _ in 0..60 {
            let at = 18 + 20 + rng.below(600_000) as u64;
            let mut run = Run::smooth(&acceptor, &connector);
            run.to_client.flip = Some((at, 1 << rng.below(8)));
            match run.go() {
                Err(Failed::Client(LinkError::Tls(_)) | Failed::Server(LinkError::Tls(_))) => {}
                // The length of a record grew, and the rest of it never came.
                Err(Failed::Stuck) => {}
                other => panic!("flipped at {at}: {:?}", other.err()),
            }
        }
    }
}
