//! Greetings and options.

use nbd_proto::{InvalidMessage, PeerIncompatible, PeerMisbehaved};

use super::says::{
    ABORT, PEEK_EXPORT, compact, export_name, flags, go, option, option_claim, set_context,
};
use super::{Case, End, Word, haggling};
use crate::hostile::bytes::{join, opt, rep};

/// `NBD_REP_ERR_TOO_BIG`.
const TOO_BIG: u32 = 0x8000_0009;

fn dies(error: impl Into<nbd_proto::Error>) -> End {
    End::Dies(error.into())
}

const fn answer(option: u32, kind: u32) -> Word {
    Word::Option(option, kind)
}

pub(super) fn cases() -> Vec<Case> {
    let parts = [beginnings(), forms(), floods(), names(), contexts(), endings()];
    parts.into_iter().flatten().collect()
}

/// The first bytes.
fn beginnings() -> Vec<Case> {
    let unknown = || dies(PeerMisbehaved::UnknownClientFlags);
    let cut = || dies(PeerMisbehaved::ClosedMidMessage);
    let closed = || dies(PeerMisbehaved::Closed);
    vec![
        haggling("says-nothing", &[], &[], closed()).closing(),
        haggling("flags-and-no-more", &[&flags()], &[], closed()).closing(),
        haggling("flags-by-half", &[&[0, 0]], &[], cut()).closing(),
        haggling("flags-unknown", &[&[0x80, 0, 0, 3]], &[], unknown()),
        haggling("speaks-http", &[b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], &[], unknown()),
        haggling("speaks-tls", &[&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]], &[], unknown()),
        haggling(
            "knows-no-options-and-asks",
            &[&[0; 4], &option(opt::LIST, &[])],
            &[],
            dies(PeerIncompatible::ClientNotFixed),
        ),
        haggling(
            "knows-no-options-and-asks-with-1-MiB",
            &[&[0; 4], &option(opt::LIST, &vec![0; 1 << 20])],
            &[],
            dies(PeerIncompatible::ClientNotFixed),
        ),
    ]
}

/// Options that are none, or not whole.
fn forms() -> Vec<Case> {
    let cut = || dies(PeerMisbehaved::ClosedMidMessage);
    let claim = |length| option_claim(opt::GO, length, &[0; 100]);
    let wrong = join(&[b"IHAVEOPS", &[0; 8]]);
    let invalid = [opt::LIST, opt::STRUCTURED_REPLY, opt::EXTENDED_HEADERS];
    vec![
        haggling("option-magic", &[&flags(), &wrong], &[], dies(InvalidMessage::OptionMagic)),
        haggling("option-by-half", &[&flags(), b"IHAVEOPT\0\0"], &[], cut()).closing(),
        haggling("option-data-by-half", &[&flags(), &claim(200)], &[], cut()).closing(),
        haggling(
            "option-of-4-GiB",
            &[&flags(), &claim(u32::MAX)],
            &[],
            dies(PeerMisbehaved::TooLong),
        ),
        haggling(
            "option-beyond-the-limit",
            &[&flags(), &claim((8 << 20) + 1)],
            &[],
            dies(PeerMisbehaved::TooLong),
        ),
        haggling(
            "option-of-1-MiB",
            &[&flags(), &option(opt::GO, &vec![0; 1 << 20])],
            &[answer(opt::GO, TOO_BIG)],
            End::Haggles,
        ),
        haggling(
            "options-unknown",
            &[&flags(), &option(PEEK_EXPORT, &[]), &option(9999, b"data"), &option(0, &[])],
            &[PEEK_EXPORT, 9999, 0].map(|option| answer(option, rep::ERR_UNSUP)),
            End::Haggles,
        ),
        haggling(
            "data-where-none-belongs",
            &[&flags(), &invalid.map(|number| option(number, b"x")).concat()],
            &invalid.map(|option| answer(option, rep::ERR_INVALID)),
            End::Haggles,
        ),
        haggling(
            "1-MiB-where-none-belongs",
            &[&flags(), &invalid.map(|number| option(number, &vec![0; 1 << 20])).concat()],
            &invalid.map(|option| answer(option, rep::ERR_INVALID)),
            End::Haggles,
        ),
        haggling(
            "tls-where-there-is-none",
            &[&flags(), &option(opt::STARTTLS, &[])],
            &[answer(opt::STARTTLS, rep::ERR_POLICY)],
            End::Haggles,
        ),
        haggling(
            "structured-replies-behind-extended-headers",
            &[&flags(), &option(opt::EXTENDED_HEADERS, &[]), &option(opt::STRUCTURED_REPLY, &[])],
            &[
                answer(opt::EXTENDED_HEADERS, rep::ACK),
                answer(opt::STRUCTURED_REPLY, rep::ERR_EXT_HEADER_REQD),
            ],
            End::Haggles,
        ),
    ]
}

