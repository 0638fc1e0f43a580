//! What machines say of themselves on their way from the first byte to the last.

use nbd_proto::{
    Buffers, Client, ClientConfig, Command, Direction, Discard, Disconnect, Event, ExportInfo,
    Limits, Machine, Negotiation, Phase, Question, RequestId, RequestStatus, Server, ServerConfig,
    ServerEvent, ServerNegotiation, ServerPhase, TlsPolicy, TransmissionFlags,
};
use nbd_sim::delivery::negotiation;
use nbd_sim::hostile::bytes::{
    MORE, ack, chunk, claim, context, cookie, export, granted, greeting, info, kind, oldstyle, opt,
    rep, server, simple,
};

/// Both ends, established, with as many slots as that on the server's side.
fn pair(slots: u32) -> (Client, Server) {
    let config = ServerConfig::new()
        .structured_replies(false)
        .extended_headers(false)
        .limits(Limits::default().max_in_flight(slots));
    let mut client = Negotiation::new(ClientConfig::new().export("disk")).unwrap();
    let mut server = ServerNegotiation::new(config);
    let mut wire = Vec::new();
    while client.phase() != Phase::Established {
        server.drain(&mut wire, &Discard).unwrap();
        client.feed(&std::mem::take(&mut wire), &mut Discard).unwrap();
        client.drain(&mut wire, &Discard).unwrap();
        server.feed(&std::mem::take(&mut wire), &mut Discard).unwrap();
        if let Some(Question::Go(_)) = server.question() {
            server.describe(ExportInfo::new(1 << 20, TransmissionFlags::HAS_FLAGS)).unwrap();
        }
    }
    (client.finish().unwrap(), server.finish().unwrap())
}

/// The state by name, in the answer to [`Machine::state_name`] and in the debug output.
fn is<M: Machine + std::fmt::Debug>(machine: &M, state: &str) {
    assert_eq!(machine.state_name(), state);
    let debug = format!("{machine:?}");
    assert!(debug.contains(&format!("state: {state:?}")), "{debug}");
}

#[test]
fn a_client_says_what_it_does() {
    let (mut client, _) = pair(9);
    is(&client, "ready");
    assert!(!client.is_processing() && !client.is_ending());
    let id = client.submit(Command::read(0, 512)).unwrap();
    let stranger = RequestId::from_cookie(9 << 32 | 9);
    assert_eq!(client.status(id), RequestStatus::InFlight);
    assert_eq!(client.status(stranger), RequestStatus::Unknown);
    // A request waits to be sent.
    assert!(client.is_processing());
    is(&client, "waiting for replies");
    assert_eq!(client.get_direction(), Direction::all());
    client.drain(&mut Vec::new(), &Discard).unwrap();
    assert!(!client.is_processing());
    assert_eq!(client.get_direction(), Direction::READ);
    // Part of a header, part of the data, all of it.
    let mut table = Buffers::new();
    table.insert(id, vec![0; 512]);
    let reply = simple(0, cookie(0), &[7; 512]);
    for (from, to, state) in
        [(0, 9, "waiting for replies"), (9, 16, "receiving a reply"), (16, 99, "receiving a reply")]
    {
        client.feed(&reply[from..to], &mut table).unwrap();
        assert!(client.is_processing(), "{to}");
        is(&client, state);
    }
    assert_eq!((client.completed(), client.peek_completed()), (0, None));
    client.feed(&reply[99..], &mut table).unwrap();
    assert!(!client.is_processing());
    is(&client, "ready");
    assert_eq!((client.completed(), client.peek_completed()), (1, Some(id)));
    assert_eq!(client.status(id), RequestStatus::Completed);
    assert!(client.take(id).is_some() && client.take(id).is_none());
    assert_eq!(client.status(id), RequestStatus::Retired);

    client.submit(Command::read(0, 512)).unwrap();
    client.drain(&mut Vec::new(), &Discard).unwrap();
    assert!(!client.is_disconnecting());
    client.disconnect(Disconnect::AfterReplies);
    is(&client, "waiting for the last replies");
    assert!(client.is_disconnecting() && !client.is_ending());
    client.feed(&simple(5, 2 << 32, &[]), &mut Discard).unwrap();
    is(&client, "disconnecting");
    assert!(client.is_disconnecting() && client.is_ending() && !client.is_closed());
    client.drain(&mut Vec::new(), &Discard).unwrap();
    client.eof().unwrap();
    is(&client, "closed");
    assert!(client.is_closed() && client.is_ending() && !client.is_disconnecting());
    assert!(!client.is_processing() && client.error().is_none());
    assert_eq!(client.get_direction(), Direction::empty());
    let events = [client.poll_event(), client.poll_event(), client.poll_event()];
    assert!(matches!(events[0], Some(Event::Completed { .. })));
    assert_eq!(events[1..], [Some(Event::Disconnected { error: None }), None]);

    let (mut client, _) = pair(9);
    client.feed(&[0xff; 16], &mut Discard).unwrap_err();
    is(&client, "dead");
    assert!(client.is_closed() && client.is_ending() && client.error().is_some());
}

