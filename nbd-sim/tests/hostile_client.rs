//! Clients that break rules, against servers and exports of other kinds than that of the
//! table in `rude`.

use nbd_proto::{
    CommandType, Discard, Error, ExportInfo, InvalidMessage, Machine, PayloadSink, PeerMisbehaved,
    Question, RequestId, Server, ServerConfig, ServerEvent, ServerNegotiation, ServerPhase,
    TlsPolicy, TransmissionFlags, part_mut,
};
use nbd_sim::delivery::Delivery;
use nbd_sim::hostile::bytes::{join, opt};

const SIZE: u64 = 1 << 20;
const PERM: u32 = 1;
const INVAL: u32 = 22;

fn option_claim(option: u32, length: u32, data: &[u8]) -> Vec<u8> {
    join(&[b"IHAVEOPT", &option.to_be_bytes(), &length.to_be_bytes(), data])
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    option_claim(option, data.len() as u32, data)
}

fn go() -> Vec<u8> {
    option(opt::GO, &[0, 0, 0, 0, 0, 0])
}

fn request(flags: u16, kind: u16, offset: u64, length: u32, payload: &[u8]) -> Vec<u8> {
    join(&[
        &0x2560_9513u32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        b"a cookie",
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
        payload,
    ])
}

fn simple(error: u32) -> Vec<u8> {
    join(&[&0x6744_6698u32.to_be_bytes(), &error.to_be_bytes(), b"a cookie"])
}

fn export(flags: TransmissionFlags) -> ExportInfo {
    ExportInfo::new(SIZE, flags)
}

