//! What a server refuses by itself, and with which error: the last request that reaches
//! the caller, the first that does not.

use nbd_proto::wire::option::BlockSizes;
use nbd_proto::wire::request::RequestHeader;
use nbd_proto::{
    ApiMisuse, Buffers, CommandFlags, CommandType, ContextId, Discard, Errno, ExportInfo, Limits,
    Machine, PeerMisbehaved, Question, Server, ServerConfig, ServerEvent, ServerNegotiation,
    ServerPhase, TransmissionFlags as Flags,
};

const SIZE: u64 = 1 << 20;
const MOST: u32 = 64 << 10;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let (number, length) = (number.to_be_bytes(), (data.len() as u32).to_be_bytes());
    [&b"IHAVEOPT"[..], &number, &length, data].concat()
}

/// A server of an export with these flags and this minimum block, which has granted
/// extended headers and the contexts 1 and 2.
fn server(flags: Flags, minimum: u32) -> Server {
    let config = ServerConfig::new().limits(Limits::default().max_payload(MOST));
    let mut server = ServerNegotiation::new(config);
    let name = b"\0\0\0\x04disk";
    let contexts = [&name[..], b"\0\0\0\x02\0\0\0\x03x:1\0\0\0\x03x:2"].concat();
    let go = [&name[..], b"\0\0"].concat();
    let said = [&[0, 0, 0, 3][..], &option(11, &[]), &option(10, &contexts), &option(7, &go)];
    for burst in said {
        server.feed(burst, &mut Discard).unwrap();
        if matches!(server.question(), Some(Question::SetMetaContext(_))) {
            for (name, id) in [("x:1", 1), ("x:2", 2)] {
                assert_eq!(server.send_context(name), Ok(ContextId(id)));
            }
            server.acknowledge().unwrap();
        }
        server.drain(&mut Vec::new(), &Discard).unwrap();
    }
    let mut export = ExportInfo::new(SIZE, flags);
    let sizes = BlockSizes { minimum, preferred: 4096, maximum: MOST };
    export.block_sizes = (minimum > 1).then_some(sizes);
    server.describe(export).unwrap();
    server.drain(&mut Vec::new(), &Discard).unwrap();
    assert_eq!(server.phase(), ServerPhase::Established);
    server.finish().unwrap()
}

/// What becomes of one request: it reaches the caller, with these contexts, or is refused.
fn ask(
    server: &mut Server,
    kind: CommandType,
    flags: CommandFlags,
    range: (u64, u64),
    payload: &[u8],
) -> Result<Vec<ContextId>, Errno> {
    let (offset, length) = range;
    let header = RequestHeader { flags, kind: kind.to_wire(), cookie: 7, offset, length };
    let mut buffers = Buffers::new();
    buffers.insert(nbd_proto::RequestId::from_cookie(1 << 32), vec![0; MOST as usize]);
    server.feed(&header.encode_extended(), &mut buffers).unwrap();
    server.feed(payload, &mut buffers).unwrap();
    while let Some(event) = server.poll_event() {
        if let ServerEvent::Request { id, command } = event {
            assert_eq!(command.kind, kind);
            return Ok(server.contexts(id));
        }
    }
    let mut sent = Vec::new();
    server.drain(&mut sent, &Discard).unwrap();
    // The error stands behind the header of the chunk.
    let error = u32::from_be_bytes(sent[32..36].try_into().unwrap());
    Err(Errno::from_wire(error).unwrap())
}

fn plain(kind: CommandType, offset: u64, length: u64) -> Result<(), Errno> {
    let payload = if kind == CommandType::Write { vec![7; length as usize] } else { Vec::new() };
    let mut server = server(Flags::all() - Flags::READ_ONLY, 512);
    ask(&mut server, kind, CommandFlags::empty(), (offset, length), &payload).map(drop)
}

const LONG: u64 = MOST as u64;

