//! Every fault of the transmission phase.

use super::super::{Command, Fault};
use super::{EXTENDED, FIXED, SIMPLE, STRUCTURED, faulty, play};

/// A structured reply chunk from its flags on, to the cookie of the vectors.
macro_rules! chunk {
    ($flags_and_kind:literal, $rest:literal) => {
        concat!("S: 668e33ef ", $flags_and_kind, " 1122334455667788 ", $rest)
    };
}

/// The same with an extended header, for offset 65536.
macro_rules! wide {
    ($flags_and_kind:literal, $rest:literal) => {
        concat!("S: 6e8a278c ", $flags_and_kind, " 1122334455667788 0000000000010000 ", $rest)
    };
}

const COOKIE: u64 = 0x1122_3344_5566_7788;

#[test]
fn magic_numbers() {
    faulty(SIMPLE, &["C xrequest.read"], Fault::Magic(0x21e4_1c71));
    faulty(EXTENDED, &["C request.read"], Fault::Magic(0x2560_9513));
    faulty(SIMPLE, &["C request.read", "S chunk.offset-data"], Fault::Magic(0x668e_33ef));
    faulty(STRUCTURED, &["C request.read", "S xchunk.offset-data"], Fault::Magic(0x6e8a_278c));
    faulty(EXTENDED, &["C xrequest.write", "S simple.done"], Fault::Magic(0x6744_6698));
    faulty(EXTENDED, &["C xrequest.read", "S chunk.offset-data"], Fault::Magic(0x668e_33ef));
}

#[test]
fn cookies_and_the_end() {
    faulty(SIMPLE, &["C request.read", "C request.write"], Fault::CookieTwice(COOKIE));
    faulty(SIMPLE, &["S simple.done"], Fault::CookieUnknown(COOKIE));
    faulty(STRUCTURED, &["S chunk.none"], Fault::CookieUnknown(COOKIE));
    faulty(
        SIMPLE,
        &["C request.write", "S simple.done", "S simple.done"],
        Fault::CookieUnknown(COOKIE),
    );
    faulty(SIMPLE, &["C request.disc", "S simple.done"], Fault::CookieUnknown(COOKIE));
    faulty(SIMPLE, &["C request.disc", "C request.read"], Fault::AfterEnd);
}

#[test]
fn replies_may_follow_a_disconnect() {
    let oracle = play(&[SIMPLE, &["C request.write", "C request.disc", "S simple.done"]].concat());
    assert!(oracle.unwrap().summary().ended);
}

#[test]
fn simple_replies() {
    for reply in ["S simple.read", "S simple.eio"] {
        let wrong = Fault::SimpleReply(Command::Read);
        faulty(STRUCTURED, &["C request.read", reply], wrong);
    }
    let wrong = Fault::SimpleReply(Command::BlockStatus);
    faulty(STRUCTURED, &["C request.block-status", "S simple.done"], wrong);
    let started = ["C request.block-status", "S chunk.block-status", "S simple.eio"];
    faulty(STRUCTURED, &started, Fault::SimpleAfterChunk);
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let info = "S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0d6f";
    let start = [FIXED, &["C option.go", info, "S reply.ack-go"]].concat();
    for (request, command) in [
        ("C request.write", Command::Write),
        ("C request.trim", Command::Trim),
        ("C request.write-zeroes", Command::WriteZeroes),
    ] {
        faulty(&start, &[request, "S simple.done"], Fault::ReadOnly(command));
        assert!(play(&[&start, &[request, "S simple.eperm"][..]].concat()).is_ok());
    }
}

#[test]
fn chunks_and_their_requests() {
    for (request, chunk, kind, command) in [
        ("C request.write", "S chunk.offset-data", 1, Command::Write),
        ("C request.block-status", "S chunk.offset-hole", 2, Command::BlockStatus),
        ("C request.read", chunk!("0001 0003", "00000000"), 3, Command::Read),
        ("C request.read", "S chunk.block-status", 5, Command::Read),
        ("C request.block-status", chunk!("0001 0006", "00000000"), 6, Command::BlockStatus),
        ("C request.flush", "S chunk.error-offset", 0x8002, Command::Flush),
    ] {
        faulty(STRUCTURED, &[request, chunk], Fault::ChunkKind { kind, command });
    }
    let wrong = Fault::ChunkKind { kind: 5, command: Command::BlockStatus };
    let chunk = wide!("0001 0005", "0000000000000000");
    faulty(EXTENDED, &["C xrequest.block-status", chunk], wrong);
}

