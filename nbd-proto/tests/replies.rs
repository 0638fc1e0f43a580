//! What a server's replies look like on the wire when what is to be said does not fit, and
//! what cannot be said at all.

use nbd_proto::wire::option::OptionHeader;
use nbd_proto::wire::request::RequestHeader;
use nbd_proto::{
    ApiMisuse, BlockSizes, CommandFlags, CommandType, ContextId, Discard, Errno, ExportInfo,
    Extent, Machine, OptionCode, RequestId, Server, ServerConfig, ServerEvent, ServerNegotiation,
    TransmissionFlags,
};

/// A server of an export of 2^40 bytes, with structured replies and one context.
fn server(minimum: Option<u32>) -> Server {
    let mut server = ServerNegotiation::new(ServerConfig::new());
    let said = [
        (OptionCode::StructuredReply, &b""[..]),
        (OptionCode::SetMetaContext, b"\0\0\0\0\0\0\0\x01\0\0\0\x03x:y"),
        (OptionCode::Go, b"\0\0\0\0\0\0"),
    ];
    server.feed(&[0, 0, 0, 3], &mut Discard).unwrap();
    for (option, data) in said {
        let header = OptionHeader { option: option.to_wire(), length: data.len() as u32 };
        server.feed(&[&header.encode(), data].concat(), &mut Discard).unwrap();
        if option == OptionCode::SetMetaContext {
            assert_eq!(server.send_context("x:y"), Ok(ContextId(1)));
            server.acknowledge().unwrap();
        }
    }
    let mut export = ExportInfo::new(1 << 40, TransmissionFlags::SEND_CACHE);
    export.block_sizes = minimum.map(|minimum| BlockSizes {
        minimum,
        preferred: minimum.max(4096),
        maximum: 32 << 20,
    });
    server.describe(export).unwrap();
    server.drain(&mut Vec::new(), &Discard).unwrap();
    server.finish().unwrap()
}

fn asked(server: &mut Server, kind: CommandType) -> RequestId {
    asked_with(server, kind, CommandFlags::empty())
}

fn asked_with(server: &mut Server, kind: CommandType, flags: CommandFlags) -> RequestId {
    let header =
        RequestHeader { flags, kind: kind.to_wire(), cookie: 7, offset: 0, length: 1 << 20 };
    server.feed(&header.encode_compact().unwrap(), &mut Discard).unwrap();
    match server.poll_event() {
        Some(ServerEvent::Request { id, .. }) => id,
        other => panic!("{other:?}"),
    }
}

/// The body of the one chunk that is sent.
fn chunk(server: &mut Server) -> Vec<u8> {
    let mut sent = Vec::new();
    server.drain(&mut sent, &Discard).unwrap();
    let body = sent.split_off(20);
    assert_eq!(sent[16..], (body.len() as u32).to_be_bytes());
    body
}

/// An extent beyond 32 bits is told as far as they go in whole blocks, of 512 bytes at
/// least: what comes next is to be asked for.
#[test]
fn a_long_extent_is_told_up_to_the_last_whole_block() {
    const LONG: u64 = 5 << 30;
    let cases = [
        (None, u64::from(u32::MAX), u32::MAX),
        (None, 1 << 32, u32::MAX - 511),
        (None, LONG, u32::MAX - 511),
        (Some(1), LONG, u32::MAX - 511),
        (Some(512), LONG, u32::MAX - 511),
        (Some(4096), LONG, u32::MAX - 4095),
        (Some(65536), 1 << 32, u32::MAX - 65535),
    ];
    for (minimum, length, told) in cases {
        let mut server = server(minimum);
        let id = asked(&mut server, CommandType::BlockStatus);
        let status = 0xf000_0003;
        let extents = [Extent { length: 512, status: 1 }, Extent { length, status }];
        server.send_extents(id, ContextId(1), &extents, true).unwrap();
        let expected = [1, 512, 1, told, 0xf000_0003].map(u32::to_be_bytes).concat();
        assert_eq!(chunk(&mut server), expected, "{minimum:?}, {length}");
    }
}

/// "If the client used the NBD_CMD_FLAG_REQ_ONE flag, each chunk contains exactly one
/// descriptor where the length of the descriptor MUST NOT be greater than the length of the
/// request"; otherwise the last one may be.
#[test]
fn one_extent_is_told_as_far_as_the_request_goes() {
    let long = [Extent { length: 512, status: 1 }, Extent { length: 2 << 20, status: 0 }];
    let cases = [
        (CommandFlags::REQ_ONE, &long[..], &[1, 512, 1][..]),
        (CommandFlags::REQ_ONE, &long[1..], &[1, 1 << 20, 0]),
        (CommandFlags::empty(), &long[..], &[1, 512, 1, 2 << 20, 0]),
    ];
    for (flags, extents, told) in cases {
        let mut server = server(None);
        let id = asked_with(&mut server, CommandType::BlockStatus, flags);
        server.send_extents(id, ContextId(1), extents, true).unwrap();
        let told: Vec<u8> = told.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        assert_eq!(chunk(&mut server), told, "{flags:?}");
    }
}

