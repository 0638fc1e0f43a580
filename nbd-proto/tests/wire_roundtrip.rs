//! Every wire type, both ways: what is written is read back the same, and whatever
//! bytes are accepted are written back the same.

use nbd_proto::wire::chunk::{ChunkType, ErrorHead, OffsetData, OffsetHole, StatusExtHead};
use nbd_proto::wire::flags::ReplyFlags;
use nbd_proto::wire::greeting::{ExportHeader, Style};
use nbd_proto::wire::option::{
    BlockSizes, ExportEntry, Info, InfoRequest, MetaContext, MetaContextRequest, OptionCode,
    OptionHeader, OptionReplyHeader, ReplyType,
};
use nbd_proto::wire::reply::{ChunkHeader, SimpleReply};
use nbd_proto::wire::request::{CommandType, RequestHeader};
use nbd_proto::{CommandFlags, ContextId, Extent, InvalidMessage, TransmissionFlags};
use proptest::collection::vec;
use proptest::prelude::*;

/// Text as it may travel: no NUL, some of it not ASCII.
fn text() -> impl Strategy<Value = String> {
    "[a-z:é\u{1f4be}\n ]{0,40}"
}

fn context_name() -> impl Strategy<Value = String> {
    "[a-z]{0,9}:[a-zé]{0,9}"
}

/// Written by `encode`, read by `decode`: the same value.
fn body<T: PartialEq + std::fmt::Debug>(
    value: &T,
    encode: impl Fn(&T, &mut Vec<u8>),
    decode: impl Fn(&[u8]) -> Result<T, InvalidMessage>,
) {
    let mut bytes = Vec::new();
    encode(value, &mut bytes);
    assert_eq!(decode(&bytes).as_ref(), Ok(value));
}

/// Bytes that `decode` accepts are what `encode` makes of their value.
fn accepted<T>(
    bytes: &[u8],
    encode: impl Fn(&T, &mut Vec<u8>),
    decode: impl Fn(&[u8]) -> Result<T, InvalidMessage>,
) {
    if let Ok(value) = decode(bytes) {
        let mut again = Vec::new();
        encode(&value, &mut again);
        assert_eq!(again, bytes);
    }
}

prop_compose! {
    fn request_header()(
        flags: u16, kind: u16, cookie: u64, offset: u64, length: u64,
    ) -> RequestHeader {
        let flags = CommandFlags::from_bits_retain(flags);
        RequestHeader { flags, kind, cookie, offset, length }
    }
}

prop_compose! {
    fn chunk_header()(
        flags: u16, kind: u16, cookie: u64, offset: u64, length: u64,
    ) -> ChunkHeader {
        let flags = ReplyFlags::from_bits_retain(flags);
        ChunkHeader { flags, kind, cookie, offset, length }
    }
}

fn info() -> impl Strategy<Value = Info> {
    prop_oneof![
        (any::<u64>(), any::<u16>()).prop_map(|(size, flags)| Info::Export(
            size,
            TransmissionFlags::from_bits_retain(flags)
        )),
        text().prop_map(Info::Name),
        text().prop_map(Info::Description),
        any::<[u32; 3]>().prop_map(|[minimum, preferred, maximum]| {
            Info::BlockSize(BlockSizes { minimum, preferred, maximum })
        }),
        (4u16..).prop_map(Info::Unknown),
    ]
}

