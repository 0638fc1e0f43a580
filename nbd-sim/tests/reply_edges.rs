//! Replies at the edges of what is allowed: the last that is, the first that is not, and
//! bytes that look like a reply where none is due.

use nbd_proto::{
    Buffers, Client, ClientConfig, Command, CommandError, Discard, Errno, ErrorReport, Event,
    Limits, Machine, Negotiation, PayloadSink, PeerMisbehaved, ReplyFault, RequestId, Stats,
};
use nbd_sim::delivery::Delivery;
use nbd_sim::hostile::bytes::{
    DONE, MORE, ack, chunk, chunk_claim, cookie, data, error, granted, greeting, join, kind, opt,
    simple, xchunk_claim,
};

const PAYLOAD: u32 = 64 << 20;

/// A client after the options that were granted.
fn client(options: &[u32]) -> Client {
    let config = ClientConfig::new()
        .structured_replies(!options.is_empty())
        .extended_headers(options.contains(&opt::EXTENDED_HEADERS))
        .limits(Limits::default().max_payload(PAYLOAD));
    let mut negotiation = Negotiation::new(config).unwrap();
    let grants = options.iter().map(|option| ack(*option));
    for burst in [greeting(3)].into_iter().chain(grants).chain([granted()]) {
        negotiation.feed(&burst, &mut Discard).unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    }
    negotiation.finish().unwrap()
}

fn simple_client() -> Client {
    client(&[])
}

fn structured() -> Client {
    client(&[opt::STRUCTURED_REPLY])
}

fn extended() -> Client {
    client(&[opt::EXTENDED_HEADERS])
}

/// Submits reads and sends them.
fn reads(client: &mut Client, lengths: &[u32]) -> Vec<RequestId> {
    let ids = lengths.iter().map(|length| client.submit(Command::read(0, *length)).unwrap());
    let ids = ids.collect();
    client.drain(&mut Vec::new(), &Discard).unwrap();
    ids
}

/// What was told of errors, and buffers for reads.
#[derive(Default)]
struct Sink {
    table: Buffers<Vec<u8>>,
    errors: Vec<(Option<u64>, Vec<u8>)>,
}

impl PayloadSink for Sink {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.table.region(id, at, len)
    }

    fn error(&mut self, _id: RequestId, report: ErrorReport<'_>) {
        self.errors.push((report.offset, report.message.to_vec()));
    }
}

/// The longest chunk there may be is not judged by its length; one byte more is.
#[test]
fn a_chunk_may_be_as_long_as_the_limit() {
    let most = u64::from(PAYLOAD) + 8;
    for (length, result) in [(most, Ok(())), (most + 1, Err(PeerMisbehaved::TooLong.into()))] {
        let replies = [
            (structured(), chunk_claim(DONE, kind::ERROR, cookie(0), length as u32, &[])),
            (extended(), xchunk_claim(DONE, kind::ERROR, cookie(0), 0, length, &[])),
        ];
        for (mut client, reply) in replies {
            reads(&mut client, &[512]);
            let seen = client.feed(&reply, &mut Discard).map(drop);
            assert_eq!(seen, result, "{length}, {client:?}");
        }
    }
}

/// An error's place is told if it is in the request: from its first byte to its last.
#[test]
fn the_place_of_an_error_is_inside_its_request() {
    let cases = [(4096, Some(4096)), (4607, Some(4607)), (4608, None), (4095, None)];
    for (at, told) in cases {
        let mut client = structured();
        client.submit(Command::read(4096, 512)).unwrap();
        client.drain(&mut Vec::new(), &Discard).unwrap();
        let body = join(&[&error(5, b"bad"), &u64::to_be_bytes(at)]);
        let mut sink = Sink::default();
        client.feed(&chunk(DONE, kind::ERROR_OFFSET, cookie(0), &body), &mut sink).unwrap();
        assert_eq!(sink.errors, [(told, b"bad".to_vec())], "{at}");
        let Some(Event::Completed { result, .. }) = client.poll_event() else {
            panic!("{client:?}");
        };
        assert!(result.is_err());
    }
}

/// A whole reply in a whole chunk, behind a piece of itself: the piece is not forgotten.
#[test]
fn a_whole_read_does_not_follow_a_piece_of_it() {
    let piece = chunk(MORE, kind::OFFSET_DATA, cookie(0), &data(0, 256));
    let whole = chunk(DONE, kind::OFFSET_DATA, cookie(0), &data(0, 512));
    for delivery in Delivery::ALL {
        let mut client = structured();
        let id = reads(&mut client, &[512])[0];
        let mut sink = Sink::default();
        sink.table.insert(id, vec![0; 512]);
        delivery.deliver(&mut client, &mut sink, &join(&[&piece, &whole])).unwrap();
        let result = client.take(id).unwrap().1;
        assert_eq!(result, Err(CommandError::Fault(ReplyFault::Overlap)), "{delivery:?}");
    }
}

/// The words of an error are words, even if they read like the reply to another command.
#[test]
fn words_are_not_taken_for_a_reply() {
    let reply = chunk(DONE, kind::OFFSET_DATA, cookie(1), &data(0, 512));
    let words = chunk(DONE, kind::ERROR, cookie(0), &error(5, &reply));
    for delivery in Delivery::ALL {
        let mut client = structured();
        let ids = reads(&mut client, &[512, 512]);
        let mut sink = Sink::default();
        delivery.deliver(&mut client, &mut sink, &words).unwrap();
        assert_eq!(sink.errors, [(None, reply.clone())], "{delivery:?}");
        assert_eq!(client.take(ids[0]).unwrap().1, Err(CommandError::Server(Errno::Io)));
        assert_eq!(client.in_flight(), 1, "{delivery:?}");
    }
}

