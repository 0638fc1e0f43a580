//! What a client owes its user at the edges: replies that overtake their request,
//! TLS that makes it forget, bytes that arrive before they are due.

use nbd_proto::{
    Buffers, Client, ClientConfig, Command, CommandError, Direction, Discard, Disconnect, Errno,
    Error, Event, HeaderStyle, InvalidMessage, Limits, Machine, PeerMisbehaved, Phase, RefusalCode,
    ReplyFault, RequestStatus, SubmitError,
};
use nbd_sim::delivery::{Delivery, negotiation};
use nbd_sim::hostile::bytes::{ack, claim, cookie, granted, greeting, join, opt, rep, simple};

fn plain() -> ClientConfig {
    ClientConfig::new().structured_replies(false).extended_headers(false)
}

fn client() -> Client {
    negotiation(plain(), &[greeting(3), granted()]).finish().unwrap()
}

/// The counters tell what was received, whichever way it came.
#[test]
fn every_byte_is_counted_once() {
    let bytes = join(&[&simple(0, cookie(0), &[7; 512]), &simple(0, cookie(1), &[7; 512])]);
    for delivery in Delivery::ALL {
        let mut client = client();
        let before = *client.stats();
        client.submit(Command::read(0, 512)).unwrap();
        client.submit(Command::read(0, 512)).unwrap();
        assert_eq!(client.drain(&mut Vec::new(), &Discard), Ok(56));
        assert_eq!(delivery.deliver(&mut client, &mut Discard, &bytes), Ok(bytes.len()));
        let after = client.stats();
        let received = after.bytes_received - before.bytes_received;
        assert_eq!(received, bytes.len() as u64, "{delivery:?}");
        assert_eq!(after.bytes_sent - before.bytes_sent, 56, "{delivery:?}");
    }
}

/// The buffer grows to what the limits say where so much comes, and is offered whole.
#[test]
fn as_much_is_offered_as_the_limits_allow() {
    let limits = Limits::default().scratch_len(300 << 10);
    let negotiation = negotiation(plain().limits(limits), &[greeting(3), granted()]);
    let mut client = negotiation.finish().unwrap();
    let mut replies = Vec::new();
    for n in 0..1024 {
        client.submit(Command::read(0, 1024)).unwrap();
        replies.extend(simple(0, cookie(n), &[0; 1024]));
    }
    client.drain(&mut Vec::new(), &Discard).unwrap();
    let mut offered = Vec::new();
    let mut rest = &replies[..];
    while !rest.is_empty() {
        let mut sink = Discard;
        let window = client.recv_bufs(&mut sink).scratch;
        let n = window.len().min(rest.len());
        window[..n].copy_from_slice(&rest[..n]);
        // A part of a message that is held takes up a part of the buffer.
        offered.push(window.len().next_multiple_of(4 << 10) >> 10);
        client.received(n, &mut Discard).unwrap();
        rest = &rest[n..];
    }
    assert_eq!(offered[..6], [16, 32, 64, 128, 256, 300], "{offered:?}");
    assert_eq!(client.in_flight(), 0);
}

/// X63: the caller's buffer is in use until the last byte has left, so the command
/// completes then, and once.
#[test]
fn a_reply_that_overtakes_its_payload_waits_for_it() {
    let mut client = client();
    let mut table = Buffers::new();
    let id = client.submit(Command::write(0, 4096)).unwrap();
    table.insert(id, vec![0x5a; 4096]);
    client.sent(1000).unwrap();
    client.feed(&simple(28, cookie(0), &[]), &mut Discard).unwrap();
    assert_eq!(client.poll_event(), None);
    assert_eq!(client.status(id), RequestStatus::InFlight);
    assert_eq!(client.drain(&mut Vec::new(), &table), Ok(28 + 4096 - 1000));
    let Some(Event::Completed { result, .. }) = client.poll_event() else {
        panic!("{client:?}");
    };
    assert_eq!(result, Err(CommandError::Server(Errno::NoSpc)));
    assert_eq!(client.in_flight(), 0);
}