proptest! {
    #[test]
    fn request_headers(header in request_header()) {
        prop_assert_eq!(RequestHeader::decode_extended(&header.encode_extended()), Ok(header));
        match header.encode_compact() {
            Some(bytes) => prop_assert_eq!(RequestHeader::decode_compact(&bytes), Ok(header)),
            None => prop_assert!(header.length > u64::from(u32::MAX)),
        }
        let header = RequestHeader { length: header.length >> 32, ..header };
        let bytes = header.encode_compact().unwrap();
        prop_assert_eq!(RequestHeader::decode_compact(&bytes), Ok(header));
    }

    #[test]
    fn chunk_headers(header in chunk_header()) {
        prop_assert_eq!(ChunkHeader::decode_extended(&header.encode_extended()), Ok(header));
        let header = ChunkHeader { offset: 0, length: header.length >> 32, ..header };
        let bytes = header.encode_structured().unwrap();
        prop_assert_eq!(ChunkHeader::decode_structured(&bytes), Ok(header));
    }

    #[test]
    fn lengths_beyond_32_bits_have_no_compact_form(length in 1u64 << 32..) {
        let request = RequestHeader { flags: CommandFlags::empty(), kind: 0, cookie: 0, offset: 0, length };
        prop_assert_eq!(request.encode_compact(), None);
        let chunk = ChunkHeader { flags: ReplyFlags::DONE, kind: 0, cookie: 0, offset: 0, length };
        prop_assert_eq!(chunk.encode_structured(), None);
        prop_assert_eq!(Extent { length, status: 0 }.encode_compact(), None);
        prop_assert_eq!(Extent { length: 0, status: length }.encode_compact(), None);
    }

    #[test]
    fn fixed_parts(a: u64, b: u32, c: u16, d: u64) {
        let reply = SimpleReply { error: b, cookie: a };
        prop_assert_eq!(SimpleReply::decode(&reply.encode()), Ok(reply));
        let data = OffsetData { offset: a };
        prop_assert_eq!(OffsetData::decode(&data.encode()), data);
        let hole = OffsetHole { offset: a, length: b };
        prop_assert_eq!(OffsetHole::decode(&hole.encode()), hole);
        let error = ErrorHead { error: b, message_length: c };
        prop_assert_eq!(ErrorHead::decode(&error.encode()), error);
        let head = StatusExtHead { context: b, count: u32::from(c) };
        prop_assert_eq!(StatusExtHead::decode(&head.encode()), head);
        let extent = Extent { length: a, status: d };
        prop_assert_eq!(Extent::decode_extended(&extent.encode_extended()), extent);
        let extent = Extent { length: a >> 32, status: d >> 32 };
        prop_assert_eq!(Extent::decode_compact(&extent.encode_compact().unwrap()), extent);
        let option = OptionHeader { option: b, length: u32::from(c) };
        prop_assert_eq!(OptionHeader::decode(&option.encode()), Ok(option));
        let reply = OptionReplyHeader { option: b, kind: !b, length: u32::from(c) };
        prop_assert_eq!(OptionReplyHeader::decode(&reply.encode()), Ok(reply));
        let export = ExportHeader { size: a, flags: TransmissionFlags::from_bits_retain(c) };
        prop_assert_eq!(ExportHeader::decode_newstyle(&export.encode_newstyle()), export);
        prop_assert_eq!(ExportHeader::decode_oldstyle(&export.encode_oldstyle()), Ok(export));
    }

    #[test]
    fn bodies(export in text(), kinds in vec(any::<u16>(), 0..5), queries in vec(text(), 0..5)) {
        body(&InfoRequest { export: export.clone(), info: kinds }, InfoRequest::encode, InfoRequest::decode);
        body(
            &MetaContextRequest { export: export.clone(), queries },
            MetaContextRequest::encode,
            MetaContextRequest::decode,
        );
        let entry = ExportEntry { name: export.clone(), description: export };
        body(&entry, ExportEntry::encode, ExportEntry::decode);
    }

    #[test]
    fn infos_and_contexts(info in info(), id: u32, name in context_name()) {
        body(&info, Info::encode, Info::decode);
        body(&MetaContext { id: ContextId(id), name }, MetaContext::encode, MetaContext::decode);
    }

    /// Numbers with a name keep their value.
    #[test]
    fn codes(number: u32, small in 0u32..32, error in any::<bool>()) {
        for value in [number, small | u32::from(error) << 31] {
            if let Some(option) = OptionCode::from_wire(value) {
                prop_assert_eq!(option.to_wire(), value);
            }
            if let Some(kind) = ReplyType::from_wire(value) {
                prop_assert_eq!(kind.to_wire(), value);
            }
            let value = (value as u16 & 31) | u16::from(error) << 15;
            if let Some(kind) = ChunkType::from_wire(value) {
                prop_assert_eq!(kind.to_wire(), value);
            }
            if let Some(kind) = CommandType::from_wire(value) {
                prop_assert_eq!(kind.to_wire(), value);
            }
        }
    }

    /// Any bytes at all: nothing panics, and what is accepted is not changed.
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..80), kind in 0u8..5) {
        accepted(&bytes, InfoRequest::encode, InfoRequest::decode);
        accepted(&bytes, MetaContextRequest::encode, MetaContextRequest::decode);
        accepted(&bytes, ExportEntry::encode, ExportEntry::decode);
        accepted(&bytes, MetaContext::encode, MetaContext::decode);
        // Data of an unknown kind of information is not kept.
        let mut known = vec![0, kind % 4];
        known.extend(&bytes);
        accepted(&known, Info::encode, Info::decode);
        known.truncate(12 + 2 * usize::from(kind == 3));
        accepted(&known, Info::encode, Info::decode);
    }

    /// Small numbers in front, so that strings and counts often fit.
    #[test]
    fn likely_bytes(parts in vec((0u8..4, vec(b' '..b'~', 0..4)), 0..6)) {
        let bytes: Vec<u8> = parts
            .iter()
            .flat_map(|(n, text)| [&[0, 0, 0, *n], text.as_slice()].concat())
            .collect();
        accepted(&bytes, InfoRequest::encode, InfoRequest::decode);
        accepted(&bytes, MetaContextRequest::encode, MetaContextRequest::decode);
        accepted(&bytes, ExportEntry::encode, ExportEntry::decode);
    }
}

