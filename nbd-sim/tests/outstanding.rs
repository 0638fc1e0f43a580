//! What a client tells of the commands that are under way: which they are, what the server
//! owes, whether it gets on with it, and which buffers are still in use.

use nbd_proto::{
    Buffers, Client, ClientConfig, Command, CommandError, CommandFlags, ContextId, Discard,
    Disconnect, Event, Machine, Outstanding, RequestId,
};
use nbd_sim::delivery::{Delivery, negotiation};
use nbd_sim::hostile::bytes::{
    DONE, MORE, ack, chunk, context, cookie, data, error, granted, greeting, hole, kind, opt,
    simple, status,
};

fn plain() -> Client {
    let config = ClientConfig::new().structured_replies(false).extended_headers(false);
    negotiation(config, &[greeting(3), granted()]).finish().unwrap()
}

/// With `base:allocation` as context 1.
fn structured() -> Client {
    client(opt::STRUCTURED_REPLY)
}

fn extended() -> Client {
    client(opt::EXTENDED_HEADERS)
}

fn client(form: u32) -> Client {
    let config = ClientConfig::new()
        .meta_context("base:allocation")
        .extended_headers(form == opt::EXTENDED_HEADERS);
    let contexts = [context(1, b"base:allocation"), ack(opt::SET_META_CONTEXT)].concat();
    negotiation(config, &[greeting(3), ack(form), contexts, granted()]).finish().unwrap()
}

/// Transfers, operations, abandoned ones.
fn outstanding(client: &Client) -> (usize, usize, usize) {
    let Outstanding { transfers, operations, unsent, abandoned, .. } = client.outstanding();
    assert_eq!(client.outstanding().sent_operations(), operations - unsent);
    assert_eq!(client.outstanding().all(), client.in_flight());
    assert_eq!(client.outstanding().wanted(), client.in_flight() - abandoned);
    (transfers, operations, abandoned)
}

fn send(client: &mut Client) {
    client.drain(&mut Vec::new(), &Zeroes).unwrap();
}

/// Payload for any write.
struct Zeroes;

impl nbd_proto::PayloadSource for Zeroes {
    fn bytes(&self, _id: RequestId, _at: usize, len: usize) -> &[u8] {
        &[0; 1 << 20][..len]
    }
}

/// How a command comes to its end.
type End = fn(&mut Client);

#[test]
fn every_command_is_counted_by_its_kind_until_it_ends() {
    let kinds = [
        (Command::read(0, 512), (1, 0, 0)),
        (Command::write(0, 512), (1, 0, 0)),
        (Command::block_status(0, 512), (1, 0, 0)),
        (Command::flush(), (0, 1, 0)),
        (Command::trim(0, 512), (0, 1, 0)),
        (Command::write_zeroes(0, 512), (0, 1, 0)),
        (Command::cache(0, 512), (0, 1, 0)),
    ];
    for (command, one) in kinds {
        let answered = |client: &mut Client| {
            let reply = chunk(DONE, kind::ERROR, cookie(0), &error(5, b""));
            client.feed(&reply, &mut Discard).unwrap();
        };
        let ends: [(&str, bool, End); 3] = [
            ("answered", true, answered),
            ("taken back", false, |client| client.disconnect(Disconnect::AbandonUnsent)),
            ("lost", true, |client| drop(client.eof())),
        ];
        for (how, sent, end) in ends {
            let mut client = structured();
            let id = client.submit(command).unwrap();
            assert_eq!((outstanding(&client), client.command(id)), (one, Some(command)));
            assert_eq!(client.outstanding().unsent, one.1, "{command}");
            if sent {
                send(&mut client);
                assert_eq!(client.outstanding().unsent, 0, "{command}");
            }
            end(&mut client);
            assert_eq!(outstanding(&client), (0, 0, 0), "{command} {how}");
            assert_eq!(client.command(id), Some(command), "{command} {how}");
            assert_eq!(client.take(id).map(|(command, _)| command), Some(command));
            assert_eq!(client.command(id), None);
        }

        // Abandoned before it is sent, and after.
        let mut client = structured();
        let id = client.submit(command).unwrap();
        assert!(client.abandon(id));
        assert_eq!((outstanding(&client), client.command(id)), ((0, 0, 0), None));
        let id = client.submit(command).unwrap();
        send(&mut client);
        assert!(!client.abandon(id) && !client.abandon(id), "{command}");
        assert_eq!((outstanding(&client), client.command(id)), ((one.0, one.1, 1), Some(command)));
        let reply = chunk(DONE, kind::ERROR, id.to_cookie(), &error(5, b""));
        client.feed(&reply, &mut Discard).unwrap();
        assert_eq!((outstanding(&client), client.command(id)), ((0, 0, 0), None), "{command}");
    }
}

