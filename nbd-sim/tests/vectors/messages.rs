//! The value of each vector, as its comment in the file tells it.

use nbd_proto::wire::chunk::{ChunkType, ErrorHead, OffsetData, OffsetHole, StatusExtHead};
use nbd_proto::wire::flags::{ClientFlags, ReplyFlags};
use nbd_proto::wire::greeting::{ExportHeader, Style};
use nbd_proto::wire::option::{
    BlockSizes, ExportEntry, Info, InfoRequest, InfoType, MetaContext, MetaContextRequest,
    OptionCode, OptionHeader, OptionReplyHeader, RefusalCode, ReplyType,
};
use nbd_proto::wire::reply::{ChunkHeader, SimpleReply};
use nbd_proto::wire::request::{CommandType, DISCONNECT, RequestHeader};
use nbd_proto::{CommandFlags, ContextId, Errno, Extent, HandshakeFlags, TransmissionFlags};

const COOKIE: u64 = 0x1122_3344_5566_7788;
const DATA: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// The bytes that the library makes of a vector's value.
pub(crate) fn encoded(name: &str) -> Vec<u8> {
    let (group, rest) = name.split_once('.').unwrap();
    match group {
        "greeting" => greeting(rest),
        "client-flags" => client_flags(rest),
        "option" => option(rest),
        "reply" => reply(rest),
        "export-name-reply" => export_name_reply(rest),
        "request" => request(rest, false),
        "xrequest" => request(rest, true),
        "simple" => simple(rest),
        "chunk" => chunk(rest, false),
        "xchunk" => chunk(rest, true),
        _ => unknown(name),
    }
}

