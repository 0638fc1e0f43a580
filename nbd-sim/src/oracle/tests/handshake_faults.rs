//! Every fault of the handshake.

use super::super::{Fault, Oracle, Tls};
use super::{CHUNKS, EXTENDED_OPTIONS, FIXED, SIMPLE, faulty, play};
use crate::transcript::Side;

/// The start of an option reply.
macro_rules! reply {
    ($rest:literal) => {
        concat!("S: 0003e889045565a9 ", $rest)
    };
}

#[test]
fn magic_numbers() {
    faulty(&[], &["S: 4e42444d41474944"], Fault::Magic(0x4e42_444d_4147_4944));
    faulty(&[], &["S: 4e42444d41474943 0000420281861254"], Fault::Magic(0x4202_8186_1254));
    faulty(FIXED, &["C: 49484156454f5055"], Fault::Magic(0x4948_4156_454f_5055));
    faulty(FIXED, &["C option.list", "S: 0003e889045565aa"], Fault::Magic(0x0003_e889_0455_65aa));
}

#[test]
fn turns() {
    faulty(&[], &["C client-flags.both"], Fault::OutOfTurn);
    faulty(&["S greeting.both"], &["S: 00"], Fault::OutOfTurn);
    faulty(FIXED, &["S: 00"], Fault::OutOfTurn);
    faulty(FIXED, &["C option.list", "C option.list"], Fault::OutOfTurn);
    faulty(FIXED, &["C option.abort", "C: 00"], Fault::AfterEnd);
    faulty(FIXED, &["C option.abort", "S reply.ack-abort", "C: 00"], Fault::AfterEnd);
    faulty(
        FIXED,
        &["C option.abort", "S reply.ack-abort", "S reply.ack-abort"],
        Fault::Magic(0x0003_e889),
    );
}

#[test]
fn flags() {
    faulty(&[], &["S: 4e42444d41474943 49484156454f5054 0004"], Fault::HandshakeFlags(4));
    let oldstyle = "S: 4e42444d41474943 0000420281861253 0000000000100000 00010001 00*124";
    faulty(&[], &[oldstyle], Fault::HandshakeFlags(1));
    faulty(&["S greeting.both"], &["C: 00000004"], Fault::ClientFlags(4));
    faulty(&["S greeting.newstyle"], &["C client-flags.fixed"], Fault::ClientFlags(1));
    faulty(&["S greeting.fixed"], &["C client-flags.no-zeroes"], Fault::ClientFlags(2));
}

#[test]
fn transmission_flags() {
    let oldstyle = "S: 4e42444d41474943 0000420281861253 0000000000100000 00000002 00*124";
    faulty(&[], &[oldstyle], Fault::TransmissionFlags(2));
    let start = &[FIXED, &["C option.export-name"][..]].concat();
    faulty(start, &["S: 0000000000100000 0002"], Fault::TransmissionFlags(2));
    faulty(start, &["S: 0000000000100000 0801"], Fault::TransmissionFlags(0x801));
    faulty(start, &["S: 0000000000100000 0081"], Fault::TransmissionFlags(0x81));
    let info = reply!("00000007 00000003 0000000c 0000 0000000000100000 1001");
    faulty(CHUNKS, &["C option.go", info], Fault::TransmissionFlags(0x1001));
}

#[test]
fn padding_is_zero() {
    let oldstyle = "S: 4e42444d41474943 0000420281861253 0000000000100000 00000001 00*123 01";
    faulty(&[], &[oldstyle], Fault::Padding);
    let start = ["S greeting.both", "C client-flags.fixed", "C option.export-name"];
    faulty(&start, &["S: 0000000000100000 0001 01 00*123"], Fault::Padding);
}

#[test]
fn options_and_the_style() {
    let start = ["S greeting.no-zeroes", "C client-flags.no-zeroes"];
    faulty(&start, &["C option.go"], Fault::OptionNotFixed(7));
    faulty(EXTENDED_OPTIONS, &["C option.export-name"], Fault::ExportNameExtended);
}