/// The whole reply to a read that is not sent, or that nobody waits for, is no shortcut
/// to the buffer of it.
#[test]
fn a_whole_read_is_for_whoever_waits_for_it() {
    let reply = chunk(DONE, kind::OFFSET_DATA, cookie(0), &data(0, 512));
    let mut client = structured();
    let id = reads(&mut client, &[512])[0];
    client.abandon(id);
    let mut sink = Sink::default();
    sink.table.insert(id, vec![0; 512]);
    client.feed(&reply, &mut sink).unwrap();
    assert_eq!(sink.table.remove(id).unwrap(), vec![0; 512]);
    assert_eq!((client.poll_event(), client.in_flight()), (None, 0));

    // No byte of the request has left: the command is over, but only once it has.
    let mut client = structured();
    let id = client.submit(Command::read(0, 512)).unwrap();
    sink.table.insert(id, vec![0; 512]);
    client.feed(&reply, &mut sink).unwrap();
    assert_eq!((client.poll_event(), client.in_flight()), (None, 1));
    client.drain(&mut Vec::new(), &Discard).unwrap();
    assert_eq!(client.take(id).unwrap().1, Ok(()));
}

/// Said twice, it is counted twice and believed once.
#[test]
fn a_whole_read_is_believed_once() {
    let reply = chunk(DONE, kind::OFFSET_DATA, cookie(0), &data(0, 512));
    for delivery in Delivery::ALL {
        let mut client = structured();
        let id = reads(&mut client, &[512])[0];
        let before = *client.stats();
        let mut sink = Sink::default();
        sink.table.insert(id, vec![0; 512]);
        delivery.deliver(&mut client, &mut sink, &join(&[&reply, &reply])).unwrap();
        let Some(Event::Completed { result, .. }) = client.poll_event() else {
            panic!("{delivery:?}: {client:?}");
        };
        assert_eq!(result, Ok(()));
        let Some(Event::Anomaly(anomaly)) = client.poll_event() else {
            panic!("{delivery:?}: {client:?}");
        };
        assert_eq!((anomaly.fault, anomaly.id), (ReplyFault::UnknownCookie, id), "{delivery:?}");
        assert_eq!((client.poll_event(), client.in_flight()), (None, 0));
        let after = client.stats();
        assert_eq!(after.messages_received - before.messages_received, 2, "{delivery:?}");
        let moved = |stats: &Stats| stats.bytes_copied + stats.bytes_placed;
        assert_eq!(moved(after) - moved(&before), 512, "{delivery:?}");
    }
}

/// Data that nobody takes is read over, and the command says so.
#[test]
fn data_without_a_place_fails_its_command() {
    let replies = [
        (simple_client(), simple(0, cookie(0), &[7; 512])),
        (structured(), chunk(DONE, kind::OFFSET_DATA, cookie(0), &data(0, 512))),
        (extended(), xchunk_claim(DONE, kind::OFFSET_DATA, cookie(0), 0, 520, &data(0, 512))),
    ];
    for (mut client, reply) in replies {
        let id = reads(&mut client, &[512])[0];
        client.feed(&reply, &mut Discard).unwrap();
        assert_eq!(client.take(id).unwrap().1, Err(CommandError::NoDestination), "{client:?}");
        assert_eq!(client.in_flight(), 0);
    }
}

/// When a large payload is next, what is offered besides is as small as its header, so
/// that the payload cannot spill into it.
#[test]
fn only_a_header_is_read_before_a_large_payload() {
    const LARGE: u32 = 64 << 10;
    let large = LARGE as usize;
    let heads = [
        (simple_client(), 16, simple(0, cookie(0), &[])),
        (structured(), 28, chunk_claim(DONE, kind::OFFSET_DATA, cookie(0), 8 + LARGE, &[0; 8])),
        (
            extended(),
            40,
            xchunk_claim(DONE, kind::OFFSET_DATA, cookie(0), 0, 8 + u64::from(LARGE), &[0; 8]),
        ),
    ];
    for (mut client, header, head) in heads {
        let ids = reads(&mut client, &[LARGE, LARGE, 512]);
        let mut table = Buffers::new();
        for id in &ids {
            table.insert(*id, vec![0; large]);
        }
        assert_eq!(client.recv_bufs(&mut table).scratch.len(), header);
        assert_eq!(head.len(), header);
        client.feed(&head, &mut table).unwrap();
        // The second is as large.
        let bufs = client.recv_bufs(&mut table);
        assert_eq!((bufs.payload.len(), bufs.scratch.len()), (large, header));
        client.feed(&vec![7; large], &mut table).unwrap();
        assert!(client.take(ids[0]).unwrap().1.is_ok());
        let cookie_ends = 15;
        let mut head = head;
        head[cookie_ends] = 1;
        client.feed(&head, &mut table).unwrap();
        // The third is small.
        let bufs = client.recv_bufs(&mut table);
        assert_eq!(bufs.payload.len(), large);
        assert!(bufs.scratch.len() > header, "{}", bufs.scratch.len());
    }
}
