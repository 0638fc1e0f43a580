//! Every golden vector, in a session in which it is legal.

use super::super::{
    BlockSizes, ChunkBody, Command, Context, Extent, Info, Message, OptionData, OptionReply,
    Request,
};
use super::{CHUNKS, EXTENDED, EXTENDED_OPTIONS, FIXED, SIMPLE, STRUCTURED, play};
use crate::transcript::vectors;

/// The session that leads up to a vector, and the side that sends it.
fn before(name: &str) -> (&'static str, Vec<&'static str>) {
    let (group, rest) = name.split_once('.').unwrap();
    let after = |start: &[&'static str], more: &[&'static str]| [start, more].concat();
    match group {
        "greeting" => ("S", Vec::new()),
        "client-flags" => ("C", vec!["S greeting.both"]),
        "option" if rest.starts_with("set-meta-context") => ("C", CHUNKS.to_vec()),
        "option" => ("C", FIXED.to_vec()),
        "reply" => ("S", before_reply(rest)),
        "export-name-reply" => {
            let flags =
                if rest == "zeroes" { "C client-flags.fixed" } else { "C client-flags.both" };
            ("S", vec!["S greeting.both", flags, "C option.export-name"])
        }
        "request" => ("C", STRUCTURED.to_vec()),
        "xrequest" => ("C", EXTENDED.to_vec()),
        "simple" if rest == "done" => ("S", after(SIMPLE, &["C request.write"])),
        "simple" => ("S", after(SIMPLE, &["C request.read"])),
        "chunk" => ("S", after(STRUCTURED, before_chunk(rest))),
        "xchunk" => ("S", after(EXTENDED, before_extended_chunk(rest))),
        _ => panic!("no session is known for {name}"),
    }
}

fn before_reply(name: &str) -> Vec<&'static str> {
    let (start, more): (_, &[_]) = match name {
        "ack-abort" => (FIXED, &["C option.abort"]),
        "ack-starttls" | "err-platform" => (FIXED, &["C option.starttls"]),
        "ack-list" | "server" | "server-description" | "err-policy" => (FIXED, &["C option.list"]),
        "ack-info" => (FIXED, &["C option.info", "S reply.info-export-info"]),
        "info-export-info" => (FIXED, &["C option.info"]),
        "ack-go" => (FIXED, &["C option.go", "S reply.info-export"]),
        "err-block-size-reqd" => (FIXED, &["C option.go-default"]),
        "info-export-chunks" => (CHUNKS, &["C option.go"]),
        "info-export-extended" => (EXTENDED_OPTIONS, &["C option.go"]),
        "info-export"
        | "info-name"
        | "info-description"
        | "info-block-size"
        | "err-tls-reqd"
        | "err-unknown"
        | "err-shutdown"
        | "err-ext-header-reqd" => (FIXED, &["C option.go"]),
        "ack-structured-reply" | "err-unsup" => (FIXED, &["C option.structured-reply"]),
        "ack-extended-headers" => (FIXED, &["C option.extended-headers"]),
        "ack-list-meta-context" | "meta-context-list" | "err-too-big" => {
            (CHUNKS, &["C option.list-meta-context-query"])
        }
        "ack-set-meta-context" | "meta-context" | "meta-context-second" | "err-invalid" => {
            (CHUNKS, &["C option.set-meta-context"])
        }
        _ => panic!("no session is known for reply.{name}"),
    };
    [start, more].concat()
}

fn before_chunk(name: &str) -> &'static [&'static str] {
    match name {
        "none" => &["C request.write"],
        "offset-hole-part" => &["C request.read", "S chunk.offset-data-part"],
        "block-status" => &["C request.block-status"],
        "block-status-last" => &["C request.block-status", "S chunk.block-status"],
        "block-status-one" => &["C request.block-status-one"],
        _ => &["C request.read"],
    }
}

fn before_extended_chunk(name: &str) -> &'static [&'static str] {
    match name {
        "none" => &["C xrequest.write"],
        "none-flush" => &["C xrequest.flush"],
        "offset-hole-part" => &["C xrequest.read", "S xchunk.offset-data-part"],
        "block-status" => &["C xrequest.block-status"],
        "block-status-last" => &["C xrequest.block-status", "S xchunk.block-status"],
        "block-status-one" => &["C xrequest.block-status-one"],
        _ => &["C xrequest.read"],
    }
}

/// The message that the oracle makes of a vector.
fn message(name: &str) -> Message {
    let (side, mut script) = before(name);
    let count = play(&script).unwrap_or_else(|error| panic!("{name}: {error}")).messages().len();
    let line = format!("{side} {name}");
    script.push(&line);
    let oracle = play(&script).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(oracle.messages().len(), count + 1, "{name}");
    assert_eq!(oracle.summary().breaches, [], "{name}");
    oracle.messages()[count].clone()
}