/// A connection that is closed when nothing is due ends without an error.
#[test]
fn a_client_that_waits_for_nothing_is_not_wronged_by_the_end() {
    let (mut client, _) = pair(9);
    assert_eq!(client.eof(), Ok(()));
    assert_eq!(client.error(), None);
    let (mut client, _) = pair(9);
    client.submit(Command::read(0, 512)).unwrap();
    client.eof().unwrap_err();
}

/// Where the end comes inside a message it is one that nobody agreed on, whether or not any
/// byte of the rest has come.
#[test]
fn an_end_is_inside_a_message_or_between_two() {
    use nbd_proto::PeerMisbehaved::{Closed, ClosedMidMessage};
    fn ends<M: Machine>(new: impl Fn() -> M, bytes: &[u8], whole: &[usize]) {
        for cut in 0..=bytes.len() {
            let mut machine = new();
            machine.feed(&bytes[..cut], &mut Discard).unwrap();
            let fault = if whole.contains(&cut) { Closed } else { ClosedMidMessage };
            assert_eq!(machine.eof(), Err(fault.into()), "cut at {cut}");
        }
    }
    let bytes = [greeting(3), claim(opt::STRUCTURED_REPLY, rep::ERR_POLICY, 3, b"why")].concat();
    let asking = || Negotiation::new(ClientConfig::new().extended_headers(false)).unwrap();
    ends(asking, &bytes[..18], &[0, 18]);
    let asked = || {
        let mut negotiation = asking();
        negotiation.feed(&bytes[..18], &mut Discard).unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
        negotiation
    };
    ends(asked, &bytes[18..], &[0, 23]);
    ends(asking, &oldstyle(1, &[0; 124])[..100], &[0]);

    let serving = || {
        let mut server = ServerNegotiation::new(ServerConfig::new());
        server.feed(&[0, 0, 0, 3], &mut Discard).unwrap();
        server
    };
    ends(serving, b"IHAVEOPT\0\0\0\x63\0\0\0\x03abc", &[0, 19]);

    // A structured error: its header, its number and the length of its words, its words.
    let error = chunk(MORE, kind::ERROR, cookie(0), b"\0\0\0\x05\0\x03why");
    let reading = || {
        let bursts = [greeting(3), ack(opt::STRUCTURED_REPLY), granted()];
        let config = ClientConfig::new().extended_headers(false);
        let mut client = negotiation(config, &bursts).finish().unwrap();
        client.submit(Command::read(0, 512)).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        client
    };
    ends(reading, &error, &[0, error.len()]);
}

