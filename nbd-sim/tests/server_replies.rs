//! What a server's caller may not answer: whatever a client would find wrong. What is refused
//! changes nothing, so that the right answer can still be given.

use nbd_proto::wire::option::{InfoRequest, MetaContextRequest};
use nbd_proto::wire::reply::ChunkHeader;
use nbd_proto::wire::request::RequestHeader;
use nbd_proto::{
    ApiMisuse, CommandFlags, CommandType, ContextId, Discard, Errno, ExportInfo, Extent, Limits,
    Machine, PayloadSource, Question, RequestId, Server, ServerConfig, ServerEvent,
    ServerNegotiation, TransmissionFlags, WriteBuffers,
};

const WRONG: Result<(), ApiMisuse> = Err(ApiMisuse::WrongReply);
const SIZE: u64 = 1 << 40;
const CONTEXTS: [ContextId; 2] = [ContextId(1), ContextId(2)];
const LENGTH: u64 = 4096;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let (number, length) = (number.to_be_bytes(), (data.len() as u32).to_be_bytes());
    [&b"IHAVEOPT"[..], &number, &length, data].concat()
}

/// A server with two contexts that answers in this form: 8 for structured replies, 11 for
/// extended headers.
fn server(form: u32) -> Server {
    let limits = Limits::default().max_payload(u32::MAX).max_fragments(4);
    let mut server = ServerNegotiation::new(ServerConfig::new().limits(limits));
    let (mut contexts, mut go) = (Vec::new(), Vec::new());
    let queries = vec!["x:1".to_owned(), "x:2".to_owned()];
    MetaContextRequest { export: String::new(), queries }.encode(&mut contexts);
    InfoRequest { export: String::new(), info: vec![3] }.encode(&mut go);
    let said = [vec![0, 0, 0, 3], option(form, &[]), option(10, &contexts), option(7, &go)];
    for burst in said {
        server.feed(&burst, &mut Discard).unwrap();
        match server.question() {
            Some(Question::SetMetaContext(_)) => {
                for (name, id) in ["x:1", "x:2"].into_iter().zip(CONTEXTS) {
                    assert_eq!(server.send_context(name), Ok(id));
                }
                server.acknowledge().unwrap();
            }
            Some(_) => {
                let flags = TransmissionFlags::SEND_DF | TransmissionFlags::BLOCK_STATUS_PAYLOAD;
                server.describe(ExportInfo::new(SIZE, flags)).unwrap();
            }
            None => {}
        }
        server.drain(&mut Vec::new(), &Discard).unwrap();
    }
    server.finish().unwrap()
}

const FORMS: [u32; 2] = [8, 11];

fn says(server: &mut Server, kind: CommandType, flags: CommandFlags, length: u64, body: &[u8]) {
    let header = RequestHeader { flags, kind: kind.to_wire(), cookie: 7, offset: 4096, length };
    match server.negotiated().headers {
        nbd_proto::HeaderStyle::Extended => {
            server.feed(&[&header.encode_extended()[..], body].concat(), &mut Discard).unwrap();
        }
        _ => drop(server.feed(&header.encode_compact().unwrap(), &mut Discard).unwrap()),
    }
}

/// The stock sink for servers makes room for whatever comes, as it comes.
#[test]
fn writes_come_into_buffers_that_nobody_had_to_make() {
    let mut server = server(8);
    let mut buffers = WriteBuffers::new();
    let data: Vec<u8> = (0..700_000_u32).map(|byte| byte as u8).collect();
    let header = RequestHeader {
        flags: CommandFlags::empty(),
        kind: CommandType::Write.to_wire(),
        cookie: 7,
        offset: 0,
        length: data.len() as u64,
    };
    let bytes = [&header.encode_compact().unwrap()[..], &data].concat();
    // However it is cut.
    for piece in bytes.chunks(70_001) {
        server.feed(piece, &mut buffers).unwrap();
    }
    let Some(ServerEvent::Request { id, command }) = server.poll_event() else {
        panic!("it was refused");
    };
    assert_eq!(command.length, 700_000);
    assert!(buffers.take(id) == data);
    assert!(buffers.take(id).is_empty());
}

fn asked(form: u32, kind: CommandType, flags: CommandFlags) -> (Server, RequestId) {
    let mut server = server(form);
    says(&mut server, kind, flags, LENGTH, &[]);
    let id = taken(&mut server);
    (server, id)
}

fn taken(server: &mut Server) -> RequestId {
    match server.poll_event() {
        Some(ServerEvent::Request { id, .. }) => id,
        other => panic!("{other:?}"),
    }
}

fn read(form: u32) -> (Server, RequestId) {
    asked(form, CommandType::Read, CommandFlags::empty())
}

fn status(form: u32) -> (Server, RequestId) {
    asked(form, CommandType::BlockStatus, CommandFlags::empty())
}

/// All that is queued leaves, and the request is done with.
fn is_over(server: &mut Server, id: RequestId) {
    server.drain(&mut Vec::new(), &Zeroes).unwrap();
    assert_eq!(server.poll_event(), Some(ServerEvent::Replied { id }));
    assert_eq!(server.in_flight(), 0);
}