#[test]
fn wrong_magic_numbers_are_told_apart() {
    assert_eq!(Style::decode(&[b'H'; 16]), Err(InvalidMessage::NotNbd));
    let mut greeting = Style::Newstyle.encode();
    greeting[15] ^= 1;
    assert_eq!(Style::decode(&greeting), Err(InvalidMessage::GreetingMagic));
    assert_eq!(OptionHeader::decode(&[0; 16]), Err(InvalidMessage::OptionMagic));
    assert_eq!(OptionReplyHeader::decode(&[0; 20]), Err(InvalidMessage::OptionReplyMagic));
    assert_eq!(RequestHeader::decode_compact(&[0; 28]), Err(InvalidMessage::RequestMagic));
    assert_eq!(RequestHeader::decode_extended(&[0; 32]), Err(InvalidMessage::RequestMagic));
    assert_eq!(SimpleReply::decode(&[0; 16]), Err(InvalidMessage::ReplyMagic));
    assert_eq!(ChunkHeader::decode_structured(&[0; 20]), Err(InvalidMessage::ReplyMagic));
    assert_eq!(ChunkHeader::decode_extended(&[0; 32]), Err(InvalidMessage::ReplyMagic));
}

#[test]
fn strings_have_a_limit_and_are_text() {
    let entry = |name: &[u8]| {
        let mut bytes = (name.len() as u32).to_be_bytes().to_vec();
        bytes.extend(name);
        ExportEntry::decode(&bytes)
    };
    assert!(entry(&[b'x'; 4096]).is_ok());
    assert_eq!(entry(&[b'x'; 4097]), Err(InvalidMessage::StringTooLong));
    assert_eq!(entry(b"a\0b"), Err(InvalidMessage::NotText));
    assert_eq!(entry(b"\xff"), Err(InvalidMessage::NotText));
    assert_eq!(
        ExportEntry::decode(&[0xff, 0xff, 0xff, 0xff, b'x']),
        Err(InvalidMessage::Truncated)
    );
    assert_eq!(MetaContext::decode(b"\0\0\0\x01name"), Err(InvalidMessage::ContextName));
}