#[test]
fn a_server_says_what_it_does() {
    let (mut client, mut server) = pair(1);
    let write = |client: &mut Client| {
        let id = client.submit(Command::write(0, 4)).unwrap();
        let mut table = Buffers::new();
        table.insert(id, *b"data");
        let mut wire = Vec::new();
        client.drain(&mut wire, &table).unwrap();
        wire
    };
    is(&server, "ready");
    assert_eq!(server.get_direction(), Direction::READ);
    let request = write(&mut client);
    let mut table = Buffers::new();
    table.insert(RequestId::from_cookie(1 << 32), [0; 4]);
    server.feed(&request[..30], &mut table).unwrap();
    is(&server, "receiving a request");
    server.feed(&request[30..], &mut table).unwrap();
    is(&server, "serving");
    assert_eq!((server.in_flight(), server.is_ending()), (1, false));
    // Nothing more is read while no slot is free.
    assert_eq!(server.feed(&write(&mut client), &mut Discard), Ok(0));
    is(&server, "waiting for replies to leave");
    assert_eq!(server.get_direction(), Direction::empty());
    let Some(ServerEvent::Request { id, .. }) = server.poll_event() else {
        panic!("{server:?}");
    };
    server.reply(id, Ok(())).unwrap();
    assert_eq!(server.get_direction(), Direction::WRITE);
    server.stop();
    is(&server, "sending the last replies");
    assert!(server.is_ending() && !server.is_closed());
    server.drain(&mut Vec::new(), &Discard).unwrap();
    assert_eq!(server.poll_event(), Some(ServerEvent::Replied { id }));
    assert!(server.is_closed());
    assert_eq!(server.poll_event(), Some(ServerEvent::Disconnected { error: None }));
    assert_eq!(server.poll_event(), None);

    let (_, mut server) = pair(1);
    server.feed(&[0xff; 28], &mut Discard).unwrap_err();
    is(&server, "dead");
    assert!(server.is_ending() && server.is_closed());
    assert_eq!(server.get_direction(), Direction::empty());
}

#[test]
fn a_negotiation_says_what_it_does() {
    let config = ClientConfig::new()
        .export("disk")
        .tls(TlsPolicy::Allow)
        .meta_context("base:allocation")
        .option_mode(true);
    let mut client = Negotiation::new(config).unwrap();
    assert_eq!(client.export_name(), "disk");
    assert_eq!(client.config().meta_contexts(), ["base:allocation"]);
    let feed = |client: &mut Negotiation, bytes: &[u8]| {
        // The server has heard everything before it answers.
        client.drain(&mut Vec::new(), &Discard).unwrap();
        client.feed(bytes, &mut Discard).unwrap();
    };
    let refusal = |option| claim(option, rep::ERR_UNSUP, 0, &[]);
    is(&client, "waiting for the greeting");
    feed(&mut client, &greeting(3)[..16]);
    is(&client, "waiting for handshake flags");
    feed(&mut client, &greeting(3)[16..]);
    is(&client, "asking for TLS");
    feed(&mut client, &refusal(opt::STARTTLS));
    is(&client, "asking for extended headers");
    feed(&mut client, &refusal(opt::EXTENDED_HEADERS));
    is(&client, "asking for structured replies");
    feed(&mut client, &ack(opt::STRUCTURED_REPLY));
    is(&client, "negotiating");
    assert!(!client.is_ending());
    client.list().unwrap();
    is(&client, "listing exports");
    feed(&mut client, &server(b"disk", b"")[..20]);
    is(&client, "receiving an option reply");
    feed(&mut client, &server(b"disk", b"")[20..]);
    feed(&mut client, &ack(opt::LIST));
    client.list_meta_contexts(&[]).unwrap();
    is(&client, "listing meta contexts");
    feed(&mut client, &ack(opt::LIST_META_CONTEXT));
    client.info().unwrap();
    is(&client, "selecting meta contexts");
    feed(&mut client, &context(1, b"base:allocation"));
    feed(&mut client, &ack(opt::SET_META_CONTEXT));
    is(&client, "asking about the export");
    feed(&mut client, &claim(6, rep::ERR_UNSUP, 0, &[]));
    client.go().unwrap();
    feed(&mut client, &ack(opt::SET_META_CONTEXT));
    is(&client, "choosing the export");
    // A fact that nobody knows, and longer than any.
    let long = info(77, &[0; 20_000]);
    feed(&mut client, &long[..100]);
    is(&client, "receiving an option reply");
    feed(&mut client, &long[100..]);
    is(&client, "choosing the export");
    feed(&mut client, &export(4096, 1));
    feed(&mut client, &ack(opt::GO));
    is(&client, "established");
    assert_eq!(client.get_direction(), Direction::empty());

    let mut client = Negotiation::new(ClientConfig::new()).unwrap();
    let old = oldstyle(1, &[0; 124]);
    feed(&mut client, &old[..16]);
    is(&client, "receiving an oldstyle greeting");
    feed(&mut client, &old[16..99]);
    is(&client, "receiving zero padding");
    feed(&mut client, &old[99..]);
    is(&client, "established");

    let mut client = Negotiation::new(ClientConfig::new()).unwrap();
    client.feed(&[0xff; 16], &mut Discard).unwrap_err();
    is(&client, "negotiation failed");
    assert!(client.is_ending());
}