/// X64: the same, and then the server is gone; its error is the better answer.
#[test]
fn a_reply_that_overtakes_its_payload_outlives_the_connection() {
    for (error, result) in
        [(28, CommandError::Server(Errno::NoSpc)), (0, CommandError::ConnectionLost)]
    {
        let mut client = client();
        let id = client.submit(Command::write(0, 4096)).unwrap();
        client.sent(1000).unwrap();
        client.feed(&simple(error, cookie(0), &[]), &mut Discard).unwrap();
        client.send_failed();
        assert_eq!(client.eof(), Err(PeerMisbehaved::Closed.into()));
        assert_eq!(client.take(id).unwrap().1, Err(result));
    }
}

/// A read whose buffer is gone is read over; its slot is free only then.
#[test]
fn an_abandoned_read_is_read_over() {
    let mut client = client();
    let id = client.submit(Command::read(0, 512)).unwrap();
    client.drain(&mut Vec::new(), &Discard).unwrap();
    assert!(!client.abandon(id));
    assert_eq!((client.status(id), client.in_flight()), (RequestStatus::Retired, 1));
    client.feed(&simple(0, cookie(0), &[1; 512]), &mut Discard).unwrap();
    assert_eq!((client.poll_event(), client.in_flight()), (None, 0));
    let unsent = client.submit(Command::read(0, 512)).unwrap();
    assert_ne!(unsent, id);
    assert!(client.abandon(unsent));
    assert_eq!(client.drain(&mut Vec::new(), &Discard), Ok(0));
}

/// All at once, wherever each of them is: to be sent, sent, answered while it is being sent,
/// or done.
#[test]
fn abandoned_commands_are_never_told_of() {
    let mut client = client();
    let mut table = Buffers::new();
    let done = client.submit(Command::flush()).unwrap();
    let sent = client.submit(Command::read(0, 512)).unwrap();
    let held = client.submit(Command::write(0, 4096)).unwrap();
    let unsent = client.submit(Command::read(0, 512)).unwrap();
    table.insert(held, vec![0x5a; 4096]);
    client.sent(28 * 3 + 1000).unwrap();
    let replies = join(&[&simple(0, cookie(0), &[]), &simple(0, cookie(2), &[])]);
    client.feed(&replies, &mut Discard).unwrap();
    assert_eq!((client.in_flight(), client.completed()), (3, 1));
    assert!(!client.abandon(held), "its data is being sent");
    client.abandon_all();
    assert_eq!((client.in_flight(), client.completed()), (2, 0));
    assert!(client.abandon(done) && client.abandon(unsent), "they are gone");
    assert_eq!(client.drain(&mut Vec::new(), &table), Ok(3096), "and nothing behind it");
    assert_eq!(client.in_flight(), 1);
    client.feed(&simple(0, cookie(1), &[7; 512]), &mut Discard).unwrap();
    assert_eq!((client.in_flight(), client.status(sent)), (0, RequestStatus::Retired));
    assert_eq!((client.take_next(), client.poll_event()), (None, None));
}

/// The goodbye waits for the last reply; when nobody waits for that any more, and its command
/// has not left, there is nothing to wait for.
#[test]
fn the_goodbye_does_not_wait_for_what_is_taken_back() {
    let mut client = client();
    let [sent, unsent] = [(); 2].map(|()| client.submit(Command::read(0, 512)).unwrap());
    client.sent(28).unwrap();
    client.disconnect(Disconnect::AfterReplies);
    assert!(client.abandon(unsent));
    assert_eq!(client.drain(&mut Vec::new(), &Discard), Ok(0), "one reply is due");
    client.feed(&simple(5, cookie(0), &[]), &mut Discard).unwrap();
    assert_eq!(client.status(sent), RequestStatus::Completed);
    assert_eq!(client.drain(&mut Vec::new(), &Discard), Ok(28));

    let mut client = self::client();
    let unsent = client.submit(Command::read(0, 512)).unwrap();
    client.disconnect(Disconnect::AfterReplies);
    assert!(client.abandon(unsent));
    assert_eq!(client.drain(&mut Vec::new(), &Discard), Ok(28));
    assert_eq!(client.state_name(), "disconnecting");
}

