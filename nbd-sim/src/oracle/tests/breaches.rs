//! Every mistake of a client that a server can answer with an error.

use super::super::{Breach, Command};
use super::{CHUNKS, EXTENDED, FIXED, SIMPLE, STRUCTURED, breaching, play};

/// A compact request from its flags on.
macro_rules! request {
    ($flags_and_kind:literal, $rest:literal) => {
        concat!("C: 25609513 ", $flags_and_kind, " 1122334455667788 ", $rest)
    };
}

/// An extended request from its flags on.
macro_rules! wide {
    ($flags_and_kind:literal, $rest:literal) => {
        concat!("C: 21e41c71 ", $flags_and_kind, " 1122334455667788 ", $rest)
    };
}

#[test]
fn option_data() {
    for (option, rest) in [
        (3, "00000003 00000001 00"),
        (5, "00000005 00000001 00"),
        (8, "00000008 00000001 00"),
        (11, "0000000b 00000001 00"),
        // Name longer than the data, a request too few, a byte too many, one asked twice.
        (6, "00000006 00000006 00000001 0000"),
        (7, "00000007 00000008 00000000 0002 0000"),
        (7, "00000007 00000007 00000000 0000 00"),
        (7, "00000007 0000000a 00000000 0002 0003 0003"),
        // A query too few, a byte too many, no namespace, an empty one, a blank in it.
        (9, "00000009 00000008 00000000 00000001"),
        (9, "00000009 00000009 00000000 00000000 00"),
        (9, "00000009 0000000e 00000000 00000001 00000002 7879"),
        (9, "00000009 0000000e 00000000 00000001 00000002 3a79"),
        (9, "00000009 0000000f 00000000 00000001 00000003 203a79"),
    ] {
        let line = format!("C: 49484156454f5054 {rest}");
        breaching(FIXED, &[&line], &[Breach::OptionData(option)]);
    }
    breaching(FIXED, &["C option.set-meta-context"], &[Breach::ContextsTooEarly]);
    breaching(CHUNKS, &["C option.set-meta-context"], &[]);
}

#[test]
fn command_flags() {
    for (line, stray) in [
        (request!("0002 0000", "0000000000010000 00000008"), 2),
        (request!("0020 0000", "0000000000010000 00000008"), 0x20),
        (request!("8000 0004", "0000000000010000 00000008"), 0x8000),
        (request!("0008 0006", "0000000000010000 00000008"), 8),
        (request!("0014 0007", "0000000000010000 00000008"), 0x14),
    ] {
        breaching(STRUCTURED, &[line], &[Breach::CommandFlags(stray)]);
    }
    breaching(SIMPLE, &["C request.read-df"], &[Breach::CommandFlags(4)]);
    let payload = wide!("0020 0004", "0000000000010000 0000000000000001 00");
    breaching(EXTENDED, &[payload], &[Breach::CommandFlags(0x20)]);
    // An export that offers nothing.
    let bare = [FIXED, &["C option.go", "S reply.info-export", "S reply.ack-go"]].concat();
    breaching(&bare, &["C request.write"], &[Breach::CommandFlags(1)]);
    let zeroes = request!("0010 0006", "0000000000010000 00000008");
    let offered = Breach::NotOffered(Command::WriteZeroes);
    breaching(&bare, &[zeroes], &[Breach::CommandFlags(16), offered]);
    breaching(&bare, &["C request.flush"], &[Breach::NotOffered(Command::Flush)]);
    let trim = request!("0000 0004", "0000000000010000 00000008");
    breaching(&bare, &[trim], &[Breach::NotOffered(Command::Trim)]);
    breaching(&bare, &["C request.cache"], &[]);
}

#[test]
fn commands() {
    let unknown = request!("0000 0063", "0000000000010000 00000008");
    breaching(SIMPLE, &[unknown], &[Breach::UnknownCommand(99)]);
    breaching(SIMPLE, &["C request.block-status"], &[Breach::NoContext]);
    let flush = request!("0000 0003", "0000000000010000 00000000");
    breaching(SIMPLE, &[flush], &[Breach::Reserved(Command::Flush)]);
    let disc = request!("0000 0002", "0000000000000000 00000001");
    breaching(SIMPLE, &[disc], &[Breach::Reserved(Command::Disconnect)]);
}

#[test]
fn ranges() {
    for line in [
        request!("0000 0000", "0000010000000000 00000001"),
        request!("0000 0000", "000000ffffffffff 00000002"),
        request!("0000 0000", "ffffffffffffffff ffffffff"),
    ] {
        breaching(SIMPLE, &[line], &[Breach::BeyondEnd]);
    }
    breaching(SIMPLE, &[request!("0000 0000", "000000ffffffffff 00000001")], &[]);
    let zeroes = wide!("0000 0006", "0000000000000001 ffffffffffffffff");
    breaching(EXTENDED, &[zeroes], &[Breach::BeyondEnd]);
}

#[test]
fn size_constraints() {
    let sizes = "S: 0003e889045565a9 00000007 00000003 0000000e 0003 00000200 00000200 00000400";
    let start = [FIXED, &["C option.go", sizes, "S reply.info-export", "S reply.ack-go"]].concat();
    for line in [
        request!("0000 0000", "0000000000000100 00000200"),
        request!("0000 0000", "0000000000000200 00000201"),
    ] {
        breaching(&start, &[line], &[Breach::Unaligned]);
    }
    let read = request!("0000 0000", "0000000000000200 00000600");
    breaching(&start, &[read], &[Breach::TooLong]);
    let write = request!("0000 0001", "0000000000000200 00000600 00*1536");
    breaching(&start, &[write], &[Breach::TooLong]);
    let longest = request!("0000 0000", "0000000000000200 00000400");
    breaching(&start, &[longest], &[]);
    let cache = request!("0000 0005", "0000000000000200 00000600");
    breaching(&start, &[cache], &[]);
}

#[test]
fn extended_payloads() {
    let flagless = wide!("0000 0001", "0000000000010000 0000000000000004 deadbeef");
    breaching(EXTENDED, &[flagless], &[Breach::NoPayloadFlag]);
    let empty = wide!("0020 0001", "0000000000010000 0000000000000000");
    breaching(EXTENDED, &[empty], &[Breach::EmptyPayload]);
    for ids in ["00000002", "00000007 00000007", "0000"] {
        let bytes = ids.replace(' ', "").len() / 2 + 8;
        let line = format!(
            "C: 21e41c71 0020 0007 1122334455667788 0000000000010000 {bytes:016x} 0000000000001000 {ids}"
        );
        breaching(EXTENDED, &[&line], &[Breach::StatusPayload]);
    }
    let oracle = play(&[EXTENDED, &["C xrequest.block-status-payload"]].concat()).unwrap();
    assert_eq!(oracle.summary().requests[0].effect, 1 << 33);
}