#[test]
fn strings() {
    let name = |length: &str, bytes: &str| format!("C: 49484156454f5054 00000001 {length} {bytes}");
    faulty(FIXED, &[&name("00001001", "61*4097")], Fault::String);
    faulty(FIXED, &[&name("00000002", "6100")], Fault::String);
    faulty(FIXED, &[&name("00000001", "ff")], Fault::String);
    assert!(play(&[FIXED, &[&name("00001000", "61*4096")]].concat()).is_ok());
    let error = reply!("00000003 80000002 00000001 ff");
    faulty(FIXED, &["C option.list", error], Fault::String);
    let server = reply!("00000003 00000002 00000006 00000001 00 61");
    faulty(FIXED, &["C option.list", server], Fault::String);
}

#[test]
fn replies_and_their_options() {
    let wrong = Fault::ReplyOption { sent: 3, found: 8 };
    faulty(FIXED, &["C option.list", "S reply.ack-structured-reply"], wrong);
    for (option, line, number, kind) in [
        ("C option.go", reply!("00000007 00000002 00000004 00000000"), 7, 2),
        ("C option.list", reply!("00000003 00000003 00000003 0001 61"), 3, 3),
        ("C option.list", reply!("00000003 00000004 00000007 00000007 783a79"), 3, 4),
        ("C option.list", reply!("00000003 00000005 00000000"), 3, 5),
        ("C option.abort", reply!("00000002 80000001 00000000"), 2, 0x8000_0001),
        ("C option.go", "S reply.err-block-size-reqd", 7, 0x8000_0008),
    ] {
        faulty(FIXED, &[option, line], Fault::ReplyKind { option: number, kind });
    }
    let unsup = reply!("00000007 80000001 00000000");
    let wrong = Fault::ReplyKind { option: 7, kind: 0x8000_0001 };
    faulty(EXTENDED_OPTIONS, &["C option.go", unsup], wrong);
    let wrong = Fault::ReplyKind { option: 7, kind: 0x8000_000a };
    faulty(EXTENDED_OPTIONS, &["C option.go", "S reply.err-ext-header-reqd"], wrong);
}

#[test]
fn reply_lengths() {
    for (option, line, kind, length) in [
        ("C option.list", reply!("00000003 00000001 00000001 00"), 1, 1),
        ("C option.list", reply!("00000003 00000002 00000003 000000"), 2, 3),
        ("C option.list", reply!("00000003 00000002 00000005 00000002 61"), 2, 5),
        ("C option.go", reply!("00000007 00000003 00000001 00"), 3, 1),
        ("C option.go", reply!("00000007 00000003 0000000b 0000 000000000010000000"), 3, 11),
        ("C option.go", reply!("00000007 00000003 0000000d 0000 0000000000100000 0001 00"), 3, 13),
        ("C option.go", reply!("00000007 00000003 00000006 0003 00000001"), 3, 6),
        ("C option.list-meta-context", reply!("00000009 00000004 00000003 000000"), 4, 3),
    ] {
        faulty(FIXED, &[option, line], Fault::ReplyLength { kind, length });
    }
}

#[test]
fn information() {
    faulty(FIXED, &["C option.go", "S reply.ack-go"], Fault::NoExportInfo);
    faulty(FIXED, &["C option.go", "S reply.info-name", "S reply.ack-go"], Fault::NoExportInfo);
    for (line, minimum, preferred, maximum) in [
        (reply!("00000007 00000003 0000000e 0003 00000003 00001000 02000000"), 3, 4096, 1 << 25),
        (reply!("00000007 00000003 0000000e 0003 00000000 00001000 02000000"), 0, 4096, 1 << 25),
        (
            reply!("00000007 00000003 0000000e 0003 00020000 00020000 02000000"),
            1 << 17,
            1 << 17,
            1 << 25,
        ),
        (reply!("00000007 00000003 0000000e 0003 00000001 00000100 02000000"), 1, 256, 1 << 25),
        (reply!("00000007 00000003 0000000e 0003 00001000 00000800 02000000"), 4096, 2048, 1 << 25),
        (reply!("00000007 00000003 0000000e 0003 00000001 00001001 02000000"), 1, 4097, 1 << 25),
        (reply!("00000007 00000003 0000000e 0003 00000001 00001000 00000800"), 1, 4096, 2048),
    ] {
        let wrong = Fault::BlockSizes { minimum, preferred, maximum };
        faulty(FIXED, &["C option.go", line], wrong);
    }
}