#[test]
fn chunk_lengths() {
    for (request, chunk, kind, length) in [
        ("C request.write", chunk!("0001 0000", "00000001 00"), 0, 1),
        ("C request.read", chunk!("0001 0001", "00000008 0000000000010000"), 1, 8),
        ("C request.read", chunk!("0001 0002", "0000000b 0000000000010000 000000"), 2, 11),
        ("C request.read", chunk!("0001 0002", "0000000d 0000000000010000 00000008 00"), 2, 13),
        ("C request.block-status", chunk!("0001 0005", "00000004 00000001"), 5, 4),
        ("C request.block-status", chunk!("0001 0005", "00000008 00000001 00001000"), 5, 8),
        ("C request.read", chunk!("0001 8001", "00000005 00000005 00"), 0x8001, 5),
        ("C request.read", chunk!("0001 8001", "00000006 00000005 0001"), 0x8001, 6),
        (
            "C request.read",
            chunk!("0001 8002", "0000000d 00000005 0000 00000000000100"),
            0x8002,
            13,
        ),
        ("C request.read", chunk!("0001 8009", "00000006 00000005 0001"), 0x8009, 6),
    ] {
        faulty(STRUCTURED, &[request, chunk], Fault::ChunkLength { kind, length });
    }
    let short = wide!("0001 0006", "0000000000000008 00000001 00000000");
    let wrong = Fault::ChunkLength { kind: 6, length: 8 };
    faulty(EXTENDED, &["C xrequest.block-status", short], wrong);
}

#[test]
fn chunk_fields() {
    let unfinished = chunk!("0000 0000", "00000000");
    faulty(STRUCTURED, &["C request.write", unfinished], Fault::NoneNotDone);
    let elsewhere = "S: 6e8a278c 0001 0000 1122334455667788 0000000000010001 0000000000000000";
    let wrong = Fault::ReplyOffset { sent: 65536, found: 65537 };
    faulty(EXTENDED, &["C xrequest.write", elsewhere], wrong);
    let no_error = chunk!("0001 8001", "00000006 00000000 0000");
    faulty(STRUCTURED, &["C request.write", no_error], Fault::NoError);
    let not_text = chunk!("0001 8001", "00000007 00000005 0001 ff");
    faulty(STRUCTURED, &["C request.write", not_text], Fault::String);
    let long = chunk!("0001 8001", "00001007 00000005 1001 61*4097");
    faulty(STRUCTURED, &["C request.write", long], Fault::String);
}

#[test]
fn content_outside_the_request() {
    for (chunk, offset, length) in [
        (chunk!("0001 0001", "0000000a 000000000000ffff 0102"), 65535, 2),
        (chunk!("0001 0001", "0000000a 0000000000010007 0102"), 65543, 2),
        (chunk!("0001 0002", "0000000c ffffffffffffffff ffffffff"), u64::MAX, 0xffff_ffff),
        (chunk!("0000 8002", "0000000e 00000005 0000 0000000000010008"), 65544, 1),
    ] {
        faulty(STRUCTURED, &["C request.read", chunk], Fault::OutsideRequest { offset, length });
    }
}

#[test]
fn content_that_overlaps_leaves_gaps_or_is_split() {
    let part = "S chunk.offset-data-part";
    let late = chunk!("0001 0002", "0000000c 0000000000010003 00000005");
    faulty(STRUCTURED, &["C request.read", part, late], Fault::Overlap(65539));
    let after_error = ["C request.read", "S chunk.error-offset-part", part];
    faulty(STRUCTURED, &after_error, Fault::Overlap(65536));
    let split = ["C request.read-df", part, "S chunk.offset-hole-part"];
    faulty(STRUCTURED, &split, Fault::Fragmented);
    let gap = ["C request.read", part, "S chunk.none"];
    faulty(STRUCTURED, &gap, Fault::Gap { found: 4, wanted: 8 });
    let hole = chunk!("0001 0002", "0000000c 0000000000010000 00000000");
    faulty(STRUCTURED, &["C request.read", hole], Fault::Empty);
}

#[test]
fn pieces_may_come_in_any_order() {
    let last = chunk!("0000 0002", "0000000c 0000000000010004 00000004");
    let first = chunk!("0001 0001", "0000000c 0000000000010000 01020304");
    let oracle = play(&[STRUCTURED, &["C request.read", last, first]].concat()).unwrap();
    assert_eq!(oracle.summary().requests[0].bytes().unwrap(), [1, 2, 3, 4, 0, 0, 0, 0]);
}