/// Plays a client's words to a negotiation; returns what it sent and how it ended.
fn haggle(config: ServerConfig, words: &[u8], delivery: Delivery) -> (Vec<u8>, Haggled) {
    let mut negotiation = ServerNegotiation::new(config);
    let mut sent = Vec::new();
    let mut words = words.to_vec();
    loop {
        negotiation.drain(&mut sent, &Discard).unwrap();
        match delivery.deliver(&mut negotiation, &mut Discard, &words) {
            Err(error) => {
                negotiation.drain(&mut sent, &Discard).unwrap();
                return (sent, Haggled::Error(error));
            }
            Ok(taken) => words.drain(..taken),
        };
        negotiation.drain(&mut sent, &Discard).unwrap();
        match negotiation.question() {
            Some(Question::Go(_) | Question::Info(_) | Question::ExportName(_)) => {
                let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
                negotiation.describe(export(flags)).unwrap();
            }
            Some(_) => negotiation.acknowledge().unwrap(),
            None => return (sent, Haggled::Phase(negotiation.phase())),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Haggled {
    Error(Error),
    Phase(ServerPhase),
}

/// The types of the option replies in what a server sent.
fn reply_types(sent: &[u8]) -> Vec<u32> {
    let mut rest = &sent[18..];
    let mut types = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<20>() {
        assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        types.push(word(12));
        rest = &tail[word(16) as usize..];
    }
    types
}

/// Name, configuration, the client's words, how it ends, types of the replies.
type OptionCase = (&'static str, ServerConfig, Vec<u8>, Haggled, Vec<u32>);

#[test]
fn options_that_break_rules() {
    let newstyle = nbd_proto::HandshakeFlags::FIXED_NEWSTYLE;
    let tls = || ServerConfig::new().tls(TlsPolicy::Allow);
    let forced = || ServerConfig::new().tls(TlsPolicy::Require);
    let flags = 3u32.to_be_bytes();
    let fails = |error: Error| Haggled::Error(error);
    let busy = || Haggled::Phase(ServerPhase::Busy);
    let (ack, tls_reqd) = (1, 0x8000_0005);
    let cases: Vec<OptionCase> = vec![
        (
            "client flags that were not offered",
            ServerConfig::new().handshake_flags(newstyle),
            flags.to_vec(),
            fails(PeerMisbehaved::UnknownClientFlags.into()),
            vec![],
        ),
        (
            "everything in clear where TLS is required",
            forced(),
            join(&[&flags, &go(), &option(opt::LIST, &[])]),
            busy(),
            vec![tls_reqd, tls_reqd],
        ),
        (
            "an export name in clear where TLS is required",
            forced(),
            join(&[&flags, &option(opt::EXPORT_NAME, &[])]),
            Haggled::Phase(ServerPhase::Closed),
            vec![],
        ),
        (
            "plaintext behind STARTTLS",
            tls(),
            join(&[&flags, &option(opt::STARTTLS, &[]), &go()]),
            fails(PeerMisbehaved::PlaintextAfterStartTls.into()),
            vec![ack],
        ),
    ];
    for (name, config, words, end, types) in &cases {
        for delivery in Delivery::ALL {
            let (sent, seen) = haggle(config.clone(), words, delivery);
            assert_eq!(seen, *end, "{name}, {delivery:?}");
            assert_eq!(reply_types(&sent), *types, "{name}, {delivery:?}");
        }
    }
}

/// Cut short anywhere, a negotiation ends in an error and never by itself.
#[test]
fn a_negotiation_cut_at_every_length() {
    let words = join(&[
        &3u32.to_be_bytes(),
        &option(opt::STRUCTURED_REPLY, &[]),
        &option(9999, b"data"),
        &go(),
    ]);
    for length in 0..words.len() {
        let mut negotiation = ServerNegotiation::new(ServerConfig::new());
        negotiation.feed(&words[..length], &mut Discard).unwrap();
        let error = negotiation.eof().unwrap_err();
        let closed = [PeerMisbehaved::Closed, PeerMisbehaved::ClosedMidMessage];
        assert!(closed.map(Error::from).contains(&error), "{length}: {error:?}");
        assert_eq!(negotiation.eof(), Err(error), "{length}");
        assert_eq!(negotiation.phase(), ServerPhase::Closed, "{length}");
    }
}

fn server(flags: TransmissionFlags) -> Server {
    let mut negotiation = ServerNegotiation::new(ServerConfig::new());
    let words = join(&[&3u32.to_be_bytes(), &go()]);
    negotiation.feed(&words, &mut Discard).unwrap();
    let mut described = export(flags);
    if flags.contains(TransmissionFlags::ROTATIONAL) {
        described.block_sizes =
            Some(nbd_proto::BlockSizes { minimum: 512, preferred: 512, maximum: 4096 });
    }
    negotiation.describe(described).unwrap();
    negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    negotiation.finish().unwrap()
}

/// Memory for any write.
struct Memory(Vec<u8>);

impl PayloadSink for Memory {
    fn region(&mut self, _id: RequestId, at: usize, len: usize) -> &mut [u8] {
        part_mut(&mut self.0, at, len)
    }
}

/// Sends requests to a server whose application answers everything well; returns
/// what it sent and how it ended.
fn ask(server: &mut Server, words: &[u8], delivery: Delivery) -> (Vec<u8>, Result<(), Error>) {
    let mut memory = Memory(vec![0; 1 << 20]);
    let result = delivery.deliver(server, &mut memory, words).map(|_| ());
    let mut sent = Vec::new();
    while let Some(event) = server.poll_event() {
        if let ServerEvent::Request { id, command } = event {
            assert_ne!(command.kind, CommandType::Read, "none of the reads is sound");
            server.reply(id, Ok(())).unwrap();
        }
    }
    server.drain(&mut sent, &Discard).unwrap();
    (sent, result)
}

#[test]
fn requests_that_break_rules_are_refused_and_the_session_lives() {
    use TransmissionFlags as Flag;
    let some = Flag::HAS_FLAGS | Flag::SEND_FLUSH | Flag::SEND_TRIM;
    let read_only = some | Flag::READ_ONLY;
    // The bit stands for an export with a block size, see `server`.
    let blocks = some | Flag::ROTATIONAL;
    let cases: Vec<(&str, Flag, Vec<u8>, u32)> = vec![
        ("a trim of a read-only export", read_only, request(0, 4, 0, 4, &[]), PERM),
        ("an unaligned read", blocks, request(0, 0, 1, 512, &[]), INVAL),
        ("an unaligned write", blocks, request(0, 1, 0, 5, &[7; 5]), INVAL),
    ];
    let flush = request(0, 3, 0, 0, &[]);
    for (name, flags, words, error) in &cases {
        for delivery in Delivery::ALL {
            let mut server = server(*flags);
            let (sent, result) = ask(&mut server, words, delivery);
            assert_eq!(result, Ok(()), "{name}, {delivery:?}");
            assert_eq!(sent, simple(*error), "{name}, {delivery:?}");
            let (sent, result) = ask(&mut server, &flush, delivery);
            assert_eq!((sent, result), (simple(0), Ok(())), "{name}, {delivery:?}");
        }
    }
}

/// Found by fuzzing: extended-headers draft, "NBD_CMD_FLAG_PAYLOAD_LEN", a payload that
/// a command does not take is consumed, and the command fails.
#[test]
fn payload_of_a_command_that_takes_none_is_refused() {
    let request = |kind: u16, length: u64, payload: &[u8]| {
        let flags = 0x20u16;
        join(&[
            &0x21e4_1c71u32.to_be_bytes(),
            &flags.to_be_bytes(),
            &kind.to_be_bytes(),
            b"a cookie",
            &0u64.to_be_bytes(),
            &length.to_be_bytes(),
            payload,
        ])
    };
    let all = TransmissionFlags::all().difference(TransmissionFlags::READ_ONLY);
    for kind in [0, 3, 4, 5, 6, 7, 77] {
        for length in [0, 1, 512] {
            for delivery in Delivery::ALL {
                let mut negotiation = ServerNegotiation::new(ServerConfig::new());
                let extended = option(opt::EXTENDED_HEADERS, &[]);
                let words = join(&[&3u32.to_be_bytes(), &extended, &go()]);
                negotiation.feed(&words, &mut Discard).unwrap();
                negotiation.describe(export(all)).unwrap();
                negotiation.drain(&mut Vec::new(), &Discard).unwrap();
                let mut server = negotiation.finish().unwrap();
                let words = request(kind, length, &vec![0xa5; length as usize]).repeat(2);
                let (sent, result) = ask(&mut server, &words, delivery);
                assert_eq!(result, Ok(()), "{kind} with {length}, {delivery:?}");
                let errors = sent.windows(4).filter(|at| *at == INVAL.to_be_bytes()).count();
                assert_eq!(errors, 2, "{kind} with {length}, {delivery:?}: {sent:x?}");
            }
        }
    }
}

#[test]
fn a_wrong_magic_number_ends_the_session() {
    for delivery in Delivery::ALL {
        let mut server = server(TransmissionFlags::HAS_FLAGS);
        let mut words = request(0, 0, 0, 512, &[]);
        words[0] ^= 1;
        let (sent, result) = ask(&mut server, &words, delivery);
        let error = Error::from(InvalidMessage::RequestMagic);
        assert_eq!((sent, result), (vec![], Err(error.clone())), "{delivery:?}");
        assert_eq!(server.feed(&[0], &mut Discard), Err(error), "{delivery:?}");
    }
}

/// The end may come at any byte: nothing is done by halves, and all is over at once
/// or when the last reply has left.
#[test]
fn a_session_cut_at_every_length() {
    let flush = request(0, 3, 0, 0, &[]);
    let write = request(0, 1, 0, 40, &[7; 40]);
    let words = join(&[&flush, &write, &flush]);
    let whole = [flush.len(), flush.len() + write.len(), words.len()];
    for length in 0..=words.len() {
        let mut server = server(TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH);
        let (sent, result) = ask(&mut server, &words[..length], Delivery::Whole);
        assert_eq!(result, Ok(()));
        let complete = whole.iter().filter(|end| **end <= length).count();
        assert_eq!(sent, simple(0).repeat(complete), "{length}");
        let clean = length == 0 || whole.contains(&length);
        assert_eq!(server.eof().is_ok(), clean, "{length}");
        let mut last = None;
        while let Some(event) = server.poll_event() {
            last = Some(event);
        }
        let told =
            matches!(last, Some(ServerEvent::Disconnected { error }) if error.is_none() == clean);
        assert!(told && server.is_closed(), "{length}: {server:?}");
    }
}

/// A server that is stopped in the middle of a write does not wait for its end.
#[test]
fn a_stop_does_not_wait_for_half_a_request() {
    let mut server = server(TransmissionFlags::HAS_FLAGS);
    let words = request(0, 1, 0, 40, &[7; 10]);
    assert_eq!(ask(&mut server, &words, Delivery::Whole).1, Ok(()));
    server.stop();
    assert_eq!(server.poll_event(), Some(ServerEvent::Disconnected { error: None }));
}

/// Nothing more is said to a client that broke the framing, not even answers to what
/// it asked before.
#[test]
fn a_dead_session_says_nothing_more() {
    let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
    let mut server = server(flags);
    let words = join(&[&request(0, 3, 0, 0, &[]), &[0xff; 28]]);
    let (sent, result) = ask(&mut server, &words, Delivery::Whole);
    let error = Error::from(InvalidMessage::RequestMagic);
    assert_eq!((sent, result), (vec![], Err(error)));
    assert_eq!(server.get_direction(), nbd_proto::Direction::empty());
}

#[test]
fn an_answer_that_comes_after_the_end_goes_nowhere() {
    let mut server = server(TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH);
    server.feed(&request(0, 3, 0, 0, &[]), &mut Discard).unwrap();
    let Some(ServerEvent::Request { id, .. }) = server.poll_event() else {
        panic!("{server:?}");
    };
    server.feed(&[0xff; 28], &mut Discard).unwrap_err();
    server.reply(id, Ok(())).unwrap();
    assert_eq!(server.get_direction(), nbd_proto::Direction::empty());
    assert_eq!(server.drain(&mut Vec::new(), &Discard), Ok(0));
}