#[test]
fn block_sizes_at_their_limits_are_taken() {
    let line = reply!("00000007 00000003 0000000e 0003 00010000 00010000 00010000");
    assert!(play(&[FIXED, &["C option.go", line]].concat()).is_ok());
}

#[test]
fn only_an_abort_ends_the_haggling() {
    let ended = |option| play(&[FIXED, &[option]].concat()).unwrap().summary().ended;
    assert!(ended("C option.abort"));
    assert!(!ended("C option.list"));
}

#[test]
fn metadata_contexts() {
    let nameless = reply!("00000009 00000004 00000006 00000000 7879");
    let wrong = Fault::ContextName("xy".into());
    faulty(FIXED, &["C option.list-meta-context", nameless], wrong);
    let twice = ["C option.set-meta-context", "S reply.meta-context", "S reply.meta-context"];
    faulty(CHUNKS, &twice, Fault::ContextTwice(1));
    let unasked = ["C option.set-meta-context-none", "S reply.meta-context"];
    faulty(CHUNKS, &unasked, Fault::ContextUnasked);
}

#[test]
fn contexts_hold_for_their_export_only() {
    let script = [
        CHUNKS,
        &["C option.set-meta-context", "S reply.meta-context", "S reply.ack-set-meta-context"],
        &["C option.go-default", "S reply.info-export", "S reply.ack-go"],
    ];
    assert_eq!(play(&script.concat()).unwrap().summary().contexts, []);
}

/// A query without a namespace selects nothing, and may be passed over.
#[test]
fn contexts_are_selected_beside_a_query_without_namespace() {
    let queries = "00000002 00000002 7879 00000003 783a79";
    let set = format!("C: 49484156454f5054 0000000a 0000001d 00000008 6578706f7274206e {queries}");
    let go = "C: 49484156454f5054 00000007 0000000e 00000008 6578706f7274206e 0000";
    let script = [
        CHUNKS,
        &[&set, "S reply.meta-context", "S reply.ack-set-meta-context"],
        &[go, "S reply.info-export", "S reply.ack-go"],
    ];
    assert_eq!(play(&script.concat()).unwrap().summary().contexts.len(), 1);
}

#[test]
fn a_failed_selection_leaves_no_contexts() {
    let script = [
        CHUNKS,
        &["C option.set-meta-context", "S reply.meta-context", "S reply.ack-set-meta-context"],
        &["C option.set-meta-context", "S reply.meta-context-second", "S reply.err-invalid"],
        &["C option.go", "S reply.info-export", "S reply.ack-go"],
    ];
    assert_eq!(play(&script.concat()).unwrap().summary().contexts, []);
}

#[test]
fn tls_forgets_what_was_negotiated() {
    let script = [CHUNKS, &["C option.starttls", "S reply.ack-starttls"]].concat();
    let oracle = play(&script).unwrap();
    assert_eq!(oracle.summary().tls, Tls::Started);
    assert!(!oracle.summary().structured);
    let info = "S reply.info-export-chunks";
    faulty(&script, &["C option.go", info], Fault::TransmissionFlags(0xded));
}

#[test]
fn an_oracle_stops_at_the_first_fault() {
    let mut oracle = Oracle::new();
    oracle.server_bytes(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
    let error = oracle.client_bytes(&[0, 0, 0, 4]).unwrap_err();
    assert_eq!((error.side, error.at, &error.fault), (Side::Client, 0, &Fault::ClientFlags(4)));
    assert_eq!(oracle.client_bytes(&[0, 0, 0, 3]), Err(error.clone()));
    assert_eq!(oracle.server_bytes(&[]), Err(error.clone()));
    assert_eq!(oracle.finish(), Err(error));
}

#[test]
fn a_message_cut_short_is_a_fault() {
    for (cut, left) in [("S: 4e42", 2), ("S: 4e42444d41474943 4948", 10)] {
        assert_eq!(play(&[cut]).unwrap_err().fault, Fault::Truncated(left));
    }
    let error = play(&[SIMPLE, &["C: 25609513"]].concat()).unwrap_err();
    assert_eq!((error.side, error.fault), (Side::Client, Fault::Truncated(4)));
}
