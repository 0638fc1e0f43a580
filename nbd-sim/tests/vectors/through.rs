//! A vector read by the library and written again.

use nbd_proto::wire::chunk::{ChunkType, ErrorHead, OffsetData, OffsetHole, StatusExtHead};
use nbd_proto::wire::greeting::{ExportHeader, Style};
use nbd_proto::wire::option::{
    ExportEntry, Info, InfoRequest, MetaContext, MetaContextRequest, OptionCode, OptionHeader,
    OptionReplyHeader, ReplyType,
};
use nbd_proto::wire::reply::{ChunkHeader, SimpleReply};
use nbd_proto::wire::request::{CommandType, DISCONNECT, RequestHeader};
use nbd_proto::{Errno, Extent};

/// Reads the message that the name says it is, and writes it.
pub(crate) fn read_and_written(name: &str, bytes: &[u8]) -> Vec<u8> {
    let (group, _) = name.split_once('.').unwrap();
    match group {
        "greeting" => greeting(bytes),
        "client-flags" => bytes.to_vec(),
        "option" => option(bytes),
        "reply" => reply(bytes),
        "export-name-reply" => {
            let (head, padding) = bytes.split_first_chunk().unwrap();
            let header = ExportHeader::decode_newstyle(head);
            [header.encode_newstyle().as_slice(), padding].concat()
        }
        "request" => {
            let (head, payload) = bytes.split_first_chunk().unwrap();
            let header = RequestHeader::decode_compact(head).unwrap();
            known_command(header);
            [&header.encode_compact().unwrap(), payload].concat()
        }
        "xrequest" => {
            let (head, payload) = bytes.split_first_chunk().unwrap();
            let header = RequestHeader::decode_extended(head).unwrap();
            known_command(header);
            [header.encode_extended().as_slice(), payload].concat()
        }
        "simple" => {
            let (head, data) = bytes.split_first_chunk().unwrap();
            let header = SimpleReply::decode(head).unwrap();
            let error = Errno::from_wire(header.error).map_or(0, Errno::to_wire);
            assert_eq!(error, header.error);
            [header.encode().as_slice(), data].concat()
        }
        "chunk" => {
            let (head, body) = bytes.split_first_chunk().unwrap();
            let header = ChunkHeader::decode_structured(head).unwrap();
            [header.encode_structured().unwrap().as_slice(), &chunk(header, body)].concat()
        }
        "xchunk" => {
            let (head, body) = bytes.split_first_chunk().unwrap();
            let header = ChunkHeader::decode_extended(head).unwrap();
            [header.encode_extended().as_slice(), &chunk(header, body)].concat()
        }
        _ => panic!("no reader is known for {name}"),
    }
}

fn greeting(bytes: &[u8]) -> Vec<u8> {
    let (magic, rest) = bytes.split_first_chunk().unwrap();
    let style = Style::decode(magic).unwrap();
    let mut out = style.encode().to_vec();
    match style {
        Style::Newstyle => out.extend(rest),
        Style::Oldstyle => {
            let (head, padding) = rest.split_first_chunk().unwrap();
            out.extend(ExportHeader::decode_oldstyle(head).unwrap().encode_oldstyle());
            out.extend(padding);
        }
    }
    out
}

fn known_command(header: RequestHeader) {
    let kind = CommandType::from_wire(header.kind).map(CommandType::to_wire);
    assert_eq!(kind.unwrap_or(DISCONNECT), header.kind);
}

fn option(bytes: &[u8]) -> Vec<u8> {
    let (head, data) = bytes.split_first_chunk().unwrap();
    let header = OptionHeader::decode(head).unwrap();
    assert_eq!(header.length as usize, data.len());
    let mut out = header.encode().to_vec();
    let option = OptionCode::from_wire(header.option).unwrap();
    assert_eq!(option.to_wire(), header.option);
    match option {
        OptionCode::Info | OptionCode::Go => InfoRequest::decode(data).unwrap().encode(&mut out),
        OptionCode::ListMetaContext | OptionCode::SetMetaContext => {
            MetaContextRequest::decode(data).unwrap().encode(&mut out);
        }
        _ => out.extend(data),
    }
    out
}

fn reply(bytes: &[u8]) -> Vec<u8> {
    let (head, data) = bytes.split_first_chunk().unwrap();
    let header = OptionReplyHeader::decode(head).unwrap();
    assert_eq!(header.length as usize, data.len());
    let mut out = header.encode().to_vec();
    let kind = ReplyType::from_wire(header.kind).unwrap();
    assert_eq!(kind.to_wire(), header.kind);
    match kind {
        ReplyType::Ack | ReplyType::Refused(_) => out.extend(data),
        ReplyType::Server => ExportEntry::decode(data).unwrap().encode(&mut out),
        ReplyType::Info => Info::decode(data).unwrap().encode(&mut out),
        ReplyType::MetaContext => MetaContext::decode(data).unwrap().encode(&mut out),
        other => panic!("no example has a {other:?}"),
    }
    out
}

fn chunk(header: ChunkHeader, body: &[u8]) -> Vec<u8> {
    assert_eq!(header.length as usize, body.len());
    let kind = ChunkType::from_wire(header.kind).unwrap();
    assert_eq!(kind.to_wire(), header.kind);
    let mut out = Vec::new();
    let rest = match kind {
        ChunkType::None => body,
        ChunkType::OffsetData => {
            let (head, data) = body.split_first_chunk().unwrap();
            out.extend(OffsetData::decode(head).encode());
            data
        }
        ChunkType::OffsetHole => {
            let (head, rest) = body.split_first_chunk().unwrap();
            out.extend(OffsetHole::decode(head).encode());
            rest
        }
        ChunkType::BlockStatus => {
            let (context, extents) = body.split_at(4);
            out.extend(context);
            for bytes in extents.as_chunks().0 {
                out.extend(Extent::decode_compact(bytes).encode_compact().unwrap());
            }
            &[]
        }
        ChunkType::BlockStatusExt => {
            let (head, extents) = body.split_first_chunk().unwrap();
            out.extend(StatusExtHead::decode(head).encode());
            for bytes in extents.as_chunks().0 {
                out.extend(Extent::decode_extended(bytes).encode_extended());
            }
            &[]
        }
        ChunkType::Error | ChunkType::ErrorOffset | ChunkType::OtherError(_) => {
            let (head, rest) = body.split_first_chunk().unwrap();
            out.extend(ErrorHead::decode(head).encode());
            rest
        }
        other => panic!("no example has a {other:?}"),
    };
    out.extend(rest);
    out
}