#[test]
fn a_range_is_inside_the_export_and_aligned() {
    use CommandType::{BlockStatus, Cache, Read, Trim, Write, WriteZeroes};

    for kind in [Read, Write, Trim, Cache, WriteZeroes, BlockStatus] {
        assert_eq!(plain(kind, SIZE - 512, 512), Ok(()), "{kind:?}");
        let writes = matches!(kind, Write | WriteZeroes);
        let beyond = if writes { Errno::NoSpc } else { Errno::Inval };
        for (offset, length) in [(SIZE - 512, 1024), (SIZE, 512), (u64::MAX - 511, 512)] {
            assert_eq!(plain(kind, offset, length), Err(beyond), "{kind:?}, {offset}");
        }
        for (offset, length) in [(1, 512), (512, 1), (1, 1), (513, 511)] {
            assert_eq!(plain(kind, offset, length), Err(Errno::Inval), "{kind:?}, {offset}");
        }
        let long = match kind {
            Read => Err(Errno::Overflow),
            Write => Err(Errno::Inval),
            _ => Ok(()),
        };
        // Of nothing there is nothing to tell; whatever else is done to it is done.
        let nothing = if kind == BlockStatus { Err(Errno::Inval) } else { Ok(()) };
        assert_eq!(plain(kind, 512, 0), nothing, "{kind:?}");
        assert_eq!(plain(kind, 0, LONG), Ok(()), "{kind:?}");
        assert_eq!(plain(kind, 0, LONG + 512), long, "{kind:?}");
    }
}

#[test]
fn a_flag_must_be_offered_and_be_one_of_the_command() {
    use CommandType::{BlockStatus, Cache, Read, Trim, WriteZeroes};

    let verdict = |offered: Flags, kind, flag| {
        ask(&mut server(offered, 1), kind, flag, (0, 512), &[]).map(drop)
    };
    let all = Flags::all() - Flags::READ_ONLY;
    let allowed = [
        (Read, CommandFlags::DF, Some(Flags::SEND_DF)),
        (Read, CommandFlags::FUA, Some(Flags::SEND_FUA)),
        (Trim, CommandFlags::FUA, Some(Flags::SEND_FUA)),
        (WriteZeroes, CommandFlags::FAST_ZERO, Some(Flags::SEND_FAST_ZERO)),
        (WriteZeroes, CommandFlags::NO_HOLE, None),
        (BlockStatus, CommandFlags::REQ_ONE, None),
    ];
    for (kind, flag, need) in allowed {
        assert_eq!(verdict(all, kind, flag), Ok(()), "{kind:?}, {flag:?}");
        if let Some(need) = need {
            let refused = verdict(all - need, kind, flag);
            assert_eq!(refused, Err(Errno::Inval), "{kind:?}, {flag:?}");
        }
    }
    let strange = [
        (Read, CommandFlags::NO_HOLE),
        (Read, CommandFlags::FAST_ZERO),
        (Trim, CommandFlags::DF),
        (Trim, CommandFlags::FAST_ZERO),
        (Cache, CommandFlags::REQ_ONE),
        (WriteZeroes, CommandFlags::DF),
        (WriteZeroes, CommandFlags::REQ_ONE),
        (BlockStatus, CommandFlags::NO_HOLE),
    ];
    for (kind, flag) in strange {
        assert_eq!(verdict(all, kind, flag), Err(Errno::Inval), "{kind:?}, {flag:?}");
    }
}