/// A reply that comes before the request has been accounted for is no end of it.
#[test]
fn a_command_that_is_answered_too_early_is_owed_until_it_is_sent() {
    let mut client = plain();
    let ids = [(); 5].map(|()| client.submit(Command::write(0, 512)).unwrap());
    // In another order than that of submission.
    for slot in [3, 1, 0, 4, 2] {
        client.feed(&simple(0, cookie(slot), &[]), &mut Discard).unwrap();
    }
    assert_eq!((outstanding(&client), client.completed()), ((5, 0, 0), 0));
    client.sent(28 + 512 + 28).unwrap();
    assert_eq!((outstanding(&client), client.peek_completed()), ((4, 0, 0), Some(ids[0])));
    // The second is partly sent; of the third nothing is.
    assert!(!client.abandon(ids[1]) && client.abandon(ids[2]));
    assert_eq!(outstanding(&client), (3, 0, 1));
    assert!(client.needs_payload(ids[1]) && client.needs_payload(ids[3]));
    client.abandon_all();
    assert_eq!((outstanding(&client), client.completed()), ((1, 0, 1), 0));
    assert_eq!(client.drain(&mut Vec::new(), &Zeroes), Ok(512));
    assert_eq!((outstanding(&client), client.poll_event()), ((0, 0, 0), None));
}

/// Of what was abandoned, at most one needs its payload: the one that is partly sent.
#[test]
fn a_buffer_is_free_when_its_last_byte_has_left() {
    let mut client = plain();
    let first = client.submit(Command::write(0, 512)).unwrap();
    let read = client.submit(Command::read(0, 512)).unwrap();
    let second = client.submit(Command::write(0, 512)).unwrap();
    assert!(client.needs_payload(first) && client.needs_payload(second));
    assert!(!client.needs_payload(read), "it has none");
    client.sent(1).unwrap();
    assert!(!client.abandon(first));
    assert!(client.needs_payload(first));
    client.sent(28 + 512 - 2).unwrap();
    assert!(client.needs_payload(first), "one byte is left");
    client.sent(1).unwrap();
    assert!(!client.needs_payload(first) && client.needs_payload(second));
    assert_eq!(client.command(first), Some(Command::write(0, 512)), "its reply is to come");
    // What is not sent when the transport fails never will be.
    client.sent(28 + 28 + 100).unwrap();
    assert!(!client.abandon(second) && client.needs_payload(second));
    client.send_failed();
    assert!(!client.needs_payload(second));
}

/// Bytes for reads.
fn buffers(ids: &[RequestId]) -> Buffers<Vec<u8>> {
    let mut table = Buffers::new();
    for id in ids {
        table.insert(*id, vec![0; 4096]);
    }
    table
}

/// Whether each of these bursts is progress, however it comes.
fn check(submit: impl Fn(&mut Client) -> Vec<RequestId>, bursts: &[(&str, Vec<u8>, bool)]) {
    for delivery in Delivery::ALL {
        let mut client = structured();
        let ids = submit(&mut client);
        let mut table = buffers(&ids);
        send(&mut client);
        for (what, burst, moves) in bursts {
            let before = client.progress();
            delivery.deliver(&mut client, &mut table, burst).unwrap();
            assert_eq!(client.progress() > before, *moves, "{what}, {delivery:?}");
        }
    }
}

#[test]
fn what_brings_a_command_forward_is_progress() {
    let read = |client: &mut Client| vec![client.submit(Command::read(0, 4096)).unwrap()];
    let part = chunk(MORE, kind::OFFSET_DATA, cookie(0), &data(0, 512));
    let (head, body) = part.split_at(28);
    let trouble = chunk(MORE, kind::ERROR, cookie(0), &error(5, b"trouble"));
    let stranger = chunk(MORE, kind::OFFSET_DATA, cookie(9), &data(0, 512));
    let simple_read = simple(0, cookie(0), &[7; 4096]);
    check(
        read,
        &[
            ("a header", head.to_vec(), false),
            ("a byte", body[..1].to_vec(), true),
            ("the rest", body[1..].to_vec(), true),
            ("the same again", part.clone(), false),
            ("an error", trouble.clone(), false),
            ("more errors", trouble.repeat(100), false),
            ("a reply to nothing", stranger.clone(), false),
            ("more replies to nothing", stranger.repeat(100), false),
            ("a hole", chunk(MORE, kind::OFFSET_HOLE, cookie(0), &hole(512, 512)), true),
            ("it again", chunk(MORE, kind::OFFSET_HOLE, cookie(0), &hole(512, 512)), false),
            ("the end", chunk(DONE, kind::NONE, cookie(0), &[]), true),
            ("another end", chunk(DONE, kind::NONE, cookie(0), &[]), false),
        ],
    );
    check(
        read,
        &[
            ("a form that is not believed", simple_read[..4096].to_vec(), false),
            ("its end", simple_read[4096..].to_vec(), true),
        ],
    );
    let two = |client: &mut Client| vec![client.submit(Command::read(0, 4096)).unwrap(); 2];
    let whole = chunk(DONE, kind::OFFSET_DATA, cookie(0), &data(0, 4096));
    check(two, &[("all at once", whole.clone(), true), ("it again", whole, false)]);
    // Data of a read that nobody waits for is work the server has done.
    let abandoned = |client: &mut Client| {
        let id = client.submit(Command::read(0, 4096)).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        client.abandon(id);
        vec![]
    };
    check(abandoned, &[("data", part, true)]);
}