fn unknown(name: &str) -> ! {
    panic!("no value is known for the vector {name}")
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn greeting(name: &str) -> Vec<u8> {
    use TransmissionFlags as Flag;
    let oldstyle = |size, flags| {
        let header = ExportHeader { size, flags }.encode_oldstyle();
        join(&[&Style::Oldstyle.encode(), &header, &[0; 124]])
    };
    let newstyle =
        |flags: HandshakeFlags| join(&[&Style::Newstyle.encode(), &flags.bits().to_be_bytes()]);
    match name {
        "oldstyle" => oldstyle(1 << 20, Flag::HAS_FLAGS),
        "oldstyle-flags" => oldstyle(
            i64::MAX as u64,
            Flag::HAS_FLAGS
                | Flag::READ_ONLY
                | Flag::SEND_FLUSH
                | Flag::SEND_FUA
                | Flag::ROTATIONAL
                | Flag::SEND_TRIM,
        ),
        "newstyle" => newstyle(HandshakeFlags::empty()),
        "fixed" => newstyle(HandshakeFlags::FIXED_NEWSTYLE),
        "no-zeroes" => newstyle(HandshakeFlags::NO_ZEROES),
        "both" => newstyle(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES),
        _ => unknown(name),
    }
}

fn client_flags(name: &str) -> Vec<u8> {
    let flags = match name {
        "none" => ClientFlags::empty(),
        "fixed" => ClientFlags::FIXED_NEWSTYLE,
        "no-zeroes" => ClientFlags::NO_ZEROES,
        "both" => ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES,
        _ => unknown(name),
    };
    flags.bits().to_be_bytes().to_vec()
}

fn option(name: &str) -> Vec<u8> {
    use InfoType as Kind;
    let info = |export: &str, kinds: &[InfoType]| {
        let mut data = Vec::new();
        let request = InfoRequest {
            export: export.to_owned(),
            info: kinds.iter().map(|kind| kind.to_wire()).collect(),
        };
        request.encode(&mut data);
        data
    };
    let contexts = |export: &str, queries: &[&str]| {
        let mut data = Vec::new();
        let request = MetaContextRequest {
            export: export.to_owned(),
            queries: queries.iter().map(|query| (*query).to_owned()).collect(),
        };
        request.encode(&mut data);
        data
    };
    let (option, data) = match name {
        "export-name" => (OptionCode::ExportName, b"disk".to_vec()),
        "export-name-default" => (OptionCode::ExportName, Vec::new()),
        "abort" => (OptionCode::Abort, Vec::new()),
        "list" => (OptionCode::List, Vec::new()),
        "starttls" => (OptionCode::StartTls, Vec::new()),
        "info" => (OptionCode::Info, info("disk", &[])),
        "info-requests" => {
            (OptionCode::Info, info("disk", &[Kind::Name, Kind::Description, Kind::BlockSize]))
        }
        "go" => (OptionCode::Go, info("disk", &[Kind::BlockSize])),
        "go-default" => (OptionCode::Go, info("", &[])),
        "structured-reply" => (OptionCode::StructuredReply, Vec::new()),
        "list-meta-context" => (OptionCode::ListMetaContext, contexts("disk", &[])),
        "list-meta-context-query" => (OptionCode::ListMetaContext, contexts("disk", &["base:"])),
        "set-meta-context" => {
            (OptionCode::SetMetaContext, contexts("disk", &["base:allocation", "x:y"]))
        }
        "set-meta-context-none" => (OptionCode::SetMetaContext, contexts("", &[])),
        "extended-headers" => (OptionCode::ExtendedHeaders, Vec::new()),
        _ => unknown(name),
    };
    let header = OptionHeader { option: option.to_wire(), length: data.len() as u32 };
    join(&[&header.encode(), &data])
}

fn reply(name: &str) -> Vec<u8> {
    use OptionCode as Opt;
    use RefusalCode as Code;
    use TransmissionFlags as Flag;
    let chunks = Flag::HAS_FLAGS
        | Flag::SEND_FLUSH
        | Flag::SEND_FUA
        | Flag::SEND_TRIM
        | Flag::SEND_WRITE_ZEROES
        | Flag::SEND_DF
        | Flag::CAN_MULTI_CONN
        | Flag::SEND_CACHE
        | Flag::SEND_FAST_ZERO;
    let ack = |option| (option, ReplyType::Ack, Vec::new());
    let refused = |option, code, text: &str| {
        let text = text.as_bytes().to_vec();
        (option, ReplyType::Refused(code), text)
    };
    let info = |option, info: Info| (option, ReplyType::Info, written(|out| info.encode(out)));
    let server = |description: &str| {
        let entry = ExportEntry { name: "disk".to_owned(), description: description.to_owned() };
        (Opt::List, ReplyType::Server, written(|out| entry.encode(out)))
    };
    let context = |option, id, name: &str| {
        let name = name.to_owned();
        let context = MetaContext { id: ContextId(id), name };
        let data = written(|out| context.encode(out));
        (option, ReplyType::MetaContext, data)
    };
    let (option, kind, data) = match name {
        "ack-abort" => ack(Opt::Abort),
        "ack-list" => ack(Opt::List),
        "ack-starttls" => ack(Opt::StartTls),
        "ack-info" => ack(Opt::Info),
        "ack-go" => ack(Opt::Go),
        "ack-structured-reply" => ack(Opt::StructuredReply),
        "ack-list-meta-context" => ack(Opt::ListMetaContext),
        "ack-set-meta-context" => ack(Opt::SetMetaContext),
        "ack-extended-headers" => ack(Opt::ExtendedHeaders),
        "server" => server(""),
        "server-description" => server("Hi"),
        "info-export" => info(Opt::Go, Info::Export(1 << 20, Flag::HAS_FLAGS)),
        "info-export-info" => info(Opt::Info, Info::Export(1 << 20, Flag::HAS_FLAGS)),
        "info-export-chunks" => info(Opt::Go, Info::Export(1 << 40, chunks)),
        "info-export-extended" => {
            let flags = chunks | Flag::BLOCK_STATUS_PAYLOAD;
            info(Opt::Go, Info::Export(1 << 40, flags))
        }
        "info-name" => info(Opt::Go, Info::Name("disk".to_owned())),
        "info-description" => info(Opt::Go, Info::Description("Hi".to_owned())),
        "info-block-size" => info(
            Opt::Go,
            Info::BlockSize(BlockSizes { minimum: 512, preferred: 4096, maximum: 32 << 20 }),
        ),
        "meta-context-list" => context(Opt::ListMetaContext, 0, "base:allocation"),
        "meta-context" => context(Opt::SetMetaContext, 1, "base:allocation"),
        "meta-context-second" => context(Opt::SetMetaContext, 7, "x:y"),
        "err-unsup" => refused(Opt::StructuredReply, Code::Unsupported, ""),
        "err-policy" => refused(Opt::List, Code::Policy, ""),
        "err-invalid" => refused(Opt::SetMetaContext, Code::Invalid, "No"),
        "err-platform" => refused(Opt::StartTls, Code::Platform, ""),
        "err-tls-reqd" => refused(Opt::Go, Code::TlsRequired, ""),
        "err-unknown" => refused(Opt::Go, Code::UnknownExport, "No"),
        "err-shutdown" => refused(Opt::Go, Code::Shutdown, ""),
        "err-block-size-reqd" => refused(Opt::Go, Code::BlockSizeRequired, ""),
        "err-too-big" => refused(Opt::ListMetaContext, Code::TooBig, ""),
        "err-ext-header-reqd" => refused(Opt::Go, Code::ExtendedHeadersRequired, ""),
        _ => unknown(name),
    };
    let header = OptionReplyHeader {
        option: option.to_wire(),
        kind: kind.to_wire(),
        length: data.len() as u32,
    };
    join(&[&header.encode(), &data])
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn export_name_reply(name: &str) -> Vec<u8> {
    use TransmissionFlags as Flag;
    let header = |flags| ExportHeader { size: 1 << 20, flags };
    match name {
        "zeroes" => join(&[&header(Flag::HAS_FLAGS).encode_newstyle(), &[0; 124]]),
        "no-zeroes" => header(Flag::HAS_FLAGS | Flag::READ_ONLY).encode_newstyle().to_vec(),
        _ => unknown(name),
    }
}

fn request(name: &str, extended: bool) -> Vec<u8> {
    use CommandFlags as Flag;
    use CommandType as Kind;
    let wide = |length: u64, compact: u64| if extended { length } else { compact };
    let fast = Flag::FUA | Flag::FAST_ZERO;
    let write = if extended { Flag::FUA | Flag::PAYLOAD_LEN } else { Flag::FUA };
    let (kind, flags, length) = match name {
        "read" => (Kind::Read.to_wire(), Flag::empty(), 8),
        "read-df" => (Kind::Read.to_wire(), Flag::DF, 8),
        "write" => (Kind::Write.to_wire(), write, 4),
        "disc" => (DISCONNECT, Flag::empty(), 0),
        "flush" => (Kind::Flush.to_wire(), Flag::empty(), 0),
        "trim" if extended => (Kind::Trim.to_wire(), Flag::empty(), 1 << 32),
        "trim" => (Kind::Trim.to_wire(), Flag::FUA, 4096),
        "cache" => (Kind::Cache.to_wire(), Flag::empty(), 4096),
        "write-zeroes" => (Kind::WriteZeroes.to_wire(), Flag::NO_HOLE, wide(6 << 30, 4096)),
        "write-zeroes-fast" => (Kind::WriteZeroes.to_wire(), fast, wide(6 << 30, 0xffff_ffff)),
        "block-status" => (Kind::BlockStatus.to_wire(), Flag::empty(), wide(1 << 33, 8192)),
        "block-status-one" => (Kind::BlockStatus.to_wire(), Flag::REQ_ONE, wide(1 << 33, 8192)),
        "block-status-payload" => (Kind::BlockStatus.to_wire(), Flag::PAYLOAD_LEN, 12),
        _ => unknown(name),
    };
    let reserved = [DISCONNECT, Kind::Flush.to_wire()].contains(&kind);
    let header = RequestHeader {
        flags,
        kind,
        cookie: COOKIE,
        offset: if reserved { 0 } else { 1 << 16 },
        length,
    };
    let mut bytes = if extended {
        header.encode_extended().to_vec()
    } else {
        header.encode_compact().unwrap().to_vec()
    };
    match name {
        "write" => bytes.extend([0xde, 0xad, 0xbe, 0xef]),
        "block-status-payload" => {
            bytes.extend((1u64 << 33).to_be_bytes());
            bytes.extend(7u32.to_be_bytes());
        }
        _ => {}
    }
    bytes
}

fn simple(name: &str) -> Vec<u8> {
    let (error, data): (u32, &[u8]) = match name {
        "done" => (0, &[]),
        "read" => (0, &DATA),
        _ => (error_named(name).to_wire(), &[]),
    };
    let cookie = COOKIE;
    join(&[&SimpleReply { error, cookie }.encode(), data])
}

fn error_named(name: &str) -> Errno {
    match name {
        "eperm" => Errno::Perm,
        "eio" => Errno::Io,
        "enomem" => Errno::NoMem,
        "einval" => Errno::Inval,
        "enospc" => Errno::NoSpc,
        "eoverflow" => Errno::Overflow,
        "enotsup" => Errno::NotSup,
        "eshutdown" => Errno::Shutdown,
        _ => unknown(name),
    }
}

fn chunk(name: &str, extended: bool) -> Vec<u8> {
    use ChunkType as Kind;
    let offset = OffsetData { offset: 1 << 16 }.encode();
    let hole = |offset, length| OffsetHole { offset, length }.encode().to_vec();
    let error = |errno: Errno, text: &str| {
        let head = ErrorHead { error: errno.to_wire(), message_length: text.len() as u16 };
        join(&[&head.encode(), text.as_bytes()])
    };
    let at = |offset: u64| offset.to_be_bytes();
    let status_kind = if extended { Kind::BlockStatusExt } else { Kind::BlockStatus };
    let wide = |length: u64, compact: u64| if extended { length } else { compact };
    let done = !matches!(
        name,
        "offset-data-part" | "block-status" | "block-status-one" | "error-offset-part"
    );
    let (kind, body) = match name {
        "none" | "none-flush" => (Kind::None, Vec::new()),
        "offset-data" => (Kind::OffsetData, join(&[&offset, &DATA])),
        "offset-data-part" => (Kind::OffsetData, join(&[&offset, &DATA[..4]])),
        "offset-hole-part" => (Kind::OffsetHole, hole(65540, 4)),
        "offset-hole" => (Kind::OffsetHole, hole(65536, 8)),
        "block-status" => {
            let length = wide(1 << 32, 4096);
            (status_kind, status(1, &[(length, 0), (length, 3)], extended))
        }
        "block-status-last" => {
            let (length, flags) = (wide(1 << 33, 8192), wide((1 << 32) + 1, 1));
            (status_kind, status(7, &[(length, flags)], extended))
        }
        "block-status-one" => {
            let length = wide(1 << 33, 8192);
            (status_kind, status(1, &[(length, 2)], extended))
        }
        "error" | "error-eio" => (Kind::Error, error(Errno::Io, "bad")),
        "error-offset" => {
            let body = join(&[&error(Errno::Io, "bad"), &at(65540)]);
            (Kind::ErrorOffset, body)
        }
        "error-offset-part" => {
            let body = join(&[&error(Errno::Io, ""), &at(65536)]);
            (Kind::ErrorOffset, body)
        }
        "error-unknown" => {
            let body = join(&[&error(Errno::Io, ""), &[0xab, 0xcd]]);
            (Kind::OtherError(0x8009), body)
        }
        _ => {
            let name = name.strip_prefix("error-").unwrap_or_else(|| unknown(name));
            (Kind::Error, error(error_named(name), ""))
        }
    };
    let header = ChunkHeader {
        flags: if done { ReplyFlags::DONE } else { ReplyFlags::empty() },
        kind: kind.to_wire(),
        cookie: COOKIE,
        offset: if name == "none-flush" { 0 } else { 1 << 16 },
        length: body.len() as u64,
    };
    if extended {
        join(&[&header.encode_extended(), &body])
    } else {
        join(&[&header.encode_structured().unwrap(), &body])
    }
}

fn status(context: u32, extents: &[(u64, u64)], extended: bool) -> Vec<u8> {
    let mut body = if extended {
        let count = extents.len() as u32;
        StatusExtHead { context, count }.encode().to_vec()
    } else {
        context.to_be_bytes().to_vec()
    };
    for (length, status) in extents {
        let extent = Extent { length: *length, status: *status };
        if extended {
            body.extend(extent.encode_extended());
        } else {
            body.extend(extent.encode_compact().unwrap());
        }
    }
    body
}
