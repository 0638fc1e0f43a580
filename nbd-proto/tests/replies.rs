//! What a server's replies look like on the wire when what is to be said does not fit.

use nbd_proto::wire::option::OptionHeader;
use nbd_proto::wire::request::RequestHeader;
use nbd_proto::{
    BlockSizes, CommandFlags, CommandType, ContextId, Discard, Errno, ExportInfo, Extent, Machine,
    OptionCode, RequestId, Server, ServerConfig, ServerEvent, ServerNegotiation, TransmissionFlags,
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
    let mut export = ExportInfo::new(1 << 40, TransmissionFlags::empty());
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
    let header = RequestHeader {
        flags: CommandFlags::empty(),
        kind: kind.to_wire(),
        cookie: 7,
        offset: 0,
        length: 1 << 20,
    };
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
/// least, and ends the list: what comes next is to be asked for.
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
        let extents = [
            Extent { length: 512, status: 1 },
            Extent { length, status },
            Extent { length: 1024, status: 0 },
        ];
        server.send_extents(id, ContextId(1), &extents, true).unwrap();
        let mut expected = [1, 512, 1, told, 0xf000_0003].map(u32::to_be_bytes).concat();
        if length <= u64::from(u32::MAX) {
            expected.extend([1024_u32, 0].map(u32::to_be_bytes).concat());
        }
        assert_eq!(chunk(&mut server), expected, "{minimum:?}, {length}");
    }
}

/// proto.md, "Conventions": at most 4096 bytes, in UTF-8.
#[test]
fn a_long_reason_is_cut_between_characters() {
    let exact = "x".repeat(4096);
    let wide = format!("{}ü", "x".repeat(4095));
    let widest = format!("{}🦀!", "x".repeat(4094));
    let cases = [
        ("", ""),
        ("why", "why"),
        (exact.as_str(), exact.as_str()),
        (&format!("{exact}!"), &exact),
        (&wide, &exact[..4095]),
        (&widest, &exact[..4094]),
    ];
    for (reason, told) in cases {
        let mut server = server(None);
        let head = [&5_u32.to_be_bytes()[..], &(told.len() as u16).to_be_bytes()].concat();
        let id = asked(&mut server, CommandType::Read);
        server.send_error_at(id, Errno::Io, 512, reason, false).unwrap();
        let place = 512_u64.to_be_bytes();
        let expected = [&head, told.as_bytes(), &place].concat();
        assert_eq!(chunk(&mut server), expected, "{} bytes", reason.len());
        server.reply_error(id, Errno::Io, reason).unwrap();
        let expected = [&head, told.as_bytes()].concat();
        assert_eq!(chunk(&mut server), expected, "{} bytes", reason.len());
    }
}