/// More of the same than anybody needs.
fn floods() -> Vec<Case> {
    const MANY: usize = 10_000;
    let listed = [answer(opt::LIST, rep::SERVER), answer(opt::LIST, rep::ACK)];
    vec![
        haggling(
            "options-without-end",
            &[&flags(), &option(9999, &[]).repeat(MANY)],
            &[answer(9999, rep::ERR_UNSUP)].repeat(MANY),
            End::Haggles,
        ),
        haggling(
            "lists-without-end",
            &[&flags(), &option(opt::LIST, &[]).repeat(1000)],
            &listed.repeat(1000),
            End::Haggles,
        ),
        haggling(
            "headers-agreed-on-again-and-again",
            &[&flags(), &option(opt::EXTENDED_HEADERS, &[]).repeat(MANY)],
            &[answer(opt::EXTENDED_HEADERS, rep::ACK)].repeat(MANY),
            End::Haggles,
        ),
    ]
}

/// Names of exports.
fn names() -> Vec<Case> {
    let bad = |id, name: &[u8]| {
        haggling(id, &[&flags(), &go(name)], &[answer(opt::GO, rep::ERR_INVALID)], End::Haggles)
    };
    let long = [b'x'; 4097];
    let overlong = option(opt::GO, &[0, 0, 1, 0, b'x', 0, 0]);
    let facts = option(opt::GO, &[0, 0, 0, 0, 0xff, 0xff, 0, 3]);
    vec![
        bad("name-of-4097-bytes", &long),
        bad("name-that-is-no-text", b"\xff\xfe"),
        bad("name-with-a-nul", b"a\0b"),
        haggling(
            "name-longer-than-its-option",
            &[&flags(), &overlong],
            &[answer(opt::GO, rep::ERR_INVALID)],
            End::Haggles,
        ),
        haggling(
            "65535-facts-in-2-bytes",
            &[&flags(), &facts],
            &[answer(opt::GO, rep::ERR_INVALID)],
            End::Haggles,
        ),
        haggling(
            "name-unknown",
            &[&flags(), &go(b"nobody")],
            &[answer(opt::GO, rep::ERR_UNKNOWN)],
            End::Haggles,
        ),
        // NBD_OPT_EXPORT_NAME has no way to say no but to hang up.
        haggling("old-name-unknown", &[&flags(), &export_name(b"nobody")], &[], End::Leaves),
        haggling(
            "old-name-of-4097-bytes",
            &[&flags(), &export_name(&long)],
            &[],
            dies(InvalidMessage::StringTooLong),
        ),
        haggling(
            "old-name-that-is-no-text",
            &[&flags(), &export_name(b"\xff")],
            &[],
            dies(InvalidMessage::NotText),
        ),
        haggling(
            "old-name-of-1-MiB",
            &[&flags(), &export_name(&vec![b'x'; 1 << 20])],
            &[],
            dies(InvalidMessage::StringTooLong),
        ),
    ]
}

/// Meta contexts.
fn contexts() -> Vec<Case> {
    let set = opt::SET_META_CONTEXT;
    let claims = |count: u32, rest: &[u8]| {
        let data = join(&[&[0; 4], &count.to_be_bytes(), rest]);
        join(&[&option(opt::STRUCTURED_REPLY, &[]), &option(set, &data)])
    };
    let ready = answer(opt::STRUCTURED_REPLY, rep::ACK);
    let queries = join(&[&3u32.to_be_bytes(), b"x:y"]).repeat(2000);
    let case = |id, says: &[u8], kind| {
        haggling(id, &[&flags(), says], &[ready, answer(set, kind)], End::Haggles)
    };
    vec![
        haggling(
            "contexts-too-early",
            &[&flags(), &set_context()],
            &[answer(set, rep::ERR_INVALID)],
            End::Haggles,
        ),
        case("4-G-queries-in-8-bytes", &claims(u32::MAX, &[0; 8]), rep::ERR_INVALID),
        case("query-longer-than-its-option", &claims(1, &[0xff; 4]), rep::ERR_INVALID),
        case("no-query-at-all", &claims(0, &[]), rep::ACK),
        case("queries-of-1-MiB", &claims(1, &vec![0; 1 << 20]), TOO_BIG),
        case("queries-that-mean-nothing", &claims(2000, &queries), rep::ACK),
        case(
            "query-of-4097-bytes",
            &claims(1, &join(&[&4097u32.to_be_bytes(), &[b'x'; 4097]])),
            rep::ERR_INVALID,
        ),
    ]
}

/// What is said when there is nothing more to say.
fn endings() -> Vec<Case> {
    let abort = option(ABORT, &[]);
    let aborted = answer(ABORT, rep::ACK);
    let granted = [answer(opt::GO, rep::INFO), answer(opt::GO, rep::ACK)];
    vec![
        haggling("abort", &[&flags(), &abort], &[aborted], End::Leaves),
        haggling("abort-with-data", &[&flags(), &option(ABORT, b"x")], &[aborted], End::Leaves),
        haggling(
            "abort-with-1-MiB",
            &[&flags(), &option(ABORT, &vec![0; 1 << 20])],
            &[aborted],
            End::Leaves,
        ),
        haggling(
            "abort-and-more",
            &[&flags(), &abort, &go(b""), &compact(0, 0, 512)],
            &[aborted],
            End::Leaves,
        ),
        haggling(
            "option-in-the-data-phase",
            &[&flags(), &go(b""), &join(&[&go(b""), &[0; 28]])],
            &granted,
            dies(InvalidMessage::RequestMagic),
        ),
    ]
}