#[test]
fn an_error_excuses_a_gap() {
    let script = ["C request.read", "S chunk.offset-data-part", "S chunk.error-eio"];
    let oracle = play(&[STRUCTURED, &script].concat()).unwrap();
    assert_eq!(oracle.summary().requests[0].error(), Some(5));
}

#[test]
fn statuses() {
    let ask = "C request.block-status";
    let strange = chunk!("0001 0005", "0000000c 00000002 00002000 00000000");
    faulty(STRUCTURED, &[ask, strange], Fault::StatusUnasked(2));
    let twice = [ask, "S chunk.block-status", "S chunk.block-status"];
    faulty(STRUCTURED, &twice, Fault::StatusTwice(1));
    faulty(STRUCTURED, &[ask, "S chunk.block-status-last"], Fault::StatusMissing(1));
    faulty(STRUCTURED, &[ask, "S chunk.none"], Fault::StatusMissing(1));
    let empty = chunk!("0001 0005", "0000000c 00000001 00000000 00000000");
    faulty(STRUCTURED, &[ask, empty], Fault::Empty);
    let beyond = chunk!(
        "0000 0005",
        "0000001c 00000001 00001000 00000000 00001000 00000001 00001000 00000000"
    );
    faulty(STRUCTURED, &[ask, beyond], Fault::ExtentBeyond);
    let one = "C request.block-status-one";
    faulty(STRUCTURED, &[one, "S chunk.block-status"], Fault::NotOne);
    let long = chunk!("0000 0005", "0000000c 00000001 00002001 00000000");
    faulty(STRUCTURED, &[one, long], Fault::NotOne);
    assert!(play(&[STRUCTURED, &[ask, long]].concat()).is_ok());
}

#[test]
fn a_status_of_no_bytes_may_tell_of_more() {
    let ask = "C: 25609513 0000 0007 1122334455667788 0000000000010000 00000000";
    assert!(play(&[STRUCTURED, &[ask, "S chunk.block-status-one"]].concat()).is_ok());
}

#[test]
fn a_status_may_have_all_of_its_32_bits() {
    let full =
        wide!("0000 0006", "0000000000000018 00000001 00000001 0000000200000000 00000000ffffffff");
    assert!(play(&[EXTENDED, &["C xrequest.block-status", full]].concat()).is_ok());
}

#[test]
fn extended_statuses() {
    let ask = "C xrequest.block-status";
    let count =
        wide!("0000 0006", "0000000000000018 00000001 00000002 0000000200000000 0000000000000000");
    faulty(EXTENDED, &[ask, count], Fault::DescriptorCount(2));
    let broad =
        wide!("0000 0006", "0000000000000018 00000001 00000001 0000000200000000 0000000100000000");
    faulty(EXTENDED, &[ask, broad], Fault::WideStatus(1 << 32));
    let empty =
        wide!("0000 0006", "0000000000000018 00000001 00000001 0000000000000000 0000000000000000");
    faulty(EXTENDED, &[ask, empty], Fault::Empty);
    // The request's payload asks for context 7 alone.
    let filtered = "C xrequest.block-status-payload";
    faulty(EXTENDED, &[filtered, "S xchunk.block-status"], Fault::StatusUnasked(1));
    assert!(play(&[EXTENDED, &[filtered, "S xchunk.block-status-last"]].concat()).is_ok());
}

#[test]
fn payloads_keep_to_the_advertised_maximum() {
    let sizes = "S: 0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00000200 00000200";
    let start = [
        super::CHUNKS,
        &["C option.go", sizes, "S reply.info-export-chunks", "S reply.ack-go"],
        &["C: 25609513 0000 0000 1122334455667788 0000000000010000 00000400"],
    ]
    .concat();
    let chunk = chunk!("0000 0001", "00000209 0000000000010000 00*513");
    faulty(&start, &[chunk], Fault::TooLong(513));
    let chunk = chunk!("0000 0001", "00000208 0000000000010000 00*512");
    assert!(play(&[&start, &[chunk][..]].concat()).is_ok());
}

#[test]
fn no_length_overflows() {
    let huge = "S: 6e8a278c 0001 0001 1122334455667788 0000000000010000 ffffffffffffffff 00";
    let error = play(&[EXTENDED, &["C xrequest.read", huge]].concat()).unwrap_err();
    assert_eq!(error.fault, Fault::Truncated(33));
    let long = wide!(
        "0000 0006",
        "0000000000000028 00000007 00000002 ffffffffffffffff 0000000000000000 ffffffffffffffff 0000000000000000"
    );
    faulty(EXTENDED, &["C xrequest.block-status", long], Fault::ExtentBeyond);
}
