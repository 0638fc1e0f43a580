//! Choosing the export.

use nbd_proto::{
    Command, InvalidMessage, Limits, Negotiated, PeerMisbehaved, RefusalCode, TransmissionFlags,
};

use super::bytes::{
    FLAGS, SIZE, ack, block_size, claim, cookie, export, granted, greeting, info, join, opt, rep,
    reply, simple,
};
use super::{Case, LOST, Outcome, connecting, refuse};

fn go(id: &'static str, parts: &[Vec<u8>], outcome: Outcome) -> Case {
    connecting(id, vec![greeting(3), parts.concat()], outcome)
}

/// The block sizes are ignored as a whole: nothing is divided by them.
fn without_sizes(facts: &Negotiated) -> bool {
    facts
        .export
        .as_ref()
        .is_some_and(|export| export.block_sizes.is_none() && export.minimum_block() == 1)
}

fn sized(id: &'static str, minimum: u32, preferred: u32, maximum: u32) -> Case {
    let parts = [export(SIZE, FLAGS), block_size(minimum, preferred, maximum), ack(opt::GO)];
    go(id, &parts, Outcome::Connects(without_sizes))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = facts();
    cases.extend(sizes());
    cases.extend(ends());
    cases
}

/// `NBD_INFO_EXPORT` and its neighbours.
fn facts() -> Vec<Case> {
    let odd_export = |length: usize| info(0, &[0xff; 13][..length - 2]);
    let with = |size, flags| [export(size, flags), ack(opt::GO)];
    let endless = || refuse(PeerMisbehaved::TooManyReplies);
    let too_long = || refuse(PeerMisbehaved::TooLong);
    vec![
        go("O13", &[ack(opt::GO)], refuse(PeerMisbehaved::NoExportInfo)),
        go("O14", &[odd_export(11)], refuse(InvalidMessage::Truncated)),
        go("O15", &[odd_export(13)], refuse(InvalidMessage::TrailingBytes)),
        go("O17", &with(SIZE, 0), refuse(PeerMisbehaved::NoFlags)),
        // Without HAS_FLAGS the other bits are believed all the same.
        go(
            "O18",
            &with(SIZE, 0x0c),
            Outcome::Connects(|facts| {
                facts
                    .export
                    .as_ref()
                    .is_some_and(|export| export.flags.contains(TransmissionFlags::SEND_FLUSH))
            }),
        ),
        go(
            "O19",
            &with(u64::MAX, FLAGS),
            Outcome::Connects(|facts| facts.export.as_ref().is_some_and(|e| e.size == u64::MAX)),
        ),
        go(
            "O20",
            &with(1 << 63, FLAGS),
            Outcome::Connects(|facts| facts.export.as_ref().is_some_and(|e| e.size == 1 << 63)),
        ),
        go(
            "O21",
            &with(SIZE, 0xffff),
            Outcome::Connects(|facts| {
                facts
                    .export
                    .as_ref()
                    .is_some_and(|export| export.flags.contains(TransmissionFlags::READ_ONLY))
            }),
        ),
        go(
            "O23",
            &with(SIZE, 0x0801),
            Outcome::Connects(|facts| {
                facts
                    .export
                    .as_ref()
                    .is_some_and(|export| !export.flags.contains(TransmissionFlags::SEND_FAST_ZERO))
            }),
        ),
        go("O33", &[info(42, &[7; 40]), granted()], anything()),
        go("O34", &[info(42, &[7; 1 << 20]), granted()], anything()),
        go("O35", &[reply(opt::GO, rep::INFO, &[0])], refuse(InvalidMessage::Truncated)),
        go("O36", &[reply(opt::GO, rep::INFO, &[])], refuse(InvalidMessage::Truncated)),
        go("O38", &[info(1, &[b'x'; 4097]), granted()], refuse(InvalidMessage::StringTooLong)),
        go("O39", &[export(SIZE, FLAGS).repeat(300)], endless())
            .with(|config| config.limits(Limits::default().max_option_replies(200))),
        go("O39-bytes", &[info(42, &[7; 9000]).repeat(9)], too_long())
            .with(|config| config.limits(Limits::default().max_option_bytes(50_000))),
        go("O39-default", &[export(SIZE, FLAGS).repeat(40_000)], endless()),
        go("O39-default-bytes", &[info(42, &[7; 9000]).repeat(1000)], too_long()),
        go(
            "O40",
            &[reply(opt::GO, rep::SERVER, &[0, 0, 0, 0])],
            refuse(PeerMisbehaved::WrongReplyType),
        ),
    ]
}

