//! What a server tells of a request is what its client sent, and counters only grow.

use nbd_proto::wire::request::RequestHeader;
use nbd_proto::{
    CommandFlags, CommandType, Discard, ExportInfo, Machine, PayloadSink, PayloadSource, Question,
    RequestId, Server, ServerConfig, ServerEvent, ServerNegotiation, Stats, TransmissionFlags,
};

/// Whatever a client likes.
const COOKIES: [u64; 4] = [0, 0xdead_beef, u64::MAX, 1 << 32];

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let (number, length) = (number.to_be_bytes(), (data.len() as u32).to_be_bytes());
    [&b"IHAVEOPT"[..], &number, &length, data].concat()
}

/// A server, and what it had counted before.
fn server() -> (Server, Stats) {
    let mut server = ServerNegotiation::new(ServerConfig::new());
    let options = [option(8, &[]), option(99, &[]), option(98, &[]), option(7, b"\0\0\0\0\0\0")];
    server.feed(&[&[0, 0, 0, 3], &options.concat()[..]].concat(), &mut Discard).unwrap();
    while server.question().is_none() {
        server.received(0, &mut Discard).unwrap();
    }
    assert!(matches!(server.question(), Some(Question::Go(_))));
    server.describe(ExportInfo::new(1 << 20, TransmissionFlags::HAS_FLAGS)).unwrap();
    server.drain(&mut Vec::new(), &Discard).unwrap();
    let before = *server.stats();
    (server.finish().unwrap(), before)
}

fn request(kind: CommandType, cookie: u64) -> Vec<u8> {
    let (flags, kind) = (CommandFlags::empty(), kind.to_wire());
    let header = RequestHeader { flags, kind, cookie, offset: 0, length: 4 };
    header.encode_compact().unwrap().to_vec()
}

/// Memory that notes whose it is.
#[derive(Default)]
struct Memory {
    bytes: [u8; 4],
    cookies: Vec<u64>,
}

impl PayloadSink for Memory {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.cookies.push(id.to_cookie());
        &mut self.bytes[at..at + len]
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        assert!(COOKIES.contains(&id.to_cookie()), "{id:?}");
        &self.bytes[at..at + len]
    }
}

#[test]
fn an_id_has_the_cookie_that_the_client_chose() {
    for kind in [CommandType::Read, CommandType::Write] {
        let (mut server, _) = server();
        let mut memory = Memory::default();
        for cookie in COOKIES {
            server.feed(&request(kind, cookie), &mut memory).unwrap();
            if kind == CommandType::Write {
                server.feed(b"data", &mut memory).unwrap();
                assert_eq!(memory.cookies.pop(), Some(cookie));
            }
            let Some(ServerEvent::Request { id, .. }) = server.poll_event() else {
                panic!("{server:?}");
            };
            assert_eq!(id.to_cookie(), cookie);
            let done = if kind == CommandType::Read {
                server.reply_data(id)
            } else {
                server.reply(id, Ok(()))
            };
            done.unwrap();
            let mut sent = Vec::new();
            server.drain(&mut sent, &memory).unwrap();
            // In a chunk as in a simple reply.
            assert_eq!(sent[8..16], cookie.to_be_bytes());
            let Some(ServerEvent::Replied { id: replied }) = server.poll_event() else {
                panic!("{server:?}");
            };
            assert_eq!((replied, replied.to_cookie()), (id, cookie));
        }
    }
}

/// Two requests may well have one cookie; they are two all the same.
#[test]
fn requests_are_told_apart_by_more_than_their_cookie() {
    let (mut server, _) = server();
    server.feed(&request(CommandType::Read, 7).repeat(2), &mut Discard).unwrap();
    let mut ids = Vec::new();
    while let Some(ServerEvent::Request { id, .. }) = server.poll_event() {
        ids.push(id);
    }
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0].to_cookie(), ids[1].to_cookie());
}

#[test]
fn what_was_counted_before_the_data_phase_stays_counted() {
    let (mut server, before) = server();
    assert_eq!(*server.stats(), before);
    assert_eq!(before.messages_received, 4);
    server.feed(&request(CommandType::Read, 1), &mut Discard).unwrap();
    server.feed(&request(CommandType::Cache, 2), &mut Discard).unwrap();
    let after = server.stats();
    assert_eq!(after.messages_received, before.messages_received + 2);
    assert_eq!(after.anomalies, before.anomalies + 1, "one of them is refused");
    assert!(after.bytes_received > before.bytes_received);
}
