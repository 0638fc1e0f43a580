//! Simple replies.

use nbd_proto::{Command, Errno, InvalidMessage, PeerMisbehaved};

use super::bytes::{DONE, chunk, cookie, join, kind, simple};
use super::{Case, DATA, DONE_WELL, Form, LOST, Outcome, dies, fails, succeeds, talking, told};

pub(super) fn cases() -> Vec<Case> {
    let read = Command::read(0, 1024);
    let write = Command::write(0, 1024);
    let answer = |error| simple(error, cookie(0), &[]);
    let data = |cookie| simple(0, cookie, &[DATA; 1024]);
    let one = |id, reply, outcome| talking(id, Form::Simple, &[read], reply, outcome);
    let two = |id, reply, outcome| talking(id, Form::Simple, &[read, read], reply, outcome);
    let nobody = simple(5, 0xdead, &[]);
    let mut historic = data(cookie(0));
    historic[..4].copy_from_slice(&0x9674_4668u32.to_be_bytes());
    vec![
        one("X00-sound", data(cookie(0)), succeeds()),
        one("X01", vec![0x11; 16], dies(InvalidMessage::ReplyMagic)),
        one("X02", historic, dies(InvalidMessage::ReplyMagic)),
        one("X03", simple(0, 0xdead, &[]), dies(PeerMisbehaved::UnknownCookie)),
        one("X04", join(&[&simple(5, 0xdead, &[]), &data(cookie(0))]), succeeds()),
        two(
            "X07",
            join(&[&data(cookie(0)), &data(cookie(0)), &data(cookie(1))]),
            Outcome::Dies(PeerMisbehaved::UnknownCookie.into(), vec![DONE_WELL, LOST]),
        ),
        two(
            "X08",
            join(&[&answer(5), &answer(5), &data(cookie(1))]),
            Outcome::Lives(vec![told(Errno::Io), DONE_WELL]),
        ),
        one("X11", chunk(DONE, kind::NONE, cookie(0), &[]), dies(PeerMisbehaved::WrongReplyForm)),
        one("X12-unknown-error", answer(71), fails(Errno::Inval)),
        one("X13-wrong-generation", simple(0, 2 << 32, &[]), dies(PeerMisbehaved::UnknownCookie)),
        one("X47", answer(108), Outcome::Leaves(vec![told(Errno::Shutdown)])),
        one("X48", Vec::new(), dies(PeerMisbehaved::Closed)).closing(),
        one(
            "X48-in-data",
            simple(0, cookie(0), &[DATA; 1000]),
            dies(PeerMisbehaved::ClosedMidMessage),
        )
        .closing(),
        one("X52", Vec::new(), Outcome::Lives(vec![super::WAITING])),
        one("X53", join(&[&simple(5, 0, &[]), &data(cookie(0))]), succeeds()),
        one("X53-endless", join(&[&nobody.repeat(100_000), &data(cookie(0))]), succeeds()),
        two(
            "X56-out-of-order",
            join(&[&data(cookie(1)), &data(cookie(0))]),
            Outcome::Lives(vec![DONE_WELL, DONE_WELL]),
        ),
        talking("X40-simple", Form::Simple, &[write], answer(0), succeeds()),
        // A structured session may answer anything but a read so.
        talking("X40-mixed", Form::Structured, &[write], answer(0), succeeds()),
    ]
}