/// What would become of a command is known without submitting it.
#[test]
fn a_command_is_checked_as_it_would_be_submitted() {
    let mut client = client();
    let commands = [
        Command::read(0, 512),
        Command::read(0, 0),
        Command::read(u64::MAX, 512),
        Command::block_status(0, 512),
        Command::write(0, 512),
    ];
    for command in commands {
        let verdict = client.check(command);
        assert_eq!(client.in_flight(), 0);
        let id = client.submit(command);
        assert_eq!(id.as_ref().map(drop), verdict.as_ref().map(drop), "{command:?}");
        if let Ok(id) = id {
            assert!(client.abandon(id));
        }
    }
    client.disconnect(Disconnect::AfterReplies);
    assert_eq!(client.check(commands[0]), Err(SubmitError::Disconnecting));
}

/// E14: what was agreed on in clear is forgotten, and asked for again by hand.
#[test]
fn tls_by_hand_forgets_extended_headers() {
    let config = ClientConfig::new().option_mode(true);
    let mut negotiation = negotiation(config, &[greeting(3), ack(opt::EXTENDED_HEADERS)]);
    assert_eq!(negotiation.negotiated().headers, HeaderStyle::Extended);
    negotiation.start_tls().unwrap();
    negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    negotiation.feed(&ack(opt::STARTTLS), &mut Discard).unwrap();
    assert_eq!(negotiation.phase(), Phase::StartTls);
    negotiation.tls_ready().unwrap();
    assert_eq!(negotiation.phase(), Phase::Idle);
    assert_eq!(negotiation.negotiated().headers, HeaderStyle::Simple);
    assert!(negotiation.negotiated().tls);
    assert_eq!(negotiation.drain(&mut Vec::new(), &Discard), Ok(0));
}

/// TL14: the server agrees to TLS inside TLS.
#[test]
fn tls_is_not_started_twice() {
    let config = plain().option_mode(true);
    let mut negotiation = negotiation(config, &[greeting(3)]);
    for round in 0..2 {
        negotiation.start_tls().unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
        let result = negotiation.feed(&ack(opt::STARTTLS), &mut Discard);
        if round == 0 {
            result.unwrap();
            negotiation.tls_ready().unwrap();
        } else {
            assert_eq!(result, Err(PeerMisbehaved::TlsTwice.into()));
        }
    }
}

/// X66: the goodbye was sent with the last requests, and the server answers them.
#[test]
fn a_reply_behind_the_goodbye_counts() {
    for delivery in Delivery::ALL {
        let mut client = client();
        let table: Buffers<Vec<u8>> = Buffers::new();
        let (first, second) = (client.submit(Command::flush()), client.submit(Command::flush()));
        client.disconnect(Disconnect::AfterRequests);
        client.drain(&mut Vec::new(), &table).unwrap();
        assert_eq!(client.submit(Command::flush()), Err(SubmitError::Disconnecting));
        let replies = join(&[&simple(0, cookie(0), &[]), &simple(5, 0, &[])]);
        delivery.deliver(&mut client, &mut Discard, &replies).unwrap();
        client.eof().unwrap();
        assert_eq!(client.take(first.unwrap()).unwrap().1, Ok(()), "{delivery:?}");
        // Nobody knows whether the other one was done.
        let lost = Err(CommandError::ConnectionLost);
        assert_eq!(client.take(second.unwrap()).unwrap().1, lost, "{delivery:?}");
        assert!(client.is_closed() && client.error().is_none(), "{delivery:?}");
    }
}

/// O51 by a driver: zeroes behind the end of the negotiation are in the buffer when
/// the client begins, more of them than a header takes.
#[test]
fn what_came_with_the_last_option_is_not_lost() {
    let mut negotiation = negotiation(plain(), &[greeting(3)]);
    let burst = join(&[&granted(), &[0; 124]]);
    let mut sink = Discard;
    let bufs = negotiation.recv_bufs(&mut sink);
    bufs.scratch[..burst.len()].copy_from_slice(&burst);
    negotiation.received(burst.len(), &mut Discard).unwrap();
    let mut client = negotiation.finish().unwrap();
    assert!(client.has_buffered());
    let id = client.submit(Command::read(0, 64 << 10)).unwrap();
    assert!(!client.recv_bufs(&mut Discard).is_empty());
    let error = Error::from(InvalidMessage::ReplyMagic);
    assert_eq!(client.received(0, &mut Discard), Err(error.clone()));
    assert_eq!(client.take(id).unwrap().1, Err(CommandError::ConnectionLost));
    assert_eq!(client.error(), Some(&error));
}

