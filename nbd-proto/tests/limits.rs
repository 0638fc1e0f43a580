//! The last that a limit allows, and the first that it does not.

use nbd_proto::{
    Client, ClientConfig, Command, CommandError, ContextId, Discard, Error, Limits, Machine,
    Negotiation, PeerMisbehaved, ReplyFault, ServerConfig, ServerNegotiation, ServerPhase, Table,
};
use nbd_sim::delivery::negotiation;
use nbd_sim::hostile::bytes::{
    DONE, FLAGS, MORE, ack, chunk, claim, context, cookie, data, export, granted, greeting, kind,
    opt, rep, server, status, status_ext, xchunk,
};

/// What comes of these replies to one option, and to the same option again.
fn listed(limits: Limits, replies: &[u8]) -> Result<usize, Error> {
    let config = ClientConfig::new().structured_replies(false).option_mode(true).limits(limits);
    let mut negotiation = negotiation(config, &[greeting(3)]);
    for _ in 0..2 {
        negotiation.list().unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
        negotiation.feed(replies, &mut Discard)?;
    }
    Ok(replies.len())
}

#[test]
fn replies_to_an_option_are_counted_from_its_first_to_its_last() {
    for (entries, result) in [(2, Ok(())), (3, Err(PeerMisbehaved::TooManyReplies.into()))] {
        let replies = [server(b"disk", b"").repeat(entries), ack(opt::LIST)].concat();
        let seen = listed(Limits::default().max_option_replies(3), &replies).map(drop);
        assert_eq!(seen, result, "{entries}");
    }
}

#[test]
fn bytes_of_replies_to_an_option_are_counted_together() {
    // Each of 4 bytes of length and 96 of the name.
    let replies = [server(&[b'x'; 96], b"").repeat(3), ack(opt::LIST)].concat();
    for (most, result) in [(300, Ok(())), (299, Err(PeerMisbehaved::TooLong.into()))] {
        let seen = listed(Limits::default().max_option_bytes(most), &replies).map(drop);
        assert_eq!(seen, result, "{most}");
    }
}

/// proto.md, "Conventions": no string is longer than 4096 bytes, and so no refusal's words.
#[test]
fn the_words_of_a_refusal_are_as_long_as_a_string_may_be() {
    for (length, result) in [(4096, Ok(())), (4097, Err(PeerMisbehaved::TooLong.into()))] {
        let refusal = claim(opt::LIST, rep::ERR_POLICY, length as u32, &vec![b'x'; length]);
        assert_eq!(listed(Limits::default(), &refusal).map(drop), result, "{length}");
    }
}

#[test]
fn an_option_brings_a_server_as_much_data_as_the_limit() {
    for (length, result) in [(100_u32, Ok(())), (101, Err(PeerMisbehaved::TooLong.into()))] {
        let limits = Limits::default().max_option_bytes(100);
        let mut server = ServerNegotiation::new(ServerConfig::new().limits(limits));
        server.feed(&[0, 0, 0, 3], &mut Discard).unwrap();
        let unknown = [&b"IHAVEOPT\0\0\0\x63"[..], &length.to_be_bytes()].concat();
        let seen = server.feed(&unknown, &mut Discard).map(drop);
        assert_eq!(seen, result, "{length}");
        if seen.is_ok() {
            server.feed(&[0; 100], &mut Discard).unwrap();
            assert_eq!(server.phase(), ServerPhase::Busy, "it is refused, and that is all");
        }
    }
}

const MOST: u32 = 256;

/// The replies that grant so many contexts: their numbers count down from 1000.
fn contexts(count: u32) -> Vec<u8> {
    let granted = (0..count).flat_map(|n| context(1000 - n, format!("x:{n}").as_bytes()));
    granted.chain(ack(opt::SET_META_CONTEXT)).collect()
}

fn asking(headers: u32) -> Negotiation {
    let config =
        ClientConfig::new().extended_headers(headers == opt::EXTENDED_HEADERS).meta_context("x:");
    negotiation(config, &[greeting(3), ack(headers)])
}

fn client(headers: u32) -> Client {
    let mut negotiation = asking(headers);
    for burst in [contexts(MOST), [export(1 << 20, FLAGS | 1 << 12), ack(opt::GO)].concat()] {
        negotiation.feed(&burst, &mut Discard).unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    }
    negotiation.finish().unwrap()
}