/// Payload of any length.
struct Zeroes;

impl PayloadSource for Zeroes {
    fn bytes(&self, _id: RequestId, _at: usize, len: usize) -> &[u8] {
        &[0; 1 << 16][..len.min(1 << 16)]
    }
}

#[test]
fn a_read_is_answered_whole() {
    for form in FORMS {
        let (mut server, id) = read(form);
        assert_eq!(server.send_data(id, 0, 512, true), WRONG, "a part is no whole");
        assert_eq!(server.send_hole(id, 0, 512, true), WRONG);
        assert_eq!(server.end_reply(id), WRONG, "nothing is no whole");
        assert_eq!(server.reply(id, Ok(())), WRONG);
        server.send_data(id, 512, 512, false).unwrap();
        assert_eq!(server.end_reply(id), WRONG);
        assert_eq!(server.reply_data(id), WRONG, "some has been sent");
        server.send_hole(id, 0, 512, false).unwrap();
        assert_eq!(server.send_data(id, 1024, 3071, true), WRONG, "a byte is missing");
        server.send_data(id, 1024, 3072, true).unwrap();
        assert_eq!(server.end_reply(id), Err(ApiMisuse::NoSuchRequest));
        is_over(&mut server, id);
        // All of it, and an end of its own.
        let (mut server, id) = read(form);
        server.send_data(id, 0, 4096, false).unwrap();
        server.end_reply(id).unwrap();
        is_over(&mut server, id);
    }
}

#[test]
fn no_byte_is_sent_twice() {
    for form in FORMS {
        let (mut server, id) = read(form);
        server.send_data(id, 1024, 1024, false).unwrap();
        for (at, length) in [(1024, 1024), (0, 1025), (2047, 1), (1024, 1), (0, 4096), (1500, 9)] {
            assert_eq!(server.send_data(id, at, length, false), WRONG, "{at}, {length}");
            assert_eq!(server.send_hole(id, at, length, true), WRONG, "{at}, {length}");
        }
        server.send_data(id, 0, 1024, false).unwrap();
        server.send_data(id, 2048, 2048, true).unwrap();
        is_over(&mut server, id);
    }
}

#[test]
fn parts_are_inside_the_read_and_not_too_many() {
    for form in FORMS {
        let (mut server, id) = read(form);
        for (at, length) in [(0, 0), (0, 4097), (4096, 1), (usize::MAX, 1), (1, usize::MAX)] {
            assert_eq!(server.send_data(id, at, length, false), WRONG, "{at}, {length}");
            assert_eq!(server.send_hole(id, at, length, false), WRONG, "{at}, {length}");
        }
        for at in [1, 3, 5, 7] {
            server.send_data(id, at, 1, false).unwrap();
        }
        assert_eq!(server.send_data(id, 9, 1, false), WRONG, "one more than the limit");
        for at in [0, 2, 4, 6] {
            server.send_hole(id, at, 1, false).unwrap();
        }
        server.send_data(id, 8, 4088, true).unwrap();
        is_over(&mut server, id);
    }
}

/// proto.md, "NBD_CMD_FLAG_DF": one content chunk at most.
#[test]
fn a_read_in_one_piece_is_sent_in_one() {
    for form in FORMS {
        let one = || asked(form, CommandType::Read, CommandFlags::DF);
        let (mut server, id) = one();
        server.send_data(id, 0, 512, false).unwrap();
        assert_eq!(server.send_data(id, 512, 3584, true), WRONG);
        assert_eq!(server.send_hole(id, 512, 3584, true), WRONG);
        assert_eq!(server.end_reply(id), WRONG, "now only an error can end it");
        server.reply_error(id, Errno::Io, "").unwrap();
        is_over(&mut server, id);
        for whole in [true, false] {
            let (mut server, id) = one();
            if whole {
                server.reply_data(id).unwrap();
            } else {
                server.send_hole(id, 0, 4096, false).unwrap();
                server.end_reply(id).unwrap();
            }
            is_over(&mut server, id);
        }
    }
}

#[test]
fn what_has_failed_need_not_be_complete() {
    for form in FORMS {
        let (mut server, id) = read(form);
        server.send_data(id, 0, 512, false).unwrap();
        server.send_error_at(id, Errno::Io, 4096 + 512, "", false).unwrap();
        assert_eq!(server.send_data(id, 0, 512, false), WRONG, "but nothing comes twice");
        server.send_data(id, 1024, 512, true).unwrap();
        is_over(&mut server, id);
        let (mut server, id) = read(form);
        server.send_error_at(id, Errno::Io, 4096, "", false).unwrap();
        server.end_reply(id).unwrap();
        is_over(&mut server, id);
        let (mut server, id) = status(form);
        server.send_error_at(id, Errno::Io, 4096, "", false).unwrap();
        let extents = [Extent { length: 4096, status: 0 }];
        server.send_extents(id, CONTEXTS[0], &extents, true).unwrap();
        is_over(&mut server, id);
    }
}