/// Half a request has left when the transport fails. What came behind it, were it only
/// the word of farewell, would be taken for the other half.
#[test]
fn nothing_is_sent_behind_half_a_request() {
    let mut client = client();
    let mut table = Buffers::new();
    let id = client.submit(Command::write(0, 4096)).unwrap();
    table.insert(id, vec![0x5a; 4096]);
    client.submit(Command::read(0, 512)).unwrap();
    client.sent(1000).unwrap();
    client.send_failed();
    // Nobody has asked for an end: there is no connection any more to send on.
    assert_eq!(client.submit(Command::flush()), Err(SubmitError::NotConnected));
    for when in [Disconnect::AfterReplies, Disconnect::AbandonUnsent, Disconnect::AfterRequests] {
        client.disconnect(when);
        assert_eq!(client.drain(&mut Vec::new(), &table), Ok(0), "{when:?}");
    }
    assert!(!client.get_direction().contains(Direction::WRITE));
    // Nor is what the server says of data it has not got believed.
    client.feed(&simple(0, cookie(0), &[]), &mut table).unwrap();
    assert_eq!(client.status(id), RequestStatus::InFlight);
    client.eof().unwrap();
    assert_eq!(client.take(id).unwrap().1, Err(CommandError::ConnectionLost));
}

/// Found by fuzzing: behind the last reply of a session that the server ends, a reply to
/// nothing was fatal or not, depending on whether it came in the same piece.
#[test]
fn what_follows_the_last_reply_is_judged_alike_however_it_comes() {
    for delivery in Delivery::ALL {
        let mut client = client();
        let id = client.submit(Command::flush()).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        let replies = join(&[&simple(108, cookie(0), &[]), &simple(0, cookie(7), &[])]);
        delivery.deliver(&mut client, &mut Discard, &replies).unwrap();
        let shutdown = Err(CommandError::Server(Errno::Shutdown));
        assert_eq!(client.take(id).unwrap().1, shutdown, "{delivery:?}");
        assert_eq!(client.state_name(), "disconnecting", "{delivery:?}");
        let Some(Event::Anomaly(anomaly)) = client.poll_event() else {
            panic!("{delivery:?}: {client:?}");
        };
        assert_eq!(anomaly.fault, ReplyFault::UnknownCookie);
    }
}

/// proto.md, "Termination of the session during option haggling": whatever was asked, a
/// server that shuts down is left with a goodbye, and is asked nothing more.
#[test]
fn a_server_that_shuts_down_is_left() {
    let shutdown = |option| claim(option, rep::ERR_SHUTDOWN, 0, &[]);
    let granted = [opt::STARTTLS, opt::EXTENDED_HEADERS, opt::STRUCTURED_REPLY];
    for option in [opt::EXTENDED_HEADERS, opt::STRUCTURED_REPLY, opt::SET_META_CONTEXT, opt::GO] {
        let config = ClientConfig::new()
            .extended_headers(option == opt::EXTENDED_HEADERS)
            .meta_context("base:allocation");
        let mut bursts = vec![greeting(3)];
        if !granted.contains(&option) {
            bursts.push(ack(opt::STRUCTURED_REPLY));
        }
        if option == opt::GO {
            bursts.push(ack(opt::SET_META_CONTEXT));
        }
        let mut negotiation = negotiation(config, &bursts);
        let error = negotiation.feed(&shutdown(option), &mut Discard).unwrap_err();
        let Error::Refused(refusal) = &error else { panic!("{error}") };
        assert_eq!((refusal.option.to_wire(), refusal.code), (option, RefusalCode::Shutdown));
        assert!(error.is_transient());
        let mut sent = Vec::new();
        negotiation.drain(&mut sent, &Discard).unwrap();
        assert_eq!(sent, b"IHAVEOPT\0\0\0\x02\0\0\0\0", "{option}");
    }
    // By hand, it is for the caller to go.
    let mut negotiation = negotiation(
        ClientConfig::new().option_mode(true),
        &[greeting(3), ack(opt::EXTENDED_HEADERS)],
    );
    negotiation.list().unwrap();
    negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    negotiation.feed(&shutdown(opt::LIST), &mut Discard).unwrap();
    assert_eq!(negotiation.phase(), Phase::Idle);
    negotiation.abort().unwrap();
}