#[test]
fn as_many_contexts_are_granted_as_can_be_told_apart() {
    let mut negotiation = asking(opt::STRUCTURED_REPLY);
    let result = negotiation.feed(&contexts(MOST + 1), &mut Discard);
    assert_eq!(result, Err(PeerMisbehaved::TooManyReplies.into()));
    let mut negotiation = asking(opt::STRUCTURED_REPLY);
    negotiation.feed(&contexts(MOST), &mut Discard).unwrap();
    assert_eq!(negotiation.negotiated().contexts.len(), MOST as usize);
}

/// Every single one is missed, and every one is noticed that comes twice.
#[test]
fn each_of_many_contexts_is_reported_once() {
    let report = |number: u32, last: bool| {
        let body = status(number, &[(512, 0)]);
        chunk(if last { DONE } else { MORE }, kind::BLOCK_STATUS, cookie(0), &body)
    };
    let outcome = |numbers: Vec<u32>| {
        let mut client = client(opt::STRUCTURED_REPLY);
        let id = client.submit(Command::block_status(0, 512)).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        let chunks = numbers.iter().map(|number| report(*number, false));
        let end = chunk(DONE, kind::NONE, cookie(0), &[]);
        let reply: Vec<u8> = chunks.chain([end]).flatten().collect();
        client.feed(&reply, &mut Discard).unwrap();
        client.take(id).unwrap().1
    };
    let all: Vec<u32> = (1001 - MOST..=1000).collect();
    assert_eq!(outcome(all.clone()), Ok(()));
    for at in [0, 1, 63, 64, 65, 127, 128, 191, 192, 254, 255] {
        let mut missing = all.clone();
        let number = missing.remove(at);
        assert_eq!(outcome(missing), fault(ReplyFault::MissingContext), "{number}");
        let twice = [&all[..], &[number]].concat();
        assert_eq!(outcome(twice), fault(ReplyFault::DuplicateContext), "{number}");
    }
    for unknown in [1000 - MOST, 1001] {
        let more = [&all[..], &[unknown]].concat();
        assert_eq!(outcome(more), fault(ReplyFault::UnknownContext), "{unknown}");
    }
}

/// One of many is asked for: no other is an answer.
#[test]
fn a_filter_names_one_of_many_contexts() {
    for (asked, told, result) in [
        (1000, 1000, Ok(())),
        (900, 900, Ok(())),
        (1001 - MOST, 1001 - MOST, Ok(())),
        (900, 900 - 64, fault(ReplyFault::UnknownContext)),
        (800, 801, fault(ReplyFault::UnknownContext)),
    ] {
        let mut client = client(opt::EXTENDED_HEADERS);
        let status = Command::block_status(0, 512);
        let id = client.submit_filtered(status, &[ContextId(asked)]).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        let body = status_ext(told, 1, &[(512, 0)]);
        let reply = xchunk(DONE, kind::BLOCK_STATUS_EXT, cookie(0), &body);
        client.feed(&reply, &mut Discard).unwrap();
        assert_eq!(client.take(id).unwrap().1, result, "{asked}, {told}");
    }
}

/// Pieces that lie apart count; neighbours are one, whichever of them came first.
#[test]
fn a_reply_may_come_in_so_many_pieces() {
    for (most, result) in [(3, Ok(())), (2, fault(ReplyFault::TooScattered))] {
        let limits = Limits::default().max_fragments(most);
        let config = ClientConfig::new().extended_headers(false).limits(limits);
        let bursts = [greeting(3), ack(opt::STRUCTURED_REPLY), granted()];
        let mut client = negotiation(config, &bursts).finish().unwrap();
        let id = client.submit(Command::read(0, 12 * 512)).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        let mut table = Table::new();
        table.insert(id, vec![0; 12 * 512]);
        // Three apart; one behind and one before its neighbour, one between two, which makes
        // room for 9; 6 does so for 11; the rest joins what is delivered from the start.
        let pieces = [1, 4, 7, 5, 3, 2, 9, 6, 11, 0, 8, 10];
        for at in pieces {
            let flags = if at == 10 { DONE } else { MORE };
            let piece = chunk(flags, kind::OFFSET_DATA, cookie(0), &data(at * 512, 512));
            client.feed(&piece, &mut table).unwrap();
        }
        assert_eq!(client.take(id).unwrap().1, result, "{most}");
    }
}

const fn fault(fault: ReplyFault) -> Result<(), CommandError> {
    Err(CommandError::Fault(fault))
}
