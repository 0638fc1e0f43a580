//! Every message: what is accepted is written back as it was.

use nbd_proto::wire::chunk::{ChunkType, ErrorHead, OffsetData, OffsetHole, StatusExtHead};
use nbd_proto::wire::greeting::{ExportHeader, Style};
use nbd_proto::wire::option::{
    ExportEntry, Info, InfoRequest, MetaContext, MetaContextRequest, OptionCode, OptionHeader,
    OptionReplyHeader, ReplyType,
};
use nbd_proto::wire::reply::{ChunkHeader, SimpleReply};
use nbd_proto::wire::request::{CommandType, RequestHeader};
use nbd_proto::{Errno, Extent};

/// Takes the bytes for every message of the protocol.
pub fn wire_roundtrip(data: &[u8]) {
    greetings(data);
    options(data);
    requests(data);
    replies(data);
    chunks(data);
    numbers(data);
}

/// A header of fixed size: the first bytes, if there are enough.
fn fixed<const N: usize>(data: &[u8], again: impl FnOnce(&[u8; N]) -> Option<[u8; N]>) {
    if let Some(bytes) = data.first_chunk()
        && let Some(written) = again(bytes)
    {
        assert_eq!(written, *bytes);
    }
}

/// A body: all bytes.
fn body(data: &[u8], again: impl FnOnce(&mut Vec<u8>) -> bool) {
    let mut written = Vec::new();
    if again(&mut written) {
        assert_eq!(written, data);
    }
}

fn greetings(data: &[u8]) {
    fixed(data, |bytes| Style::decode(bytes).ok().map(Style::encode));
    fixed(data, |bytes| {
        ExportHeader::decode_oldstyle(bytes).ok().map(ExportHeader::encode_oldstyle)
    });
    fixed(data, |bytes| Some(ExportHeader::decode_newstyle(bytes).encode_newstyle()));
}

fn options(data: &[u8]) {
    fixed(data, |bytes| OptionHeader::decode(bytes).ok().map(OptionHeader::encode));
    fixed(data, |bytes| OptionReplyHeader::decode(bytes).ok().map(OptionReplyHeader::encode));
    body(data, |out| InfoRequest::decode(data).map(|body| body.encode(out)).is_ok());
    body(data, |out| MetaContextRequest::decode(data).map(|body| body.encode(out)).is_ok());
    body(data, |out| ExportEntry::decode(data).map(|body| body.encode(out)).is_ok());
    body(data, |out| MetaContext::decode(data).map(|body| body.encode(out)).is_ok());
    match Info::decode(data) {
        // What an unknown kind says is not kept, only that it was there.
        Ok(Info::Unknown(kind)) => assert_eq!(kind.to_be_bytes(), data[..2]),
        Ok(info) => body(data, |out| {
            info.encode(out);
            true
        }),
        Err(_) => {}
    }
}

fn requests(data: &[u8]) {
    fixed(data, |bytes| {
        let header = RequestHeader::decode_compact(bytes).ok()?;
        Some(header.encode_compact().expect("a length of 32 bits"))
    });
    fixed(data, |bytes| {
        RequestHeader::decode_extended(bytes).ok().map(RequestHeader::encode_extended)
    });
}

fn replies(data: &[u8]) {
    fixed(data, |bytes| SimpleReply::decode(bytes).ok().map(SimpleReply::encode));
    fixed(data, |bytes| {
        let header = ChunkHeader::decode_structured(bytes).ok()?;
        Some(header.encode_structured().expect("a length of 32 bits"))
    });
    fixed(data, |bytes| ChunkHeader::decode_extended(bytes).ok().map(ChunkHeader::encode_extended));
}

fn chunks(data: &[u8]) {
    fixed(data, |bytes| Some(OffsetData::decode(bytes).encode()));
    fixed(data, |bytes| Some(OffsetHole::decode(bytes).encode()));
    fixed(data, |bytes| Some(ErrorHead::decode(bytes).encode()));
    fixed(data, |bytes| Some(StatusExtHead::decode(bytes).encode()));
    fixed(data, |bytes| Some(Extent::decode_extended(bytes).encode_extended()));
    fixed(data, |bytes| {
        Some(Extent::decode_compact(bytes).encode_compact().expect("two numbers of 32 bits"))
    });
}

fn numbers(data: &[u8]) {
    fixed(data, |bytes| {
        let kind = ChunkType::from_wire(u16::from_be_bytes(*bytes))?;
        Some(kind.to_wire().to_be_bytes())
    });
    fixed(data, |bytes| {
        let kind = CommandType::from_wire(u16::from_be_bytes(*bytes))?;
        Some(kind.to_wire().to_be_bytes())
    });
    fixed(data, |bytes| {
        let option = OptionCode::from_wire(u32::from_be_bytes(*bytes))?;
        Some(option.to_wire().to_be_bytes())
    });
    fixed(data, |bytes| {
        let kind = ReplyType::from_wire(u32::from_be_bytes(*bytes))?;
        Some(kind.to_wire().to_be_bytes())
    });
    if let Some(bytes) = data.first_chunk()
        && let Some(errno) = Errno::from_wire(u32::from_be_bytes(*bytes))
    {
        // Numbers that mean nothing all become one.
        assert_eq!(Errno::from_wire(errno.to_wire()), Some(errno));
    }
}