/// proto.md, "Conventions": in UTF-8. The protocol allows for 4096 bytes, QEMU for an error chunk
/// of 1000.
#[test]
fn a_long_reason_is_cut_between_characters() {
    let told = |most: usize| {
        let exact = "x".repeat(most);
        let (wide, widest) = (format!("{}ü", &exact[1..]), format!("{}🦀!", &exact[2..]));
        let (none, short) = (String::new(), "why".to_owned());
        let long = format!("{exact}!");
        [(none, 0), (short, 3), (exact, most), (long, most), (wide, most - 1), (widest, most - 2)]
    };
    let place = 512_u64.to_be_bytes();
    for (most, place) in [(994, &[][..]), (986, &place)] {
        for (reason, sent) in told(most) {
            let mut server = server(None);
            let id = asked(&mut server, CommandType::Read);
            if place.is_empty() {
                server.reply_error(id, Errno::Io, &reason).unwrap();
            } else {
                server.send_error_at(id, Errno::Io, 512, &reason, false).unwrap();
            }
            let head = [&5_u32.to_be_bytes()[..], &(sent as u16).to_be_bytes()].concat();
            let expected = [&head, &reason.as_bytes()[..sent], place].concat();
            assert_eq!(chunk(&mut server), expected, "{} bytes", reason.len());
        }
    }
}

/// A reply is of the kind that was asked for, inside the request, and the only one.
#[test]
fn an_answer_fits_its_question() {
    let wrong = Err(ApiMisuse::WrongReply);
    let extents = [Extent { length: 512, status: 0 }];
    let mut server = server(None);
    let cache = asked(&mut server, CommandType::Cache);
    let read = asked(&mut server, CommandType::Read);
    let status = asked(&mut server, CommandType::BlockStatus);
    assert_eq!(server.in_flight(), 3);
    assert_eq!(server.contexts(status), [ContextId(1)]);
    for id in [cache, status] {
        assert_eq!(server.reply_data(id), wrong);
        assert_eq!(server.send_data(id, 0, 512, true), wrong);
        assert_eq!(server.send_hole(id, 0, 512, true), wrong);
    }
    for id in [cache, read] {
        assert_eq!(server.send_extents(id, ContextId(1), &extents, true), wrong);
    }
    assert_eq!(server.send_extents(status, ContextId(1), &[], true), wrong);
    // Compact extents have 32 bits for a status.
    let wide = [extents[0], Extent { length: 512, status: 1 << 32 }];
    assert_eq!(server.send_extents(status, ContextId(1), &wide, true), wrong);
    // Nor is anything told that was not asked for, nor does not exist: in this order from
    // the start of the request, which ends at 1 MiB, of an export of 1 TiB.
    assert_eq!(server.send_extents(status, ContextId(2), &extents, true), wrong);
    for lengths in [&[0][..], &[512, 0], &[1 << 20, 1], &[512, 1 << 20, 1], &[(1 << 40) + 1]] {
        let told: Vec<_> =
            lengths.iter().map(|length| Extent { length: *length, status: 0 }).collect();
        assert_eq!(server.send_extents(status, ContextId(1), &told, true), wrong, "{lengths:?}");
    }
    for id in [read, status] {
        assert_eq!(server.reply(id, Ok(())), wrong, "it would succeed without its data");
    }
    let most = 1 << 20;
    for (at, length) in [(0, 0), (0, most + 1), (1, most), (most, 1), (usize::MAX, 1)] {
        assert_eq!(server.send_hole(read, at, length, true), wrong, "{length} at {at}");
        assert_eq!(server.send_data(read, at, length, true), wrong, "{length} at {at}");
    }
    // None of that has sent anything, or ended a request.
    assert_eq!(server.drain(&mut Vec::new(), &Discard), Ok(0));
    server.send_hole(read, most - 1, 1, false).unwrap();
    server.send_hole(read, 0, most - 1, true).unwrap();
    server.send_extents(status, ContextId(1), &extents, true).unwrap();
    server.reply(cache, Ok(())).unwrap();
    // Answered, and soon forgotten.
    for _ in 0..2 {
        let gone = Err(ApiMisuse::NoSuchRequest);
        for id in [cache, read, status] {
            assert_eq!(server.reply(id, Ok(())), gone);
            assert_eq!(server.reply_error(id, Errno::Io, ""), gone);
            assert_eq!(server.reply_data(id), gone);
            assert_eq!(server.send_hole(id, 0, 512, true), gone);
            assert_eq!(server.send_extents(id, ContextId(1), &extents, true), gone);
            assert_eq!(server.end_reply(id), gone);
        }
        server.drain(&mut Vec::new(), &Discard).unwrap();
        while server.poll_event().is_some() {}
    }
    assert_eq!((server.in_flight(), server.contexts(status)), (0, vec![]));
}