#[test]
fn an_extent_further_on_is_progress() {
    let asked = |client: &mut Client| {
        client.submit(Command::block_status(0, 4096)).unwrap();
        vec![]
    };
    let all = chunk(MORE, kind::BLOCK_STATUS, cookie(0), &status(1, &[(1, 0), (4095, 0)]));
    let other = chunk(MORE, kind::BLOCK_STATUS, cookie(0), &status(9, &[(512, 0)]));
    check(
        asked,
        &[
            ("of a context that was not asked for", other, false),
            ("a header", all[..24].to_vec(), false),
            ("one byte of the disk", all[24..32].to_vec(), true),
            ("the rest of it", all[32..].to_vec(), true),
            ("all of it again", all, false),
            ("the end", chunk(DONE, kind::NONE, cookie(0), &[]), true),
        ],
    );
}

/// What leaves is no progress, nor what the client does by itself.
#[test]
fn nothing_but_the_server_makes_progress() {
    let mut client = plain();
    let ids = [(); 3].map(|()| client.submit(Command::write(0, 4096)).unwrap());
    client.sent(4096).unwrap();
    client.abandon(ids[2]);
    client.disconnect(Disconnect::AbandonUnsent);
    send(&mut client);
    client.eof().unwrap();
    assert_eq!(client.progress(), 0);
}

/// The flag that extended headers need is the machine's affair.
#[test]
fn what_is_completed_is_what_was_submitted() {
    let filtered = Command::block_status(0, 512);
    let fua = Command::write(0, 512).with(CommandFlags::FUA);
    for command in [Command::read(0, 512), fua, filtered] {
        let mut client = extended();
        let id = if command == filtered {
            client.set_strict(nbd_proto::StrictMode::AUTO_FLAG);
            client.submit_filtered(command, &[ContextId(1)]).unwrap()
        } else {
            client.submit(command).unwrap()
        };
        assert_eq!(client.command(id), Some(command));
        let mut sent = Vec::new();
        client.drain(&mut sent, &Zeroes).unwrap();
        let flagged = CommandFlags::PAYLOAD_LEN.bits();
        let expected = if command.kind == nbd_proto::CommandType::Read { 0 } else { flagged };
        assert_eq!(u16::from_be_bytes([sent[4], sent[5]]) & flagged, expected, "{command}");
        client.eof().unwrap_err();
        let result = Err(CommandError::ConnectionLost);
        assert_eq!(client.poll_event(), Some(Event::Completed { id, command, result }));
    }
}

/// By simple replies, and by small chunks, which are taken whole.
#[test]
fn a_server_is_known_by_what_its_answers_overtake() {
    for (mut client, is_structured) in [(plain(), false), (structured(), true)] {
        let commands =
            [Command::flush(), Command::read(0, 8), Command::trim(0, 512), Command::read(8, 8)];
        let ids = commands.map(|command| client.submit(command).unwrap());
        client.drain(&mut Vec::new(), &Discard).unwrap();
        let mut buffers = Buffers::new();
        for id in ids {
            buffers.insert(id, vec![0; 8]);
        }
        assert_eq!(client.outstanding().overtaken, 0);
        for (which, overtaken) in [(1, 1), (3, 2), (0, 2), (2, 2)] {
            let (cookie, Command { offset, length, .. }) =
                (ids[which].to_cookie(), commands[which]);
            let reads = which % 2 == 1;
            let bytes = match (reads, is_structured) {
                (true, true) => {
                    chunk(DONE, kind::OFFSET_DATA, cookie, &data(offset, length as usize))
                }
                (true, false) => simple(0, cookie, &[1; 8]),
                (false, _) => simple(0, cookie, &[]),
            };
            client.feed(&bytes, &mut buffers).unwrap();
            assert_eq!(client.outstanding().overtaken, overtaken, "{which}");
        }
        assert_eq!(client.in_flight(), 0);
        assert!(std::iter::from_fn(|| client.take_next()).all(|(_, _, result)| result.is_ok()));
    }
}

#[test]
fn a_server_that_shuts_down_is_known_whoever_is_told() {
    for abandoned in [false, true] {
        let mut client = plain();
        let id = client.submit(Command::flush()).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        if abandoned {
            client.abandon(id);
        }
        assert!(!client.is_shutting_down());
        client.feed(&simple(108, id.to_cookie(), &[]), &mut Discard).unwrap();
        assert!(client.is_shutting_down() && client.is_disconnecting());
    }
}
