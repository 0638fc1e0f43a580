//! Greetings, the oldstyle protocol, and option replies in general.

use nbd_proto::{
    HeaderStyle, InvalidMessage, PeerMisbehaved, Protocol, RefusalCode, TransmissionFlags,
};

use super::bytes::{
    FLAGS, SIZE, ack, claim, export, granted, greeting, join, oldstyle, opt, rep, reply,
};
use super::{Case, Outcome, connecting, refuse};

/// What a server that knows no options sends after `NBD_OPT_EXPORT_NAME`.
fn export_name_reply(zeroes: usize) -> Vec<u8> {
    join(&[&SIZE.to_be_bytes(), &FLAGS.to_be_bytes(), &vec![0; zeroes]])
}

pub(super) fn cases() -> Vec<Case> {
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec();
    vec![
        connecting("H01", vec![vec![]], refuse(PeerMisbehaved::Closed)).closing(),
        connecting(
            "H04",
            vec![b"NBDMAGICIHAVEOPS\0\x03".to_vec()],
            refuse(InvalidMessage::GreetingMagic),
        ),
        connecting("H05", vec![http], refuse(InvalidMessage::NotNbd)),
        connecting("H06", vec![greeting(3), granted()], stands()),
        connecting(
            "H09",
            vec![greeting(0), export_name_reply(124)],
            Outcome::Connects(|facts| {
                facts.protocol == Protocol::Newstyle && facts.headers == HeaderStyle::Simple
            }),
        )
        .with(|config| config.structured_replies(true).meta_context("base:allocation")),
        connecting("H10", vec![greeting(2), export_name_reply(0)], stands()),
        connecting("H11", vec![], Outcome::Waits),
        connecting("H12-flags-unknown", vec![greeting(0xffff), granted()], stands()),
        connecting(
            "H13",
            vec![oldstyle(0x0d, &[0; 124])],
            Outcome::Connects(|facts| facts.protocol == Protocol::Oldstyle),
        ),
        connecting(
            "H14",
            vec![oldstyle(0x0003_000d, &[0; 124])],
            refuse(InvalidMessage::OldstyleFlags),
        ),
        connecting("H15", vec![oldstyle(0, &[0; 124])], refuse(PeerMisbehaved::NoFlags)),
        connecting("H17", vec![oldstyle(1, &[0; 100])], refuse(PeerMisbehaved::ClosedMidMessage))
            .closing(),
        connecting("H18", vec![oldstyle(1, &[0xff; 124])], stands()),
    ]
}

fn stands() -> Outcome {
    Outcome::Connects(|facts| facts.export.as_ref().is_some_and(|export| export.size == SIZE))
}

pub(super) fn option_cases() -> Vec<Case> {
    let structured = |id, burst, outcome| {
        connecting(id, vec![greeting(3), burst], outcome)
            .with(|config| config.structured_replies(true))
    };
    let go = |id, burst, outcome| connecting(id, vec![greeting(3), burst], outcome);
    let simple = || Outcome::Connects(|facts| facts.headers == HeaderStyle::Simple);
    let then_go = |id, burst: Vec<u8>| {
        let mut case = structured(id, burst, simple());
        case.bursts.push(granted());
        case
    };
    let mut wrong_magic = ack(opt::GO);
    wrong_magic[7] ^= 1;
    let terminal = b"\xff\0\x1b[2J";
    vec![
        go("O01", wrong_magic, refuse(InvalidMessage::OptionReplyMagic)),
        go("O02", ack(opt::LIST), refuse(PeerMisbehaved::WrongOption)),
        structured(
            "O05",
            reply(opt::STRUCTURED_REPLY, rep::ACK, &[0; 4]),
            refuse(PeerMisbehaved::AckWithData),
        ),
        then_go("O06", reply(opt::STRUCTURED_REPLY, rep::ERR_UNSUP, &[])),
        then_go("O07", reply(opt::STRUCTURED_REPLY, rep::ERR_INVALID, &[b'x'; 4096])),
        structured(
            "O08-text-of-4097",
            reply(opt::STRUCTURED_REPLY, rep::ERR_INVALID, &[b'x'; 4097]),
            refuse(PeerMisbehaved::TooLong),
        ),
        structured(
            "O09",
            claim(opt::STRUCTURED_REPLY, rep::ERR_UNSUP, 64 << 20, b"x"),
            refuse(PeerMisbehaved::TooLong),
        ),
        structured(
            "O10",
            claim(opt::STRUCTURED_REPLY, rep::ERR_UNSUP, u32::MAX, b"x"),
            refuse(PeerMisbehaved::TooLong),
        ),
        go(
            "O11",
            reply(opt::GO, rep::ERR_POLICY, terminal),
            Outcome::RefusedWith(RefusalCode::Policy),
        ),
        then_go("O12", reply(opt::STRUCTURED_REPLY, 0x8000_7777, &[])),
        structured(
            "O53",
            join(&[&ack(opt::STRUCTURED_REPLY), &ack(opt::STRUCTURED_REPLY)]),
            refuse(PeerMisbehaved::WrongOption),
        ),
        go(
            "O54-unknown-reply-type",
            reply(opt::GO, 77, &[]),
            refuse(PeerMisbehaved::WrongReplyType),
        ),
        go("O55", export(SIZE, FLAGS)[..25].to_vec(), refuse(PeerMisbehaved::ClosedMidMessage))
            .closing(),
        go(
            "O56-flags-of-every-kind",
            join(&[&export(SIZE, 0xffff), &ack(opt::GO)]),
            Outcome::Connects(|facts| {
                facts.export.as_ref().is_some_and(|export| {
                    export.flags.contains(TransmissionFlags::READ_ONLY)
                        && !export.flags.contains(TransmissionFlags::SEND_DF)
                })
            }),
        ),
    ]
}