#[test]
fn a_filter_names_granted_contexts_once() {
    let filtered = |offered: Flags, effect: u64, rest: &[u8]| {
        let payload = [&effect.to_be_bytes()[..], rest].concat();
        let range = (0, payload.len() as u64);
        let flag = CommandFlags::PAYLOAD_LEN;
        ask(&mut server(offered, 1), CommandType::BlockStatus, flag, range, &payload)
    };
    let all = Flags::all() - Flags::READ_ONLY;
    let ids = |ids: &[u32]| ids.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<_>>();
    let named = |wanted: &[u32]| Ok(wanted.iter().copied().map(ContextId).collect());
    for wanted in [&[1][..], &[2], &[2, 1]] {
        assert_eq!(filtered(all, SIZE, &ids(wanted)), named(wanted));
    }
    for unknown in [&[3][..], &[1, 3], &[1, 1], &[0]] {
        assert_eq!(filtered(all, SIZE, &ids(unknown)), Err(Errno::Inval), "{unknown:?}");
    }
    for range in [SIZE + 1, 0] {
        assert_eq!(filtered(all, range, &ids(&[1])), Err(Errno::Inval), "{range}");
    }
    for odd in [&[][..], &[0, 0, 0], &[0, 0, 0, 1, 0], &[0; 4 * 257]] {
        assert_eq!(filtered(all, SIZE, odd), Err(Errno::Inval), "{} bytes", odd.len());
    }
    let unable = all - Flags::BLOCK_STATUS_PAYLOAD;
    assert_eq!(filtered(unable, SIZE, &ids(&[1])), Err(Errno::Inval));
    // Without a filter it is about all of them.
    let mut server = server(all, 1);
    let seen = ask(&mut server, CommandType::BlockStatus, CommandFlags::empty(), (0, 512), &[]);
    assert_eq!(seen, named(&[1, 2]));
}

/// A write whose payload finds no memory is refused; the connection lives on.
#[test]
fn a_write_without_memory_is_refused() {
    let mut server = server(Flags::all() - Flags::READ_ONLY, 1);
    let write = RequestHeader {
        flags: CommandFlags::PAYLOAD_LEN,
        kind: CommandType::Write.to_wire(),
        cookie: 7,
        offset: 0,
        length: 512,
    };
    server.feed(&[&write.encode_extended()[..], &[7; 512]].concat(), &mut Discard).unwrap();
    assert_eq!(server.poll_event(), None);
    let mut sent = Vec::new();
    server.drain(&mut sent, &Discard).unwrap();
    assert_eq!(sent[32..36], 12_u32.to_be_bytes());
    let seen = ask(&mut server, CommandType::Cache, CommandFlags::empty(), (0, 512), &[]);
    assert!(seen.is_ok(), "{server:?}");
}

/// The end between a header and its payload is an end inside the request, whose slot would
/// otherwise wait for ever.
#[test]
fn the_end_before_a_payload_cuts_the_request() {
    let flags = Flags::all() - Flags::READ_ONLY;
    let sound = CommandFlags::PAYLOAD_LEN;
    let refused = sound | CommandFlags::FUA;
    for kind in [CommandType::Write, CommandType::BlockStatus] {
        for flag in [sound, refused] {
            let mut server = server(flags, 1);
            let (kind, length) = (kind.to_wire(), 16);
            let header = RequestHeader { flags: flag, kind, cookie: 7, offset: 0, length };
            let mut buffers = Buffers::new();
            buffers.insert(nbd_proto::RequestId::from_cookie(1 << 32), vec![0; 16]);
            server.feed(&header.encode_extended(), &mut buffers).unwrap();
            assert_eq!(server.eof(), Err(PeerMisbehaved::ClosedMidMessage.into()), "{header:?}");
        }
    }
}

/// "an error occurred at a given offset, which MUST lie within the original offset and
/// length of the request."
#[test]
fn an_error_is_at_an_offset_within_its_request() {
    let mut server = server(Flags::all() - Flags::READ_ONLY, 1);
    for (offset, length, inside) in [(512, 512, Some([512, 1023])), (512, 0, None)] {
        let kind = CommandType::Read.to_wire();
        let header =
            RequestHeader { flags: CommandFlags::empty(), kind, cookie: 7, offset, length };
        server.feed(&header.encode_extended(), &mut Discard).unwrap();
        let Some(ServerEvent::Request { id, .. }) = server.poll_event() else {
            panic!("{server:?}");
        };
        for at in [0, 511, offset + length, u64::MAX] {
            let refused = server.send_error_at(id, Errno::Io, at, "", true);
            assert_eq!(refused, Err(ApiMisuse::WrongReply), "{at}");
        }
        for at in inside.into_iter().flatten() {
            assert_eq!(server.send_error_at(id, Errno::Io, at, "", false), Ok(()), "{at}");
        }
        server.reply_error(id, Errno::Io, "").unwrap();
        server.drain(&mut Vec::new(), &Discard).unwrap();
        while server.poll_event().is_some() {}
    }
}