#[test]
fn every_vector_is_taken_as_one_message() {
    let vectors = vectors().unwrap();
    assert!(vectors.len() > 100, "{} vectors", vectors.len());
    for vector in vectors {
        message(&vector.name);
    }
}

#[test]
fn handshake_vectors_have_their_values() {
    let reply = |option, reply| Message::OptionReply { option, reply };
    let base = "base:allocation".to_owned();
    let queries = vec![base.clone(), "x:y".to_owned()];
    let name = "disk".to_owned();
    let sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 25 };
    let contexts = OptionData::Contexts { name: name.clone(), queries };
    let go = OptionData::Export { name: name.clone(), requests: vec![3] };
    let size = i64::MAX.unsigned_abs();
    let description = "Hi".to_owned();
    for (vector, expected) in [
        ("greeting.oldstyle-flags", Message::OldstyleGreeting { size, flags: 0x3f }),
        ("greeting.both", Message::Greeting { flags: 3 }),
        ("client-flags.no-zeroes", Message::ClientFlags { flags: 2 }),
        ("option.go", Message::Option { option: 7, data: go }),
        ("option.set-meta-context", Message::Option { option: 10, data: contexts }),
        ("option.abort", Message::Option { option: 2, data: OptionData::None }),
        ("reply.ack-list", reply(3, OptionReply::Ack)),
        ("reply.server-description", reply(3, OptionReply::Server { name, description })),
        (
            "reply.info-export",
            reply(7, OptionReply::Info(Info::Export { size: 1 << 20, flags: 1 })),
        ),
        ("reply.info-block-size", reply(7, OptionReply::Info(Info::BlockSize(sizes)))),
        ("reply.meta-context", reply(10, OptionReply::Context(Context { id: 1, name: base }))),
        (
            "reply.err-unknown",
            reply(7, OptionReply::Error { code: 0x8000_0006, text: "No".into() }),
        ),
        ("export-name-reply.no-zeroes", Message::ExportNameReply { size: 1 << 20, flags: 3 }),
    ] {
        assert_eq!(message(vector), expected, "{vector}");
    }
}

#[test]
fn transmission_vectors_have_their_values() {
    let cookie = 0x1122_3344_5566_7788;
    let at = 65536;
    let data = (1..=8).collect::<Vec<u8>>();
    let request = |extended, flags, command, length, payload: &[u8]| {
        let payload = payload.to_vec();
        Message::Request(Request { extended, flags, command, cookie, offset: at, length, payload })
    };
    let chunk = |flags, kind, body| Message::Chunk { flags, kind, cookie, offset: None, body };
    let wide = |flags, kind, body| Message::Chunk { flags, kind, cookie, offset: Some(at), body };
    let extents = |pairs: &[(u64, u64)]| {
        pairs.iter().map(|&(length, flags)| Extent { length, flags }).collect::<Vec<_>>()
    };
    let bad = |offset| ChunkBody::Error { error: 5, message: "bad".into(), offset };
    let two = ChunkBody::Status { context: 1, extents: extents(&[(4096, 0), (4096, 3)]) };
    let filter = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7];
    let huge = ChunkBody::Status { context: 7, extents: extents(&[(1 << 33, (1 << 32) + 1)]) };
    for (vector, expected) in [
        ("request.read-df", request(false, 4, Command::Read, 8, &[])),
        ("request.write", request(false, 1, Command::Write, 4, &[0xde, 0xad, 0xbe, 0xef])),
        ("request.block-status-one", request(false, 8, Command::BlockStatus, 8192, &[])),
        ("xrequest.write-zeroes", request(true, 2, Command::WriteZeroes, 6 << 30, &[])),
        ("xrequest.block-status-payload", request(true, 32, Command::BlockStatus, 12, &filter)),
        ("simple.read", Message::SimpleReply { error: 0, cookie, data: data.clone() }),
        ("simple.enotsup", Message::SimpleReply { error: 95, cookie, data: Vec::new() }),
        ("chunk.offset-data", chunk(1, 1, ChunkBody::Data { offset: at, data })),
        ("chunk.offset-hole", chunk(1, 2, ChunkBody::Hole { offset: at, length: 8 })),
        ("chunk.block-status", chunk(0, 5, two)),
        ("chunk.error-eio", chunk(1, 0x8001, bad(None))),
        ("chunk.error-offset", chunk(1, 0x8002, bad(Some(at + 4)))),
        ("xchunk.none", wide(1, 0, ChunkBody::None)),
        ("xchunk.block-status-last", wide(1, 6, huge)),
    ] {
        assert_eq!(message(vector), expected, "{vector}");
    }
}