#[test]
fn each_context_is_told_of_once() {
    let extents = [Extent { length: 4096, status: 0 }];
    for form in FORMS {
        let (mut server, id) = status(form);
        assert_eq!(server.end_reply(id), WRONG, "nothing has been told");
        assert_eq!(server.send_extents(id, CONTEXTS[0], &extents, true), WRONG, "one is missing");
        assert_eq!(server.send_extents(id, ContextId(3), &extents, false), WRONG);
        server.send_extents(id, CONTEXTS[0], &extents, false).unwrap();
        assert_eq!(server.send_extents(id, CONTEXTS[0], &extents, false), WRONG);
        assert_eq!(server.send_extents(id, CONTEXTS[0], &extents, true), WRONG);
        assert_eq!(server.end_reply(id), WRONG);
        assert_eq!(server.send_extents(id, CONTEXTS[1], &[], true), WRONG);
        server.send_extents(id, CONTEXTS[1], &extents, true).unwrap();
        is_over(&mut server, id);
    }
    // Of those that were asked for.
    let mut server = server(11);
    let body = [&LENGTH.to_be_bytes()[..], &CONTEXTS[1].0.to_be_bytes()].concat();
    says(&mut server, CommandType::BlockStatus, CommandFlags::PAYLOAD_LEN, 12, &body);
    let id = taken(&mut server);
    assert_eq!(server.send_extents(id, CONTEXTS[0], &extents, false), WRONG);
    assert_eq!(server.end_reply(id), WRONG);
    server.send_extents(id, CONTEXTS[1], &extents, false).unwrap();
    server.end_reply(id).unwrap();
    is_over(&mut server, id);
}

/// proto.md, "NBD_REPLY_TYPE_BLOCK_STATUS": no more than 2^20 in one chunk.
#[test]
fn of_too_many_extents_the_first_are_told() {
    for (form, head, each) in [(8, 20 + 4, 8), (11, 32 + 8, 16)] {
        let mut server = server(form);
        says(&mut server, CommandType::BlockStatus, CommandFlags::empty(), 1 << 30, &[]);
        let id = taken(&mut server);
        let extents = vec![Extent { length: 512, status: 0 }; (1 << 20) + 1];
        server.send_extents(id, CONTEXTS[0], &extents, false).unwrap();
        let mut sent = Vec::new();
        assert_eq!(server.drain(&mut sent, &Discard), Ok(head + (each << 20)));
        if form == 11 {
            assert_eq!(sent[36..40], (1u32 << 20).to_be_bytes());
        }
    }
}

/// The headers of all that is to be sent.
fn headers(server: &mut Server) -> Vec<ChunkHeader> {
    let mut headers = Vec::new();
    let mut left = 0;
    loop {
        let mut seen = None;
        server
            .for_each_unsent(&Zeroes, |bytes| {
                seen = Some((bytes.len(), bytes.first_chunk().copied()));
                std::ops::ControlFlow::Break(())
            })
            .unwrap();
        let Some((length, head)) = seen else { return headers };
        if left == 0 {
            let header = ChunkHeader::decode_structured(&head.unwrap()).unwrap();
            assert_eq!(length, 28, "the header, and the offset of the data");
            left = header.length - 8;
            headers.push(header);
        } else {
            left -= length as u64;
        }
        server.sent(length).unwrap();
    }
}

/// A chunk counts its bytes in 32 bits, its offset among them.
#[test]
fn a_read_too_long_for_one_chunk_is_sent_in_two() {
    let most = u64::from(u32::MAX) - 8;
    for length in [most, most + 1, u64::from(u32::MAX)] {
        let mut server = server(8);
        says(&mut server, CommandType::Read, CommandFlags::empty(), length, &[]);
        let id = taken(&mut server);
        if length > most {
            assert_eq!(server.send_data(id, 0, length as usize, true), WRONG);
        }
        server.reply_data(id).unwrap();
        let headers = headers(&mut server);
        let lengths: Vec<u64> = headers.iter().map(|header| header.length - 8).collect();
        let expected = if length > most { vec![most, length - most] } else { vec![length] };
        assert_eq!(lengths, expected);
        let last = headers.iter().map(|header| header.flags.bits()).collect::<Vec<_>>();
        assert_eq!((last.iter().sum::<u16>(), last.last()), (1, Some(&1)), "the last is the end");
        assert_eq!(server.poll_event(), Some(ServerEvent::Replied { id }));
    }
    // What must come in one chunk and cannot is refused.
    for (length, reaches) in [(most, true), (most + 1, false)] {
        let mut server = server(8);
        says(&mut server, CommandType::Read, CommandFlags::DF, length, &[]);
        assert_eq!(server.poll_event().is_some(), reaches, "{length}");
        let mut sent = Vec::new();
        server.drain(&mut sent, &Discard).unwrap();
        let refusal = (!reaches).then(|| Errno::Overflow.to_wire().to_be_bytes());
        assert_eq!(sent.get(20..24), refusal.as_ref().map(|bytes| &bytes[..]));
    }
}
