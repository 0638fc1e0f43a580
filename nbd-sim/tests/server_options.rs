//! The rules of options, which hold whether or not a server can look at an option's data.

use nbd_proto::wire::option::{InfoRequest, MetaContextRequest, OptionReplyHeader};
use nbd_proto::{
    ApiMisuse, BlockSizes, Discard, Error, ExportInfo, InvalidMessage, Limits, Machine,
    PeerIncompatible, PeerMisbehaved, Question, RefusalCode, ServerConfig, ServerNegotiation,
    ServerPhase, TlsPolicy, TransmissionFlags,
};

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const LIST_META_CONTEXT: u32 = 9;
const SET_META_CONTEXT: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;
/// Withdrawn, and never given out.
const UNKNOWN: [u32; 2] = [4, 99];

const ACK: u32 = 1;
const META_CONTEXT: u32 = 4;
const UNSUP: u32 = 0x8000_0001;
const INVALID: u32 = 0x8000_0003;
const TLS_REQD: u32 = 0x8000_0005;
const UNKNOWN_EXPORT: u32 = 0x8000_0006;
const TOO_BIG: u32 = 0x8000_0009;

/// Data that is looked at and means nothing, and data that is not looked at.
const SHORT: &[u8] = &[0xff; 7];
const LONG: &[u8] = &[0; 17_000];

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let (number, length) = (number.to_be_bytes(), (data.len() as u32).to_be_bytes());
    [&b"IHAVEOPT"[..], &number, &length, data].concat()
}

fn info(export: &str, kinds: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    InfoRequest { export: export.into(), info: kinds.to_vec() }.encode(&mut data);
    data
}

fn contexts(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    let queries = queries.iter().map(|query| (*query).to_owned()).collect();
    MetaContextRequest { export: export.into(), queries }.encode(&mut data);
    data
}

/// A server that has greeted a client with these flags.
fn started(config: ServerConfig, flags: u8) -> ServerNegotiation {
    let mut server = ServerNegotiation::new(config);
    server.drain(&mut Vec::new(), &Discard).unwrap();
    server.feed(&[0, 0, 0, flags], &mut Discard).unwrap();
    server
}

/// A server with structured replies.
fn structured() -> ServerNegotiation {
    let mut server = started(ServerConfig::new(), 3);
    assert_eq!(said(&mut server, STRUCTURED_REPLY, &[]), [ACK]);
    server
}

/// The types of what is answered.
fn answers(server: &mut ServerNegotiation) -> Vec<u32> {
    bodies(server).into_iter().map(|(kind, _)| kind).collect()
}