fn anything() -> Outcome {
    Outcome::Connects(|_| true)
}

/// `NBD_INFO_BLOCK_SIZE`.
fn sizes() -> Vec<Case> {
    vec![
        sized("O24", 0, 4096, 1 << 25),
        sized("O25", 3, 4096, 1 << 25),
        sized("O26", 128 << 10, 128 << 10, 1 << 25),
        sized("O27", 4096, 512, 1 << 25),
        sized("O28", 512, 4096, 1024),
        sized("O29", 512, 4096, 0),
        go(
            "O30",
            &[export(SIZE, FLAGS), block_size(1, 4096, u32::MAX), ack(opt::GO)],
            Outcome::Connects(|facts| !without_sizes(facts)),
        ),
        go("O32", &[info(3, &[0; 11])], refuse(InvalidMessage::Truncated)),
        go("O32-15-bytes", &[info(3, &[0; 13])], refuse(InvalidMessage::TrailingBytes)),
    ]
}

/// Refusals, and what follows the choice.
fn ends() -> Vec<Case> {
    let refused = |id, code, outcome| go(id, &[reply(opt::GO, code, b"no")], outcome);
    let fallback = |id, rest: Vec<u8>, outcome| {
        let unsup = reply(opt::GO, rep::ERR_UNSUP, &[]);
        connecting(id, vec![greeting(3), unsup, rest], outcome)
    };
    let header = join(&[&SIZE.to_be_bytes(), &FLAGS.to_be_bytes()]);
    let mut padded = fallback("O47", join(&[&header, &[0; 124]]), anything());
    padded.bursts[0] = greeting(1);
    let mut unpadded = fallback("O49", header.clone(), Outcome::Waits);
    unpadded.bursts[0] = greeting(1);
    let closed = nbd_proto::Refusal::new(
        nbd_proto::OptionCode::ExportName,
        RefusalCode::UnknownExport,
        "the server closed the connection",
    );
    let mut zeroes = go(
        "O51",
        &[granted(), vec![0; 124]],
        Outcome::Dies(InvalidMessage::ReplyMagic.into(), vec![LOST]),
    );
    zeroes.commands = vec![Command::read(0, 1 << 16)];
    zeroes.replies = vec![simple(0, cookie(0), &[])];
    vec![
        refused("O42", rep::ERR_UNKNOWN, Outcome::RefusedWith(RefusalCode::UnknownExport)),
        refused("O43", rep::ERR_POLICY, Outcome::RefusedWith(RefusalCode::Policy)),
        refused(
            "O44",
            rep::ERR_BLOCK_SIZE_REQD,
            Outcome::RefusedWith(RefusalCode::BlockSizeRequired),
        ),
        fallback("O46", header, anything()),
        padded,
        fallback("O48", Vec::new(), refuse(closed)).closing(),
        unpadded,
        zeroes,
        refused(
            "E13",
            rep::ERR_EXT_HEADER_REQD,
            Outcome::RefusedWith(RefusalCode::ExtendedHeadersRequired),
        ),
        go(
            "O57-claims-too-much",
            &[claim(opt::GO, rep::INFO, u32::MAX, &[0, 42])],
            refuse(PeerMisbehaved::TooLong),
        ),
    ]
}