/// Either side may close after an abort, without more words.
#[test]
fn an_abort_is_an_end_in_good_order() {
    for reply in [&[][..], &ack(2)] {
        let config = ClientConfig::new().option_mode(true);
        let mut client =
            Negotiation::new(config.structured_replies(false).extended_headers(false)).unwrap();
        client.feed(&greeting(3), &mut Discard).unwrap();
        assert!(!client.is_ending());
        client.abort().unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        is(&client, "ending the negotiation");
        assert!(client.is_ending());
        client.feed(reply, &mut Discard).unwrap();
        assert_eq!(client.eof(), Ok(()));
        is(&client, "closed");
        assert_eq!((client.phase(), client.eof()), (Phase::Closed, Ok(())));
        assert_eq!(client.get_direction(), Direction::empty());
    }
}

#[test]
fn a_negotiating_server_says_what_it_does() {
    let config = ServerConfig::new().tls(TlsPolicy::Allow);
    let mut server = ServerNegotiation::new(config);
    let option = |number: u32, data: &[u8]| {
        let (number, length) = (number.to_be_bytes(), (data.len() as u32).to_be_bytes());
        [&b"IHAVEOPT"[..], &number, &length, data].concat()
    };
    let feed = |server: &mut ServerNegotiation, bytes: &[u8]| {
        server.feed(bytes, &mut Discard).unwrap();
        server.drain(&mut Vec::new(), &Discard).unwrap();
    };
    is(&server, "waiting for client flags");
    feed(&mut server, &[0, 0, 0, 3]);
    is(&server, "waiting for an option");
    let go = option(opt::GO, b"\0\0\0\x04disk\0\0");
    feed(&mut server, &go[..16]);
    is(&server, "receiving an option");
    feed(&mut server, &go[16..]);
    is(&server, "waiting for an answer to an option");
    assert_eq!(server.get_direction(), Direction::empty());
    server.refuse(nbd_proto::RefusalCode::Policy, "").unwrap();
    server.drain(&mut Vec::new(), &Discard).unwrap();
    is(&server, "waiting for an option");
    feed(&mut server, &option(opt::STARTTLS, &[]));
    is(&server, "starting TLS");
    assert!(!server.is_ending());
    server.tls_ready().unwrap();
    feed(&mut server, &go);
    server.describe(ExportInfo::new(4096, TransmissionFlags::empty())).unwrap();
    is(&server, "established");
    assert_eq!(server.phase(), ServerPhase::Established);

    let mut server = ServerNegotiation::new(ServerConfig::new());
    feed(&mut server, &[0, 0, 0, 3]);
    feed(&mut server, &option(2, &[]));
    is(&server, "closed");
    assert!(server.is_ending());
    assert_eq!(server.eof(), Ok(()));

    let mut server = ServerNegotiation::new(ServerConfig::new());
    server.feed(&[0xff; 4], &mut Discard).unwrap_err();
    is(&server, "negotiation failed");
}