fn bodies(server: &mut ServerNegotiation) -> Vec<(u32, Vec<u8>)> {
    let mut sent = Vec::new();
    server.drain(&mut sent, &Discard).unwrap();
    let (mut rest, mut found) = (&sent[..], Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk() {
        let header = OptionReplyHeader::decode(head).unwrap();
        let (body, tail) = tail.split_at(header.length as usize);
        found.push((header.kind, body.to_vec()));
        rest = tail;
    }
    found
}

fn said(server: &mut ServerNegotiation, number: u32, data: &[u8]) -> Vec<u32> {
    server.feed(&option(number, data), &mut Discard).unwrap();
    answers(server)
}

/// Selects a context for an export.
fn select(server: &mut ServerNegotiation, export: &str) {
    assert_eq!(said(server, SET_META_CONTEXT, &contexts(export, &["x:y"])), []);
    server.send_context("x:y").unwrap();
    server.acknowledge().unwrap();
    assert_eq!(answers(server), [META_CONTEXT, ACK]);
}

fn export() -> ExportInfo {
    ExportInfo::new(1 << 30, TransmissionFlags::HAS_FLAGS)
}

fn selected(server: &ServerNegotiation) -> usize {
    server.negotiated().contexts.len()
}

/// proto.md, "FORCEDTLS mode": any other option, known or not.
#[test]
fn before_tls_nothing_else_is_answered() {
    let options = [LIST, INFO, GO, STRUCTURED_REPLY, LIST_META_CONTEXT, SET_META_CONTEXT];
    let options = options.into_iter().chain([EXTENDED_HEADERS]).chain(UNKNOWN);
    let forced = || started(ServerConfig::new().tls(TlsPolicy::Require), 3);
    for number in options {
        for data in [&[], SHORT, LONG] {
            let mut server = forced();
            assert_eq!(said(&mut server, number, data), [TLS_REQD], "{number}, {}", data.len());
            assert_eq!(said(&mut server, STARTTLS, &[]), [ACK], "and it goes on");
        }
    }
    for data in [b"disk", LONG] {
        let mut server = forced();
        assert_eq!(said(&mut server, EXPORT_NAME, data), []);
        assert_eq!((server.phase(), server.error()), (ServerPhase::Closed, None));
        let mut server = forced();
        assert_eq!(said(&mut server, ABORT, data), [ACK]);
        assert_eq!(server.phase(), ServerPhase::Closed);
        assert_eq!(said(&mut forced(), STARTTLS, data), [INVALID]);
    }
}

/// proto.md, "Newstyle negotiation": one who does not know the fix understands no answer.
#[test]
fn who_knows_no_options_gets_no_answers() {
    for number in [ABORT, LIST, STARTTLS, INFO, GO, SET_META_CONTEXT, EXTENDED_HEADERS, 99] {
        for data in [&[], SHORT, LONG] {
            let mut server = started(ServerConfig::new(), 0);
            let error = Error::from(PeerIncompatible::ClientNotFixed);
            let fed = server.feed(&option(number, data), &mut Discard);
            assert_eq!(fed, Err(error), "{number}, {}", data.len());
            assert_eq!(answers(&mut server), []);
        }
    }
}

#[test]
fn an_option_of_any_length_keeps_its_own_rules() {
    for number in [LIST, STRUCTURED_REPLY, EXTENDED_HEADERS] {
        for data in [SHORT, LONG] {
            let mut server = started(ServerConfig::new(), 3);
            assert_eq!(said(&mut server, number, data), [INVALID], "{number}, {}", data.len());
        }
    }
    for number in UNKNOWN {
        assert_eq!(said(&mut started(ServerConfig::new(), 3), number, LONG), [UNSUP]);
    }
    for number in [INFO, GO, LIST_META_CONTEXT, SET_META_CONTEXT] {
        assert_eq!(said(&mut structured(), number, SHORT), [INVALID], "{number}");
        assert_eq!(said(&mut structured(), number, LONG), [TOO_BIG], "{number}");
    }
    // What must come first comes first.
    for number in [LIST_META_CONTEXT, SET_META_CONTEXT] {
        assert_eq!(said(&mut started(ServerConfig::new(), 3), number, LONG), [INVALID]);
    }
    // A name of that length is none; there is no way to say so but to hang up.
    let mut server = started(ServerConfig::new(), 3);
    let fed = server.feed(&option(EXPORT_NAME, LONG), &mut Discard);
    assert_eq!(fed, Err(InvalidMessage::StringTooLong.into()));
}

/// Extended-headers draft, "NBD_OPT_EXTENDED_HEADERS".
#[test]
fn an_export_is_not_chosen_by_name_after_extended_headers() {
    let mut server = started(ServerConfig::new(), 3);
    assert_eq!(said(&mut server, EXTENDED_HEADERS, &[]), [ACK]);
    let fed = server.feed(&option(EXPORT_NAME, b"disk"), &mut Discard);
    assert_eq!(fed, Err(PeerMisbehaved::ExportNameTooLate.into()));
}

/// proto.md, "NBD_OPT_SET_META_CONTEXT": "replaces all previously-set metadata contexts
/// (including when this command fails)".
#[test]
fn a_selection_is_replaced_whatever_comes_of_the_next() {
    let failing = [SHORT.to_vec(), LONG.to_vec(), contexts("disk", &[])];
    for data in failing {
        let mut server = structured();
        select(&mut server, "disk");
        assert_eq!(said(&mut server, SET_META_CONTEXT, &data).len(), 1);
        assert_eq!(selected(&server), 0, "{} bytes", data.len());
    }
    let mut server = structured();
    select(&mut server, "disk");
    assert_eq!(said(&mut server, SET_META_CONTEXT, &contexts("none", &["x:y"])), []);
    server.refuse(RefusalCode::UnknownExport, "").unwrap();
    assert_eq!((answers(&mut server), selected(&server)), (vec![UNKNOWN_EXPORT], 0));

    // Nothing else replaces it.
    let mut server = structured();
    select(&mut server, "disk");
    for (number, data) in [
        (LIST_META_CONTEXT, SHORT),
        (LIST_META_CONTEXT, LONG),
        (LIST, LONG),
        (INFO, SHORT),
        (GO, LONG),
        (99, LONG),
    ] {
        said(&mut server, number, data);
        assert_eq!(selected(&server), 1, "{number}, {}", data.len());
    }
}

/// "If zero queries are sent, the server MUST select no metadata contexts": nobody is asked.
#[test]
fn no_query_selects_nothing_and_lists_everything() {
    let mut server = structured();
    assert_eq!(said(&mut server, SET_META_CONTEXT, &contexts("disk", &[])), [ACK]);
    assert_eq!((server.question(), server.phase()), (None, ServerPhase::Busy));
    assert_eq!(said(&mut server, LIST_META_CONTEXT, &contexts("disk", &[])), []);
    assert!(matches!(server.question(), Some(Question::ListMetaContext(_))));
    server.send_context("x:y").unwrap();
    server.send_context("base:allocation").unwrap();
}

/// A client hangs up when it is granted what it did not ask for.
#[test]
fn no_context_is_granted_that_was_not_asked_for() {
    let mut server = structured();
    let queries = ["base:allocation", "x:", "y:one"];
    assert_eq!(said(&mut server, SET_META_CONTEXT, &contexts("disk", &queries)), []);
    for name in ["base:other", "base:", "z:one", "one", ""] {
        assert_eq!(server.send_context(name), Err(ApiMisuse::BadContext), "{name}");
    }
    for name in ["base:allocation", "x:any", "y:other"] {
        server.send_context(name).unwrap();
    }
    server.acknowledge().unwrap();
    assert_eq!(answers(&mut server), [META_CONTEXT, META_CONTEXT, META_CONTEXT, ACK]);
}

/// The selection is for the export that is chosen in the end.
#[test]
fn asking_about_another_export_changes_nothing() {
    let mut server = structured();
    select(&mut server, "disk");
    server.feed(&option(INFO, &info("other", &[])), &mut Discard).unwrap();
    server.describe(export()).unwrap();
    assert_eq!(selected(&server), 1, "described");
    server.feed(&option(INFO, &info("none", &[])), &mut Discard).unwrap();
    server.refuse(RefusalCode::UnknownExport, "").unwrap();
    assert_eq!(selected(&server), 1, "refused");
    server.feed(&option(GO, &info("none", &[])), &mut Discard).unwrap();
    server.refuse(RefusalCode::UnknownExport, "").unwrap();
    assert_eq!(selected(&server), 1, "not chosen");
    server.feed(&option(GO, &info("disk", &[])), &mut Discard).unwrap();
    server.describe(export()).unwrap();
    answers(&mut server);
    assert_eq!(server.finish().unwrap().negotiated().contexts.len(), 1);

    for (number, data) in [(GO, info("other", &[])), (EXPORT_NAME, b"other".to_vec())] {
        let mut server = structured();
        select(&mut server, "disk");
        server.feed(&option(number, &data), &mut Discard).unwrap();
        server.describe(export()).unwrap();
        server.drain(&mut Vec::new(), &Discard).unwrap();
        assert!(server.finish().unwrap().negotiated().contexts.is_empty(), "{number}");
    }
}

fn sizes(minimum: u32, preferred: u32, maximum: u32) -> BlockSizes {
    BlockSizes { minimum, preferred, maximum }
}

/// What `NBD_OPT_GO` tells of block sizes, if they are asked for.
fn told(own: Option<BlockSizes>, max_payload: u32) -> Result<Option<BlockSizes>, ApiMisuse> {
    let limits = Limits::default().max_payload(max_payload);
    let tell = |kinds: &[u16]| {
        let mut server = started(ServerConfig::new().limits(limits), 3);
        server.feed(&option(GO, &info("disk", kinds)), &mut Discard).unwrap();
        let mut export = export();
        export.block_sizes = own;
        let described = server.describe(export);
        let info: Vec<_> = bodies(&mut server).into_iter().map(|(_, body)| body).collect();
        let field = |body: &[u8], at: usize| {
            u32::from_be_bytes(body[at..at + 4].try_into().expect("four bytes"))
        };
        let sizes = info.iter().find(|body| body.starts_with(&[0, 3]));
        let sizes = sizes.map(|body| sizes_of([2, 6, 10].map(|at| field(body, at))));
        described.map(|()| sizes)
    };
    assert_eq!(tell(&[0, 1, 2]).unwrap_or(None), None, "it was not asked for");
    tell(&[3])
}

fn sizes_of([minimum, preferred, maximum]: [u32; 3]) -> BlockSizes {
    sizes(minimum, preferred, maximum)
}

#[test]
fn the_longest_payload_is_told_as_the_maximum() {
    const MIB: u32 = 1 << 20;
    let cases = [
        (None, MIB, sizes(1, 4096, MIB)),
        (None, 32 * MIB, sizes(1, 4096, 32 * MIB)),
        (None, u32::MAX, sizes(1, 4096, u32::MAX)),
        // The preferred block is no longer than what is taken.
        (None, 4095, sizes(1, 2048, 4095)),
        (None, 512, sizes(1, 512, 512)),
        (Some(sizes(512, 1 << 16, u32::MAX)), MIB, sizes(512, 1 << 16, MIB)),
        (Some(sizes(512, 1 << 16, MIB)), 32 * MIB, sizes(512, 1 << 16, MIB)),
        (Some(sizes(512, 1 << 16, MIB)), 5000, sizes(512, 4096, 5000)),
    ];
    for (own, max_payload, expected) in cases {
        assert_eq!(told(own, max_payload), Ok(Some(expected)), "{own:?}, {max_payload}");
    }
}

#[test]
fn no_block_sizes_are_told_that_nobody_would_believe() {
    let bad = [
        sizes(0, 4096, 1 << 20),
        sizes(3, 4096, 1 << 20),
        sizes(1 << 17, 1 << 17, 1 << 20),
        sizes(512, 256, 1 << 20),
        sizes(1, 256, 1 << 20),
        sizes(4096, 8192, 4096),
        sizes(512, 1000, 1 << 20),
    ];
    for own in bad {
        assert_eq!(told(Some(own), 1 << 20), Err(ApiMisuse::BadBlockSizes), "{own:?}");
    }
    // No payload could be as short as the block is long.
    assert_eq!(told(Some(sizes(4096, 4096, 1 << 20)), 1024), Err(ApiMisuse::BadBlockSizes));
}
