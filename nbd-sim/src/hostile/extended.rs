//! Extended headers.

use nbd_proto::{Command, Errno, InvalidMessage, PeerIncompatible, PeerMisbehaved, ReplyFault};

use super::bytes::{
    DONE, ack, chunk, cookie, data, error, greeting, kind, opt, rep, reply, simple, status,
    status_ext, xchunk, xchunk_claim,
};
use super::{Case, DATA, Form, connecting, dies, fails, refuse, spoilt, succeeds, talking};

const ID: u64 = cookie(0);

pub(super) fn cases() -> Vec<Case> {
    let read = |id, reply, outcome| {
        let command = Command::read(0, 1024);
        talking(id, Form::Extended, &[command], reply, outcome)
    };
    let map = |id, body: &[u8], outcome| {
        let command = Command::block_status(0, 8192);
        let reply = xchunk(DONE, kind::BLOCK_STATUS_EXT, ID, body);
        talking(id, Form::Extended, &[command], reply, outcome)
    };
    let wrong_form = || dies(PeerMisbehaved::WrongReplyForm);
    let body = data(0, 1024);
    let mut compact = map("E06", &[], dies(PeerMisbehaved::UnexpectedChunkType));
    compact.replies = vec![xchunk(DONE, kind::BLOCK_STATUS, ID, &status(1, &[(8192, 0)]))];
    let unsup = vec![greeting(3), ack(opt::EXTENDED_HEADERS), reply(opt::GO, rep::ERR_UNSUP, &[])];
    vec![
        read("E00-sound", xchunk(DONE, kind::OFFSET_DATA, ID, &body), succeeds()),
        read("E01", simple(0, ID, &[DATA; 1024]), wrong_form()),
        read("E02", chunk(DONE, kind::OFFSET_DATA, ID, &body), wrong_form()),
        read("E03-unknown-magic", vec![7; 32], dies(InvalidMessage::ReplyMagic)),
        read(
            "E04",
            xchunk_claim(DONE, kind::OFFSET_DATA, ID, 512, body.len() as u64, &body),
            spoilt(ReplyFault::WrongOffset),
        ),
        read(
            "E05",
            xchunk_claim(DONE, kind::OFFSET_DATA, ID, 0, 1 << 32, &[]),
            dies(PeerMisbehaved::TooLong),
        ),
        read(
            "E05-most",
            xchunk_claim(DONE, kind::ERROR, ID, 0, u64::MAX, &[]),
            dies(PeerMisbehaved::TooLong),
        ),
        compact,
        read("E07-error", xchunk(DONE, kind::ERROR, ID, &error(5, b"bad")), fails(Errno::Io)),
        map("E08", &status_ext(1, 0, &[]), dies(InvalidMessage::ChunkLength)),
        map("E08-count", &status_ext(1, 2, &[(8192, 0)]), dies(InvalidMessage::ExtentCount)),
        map("E09", &status_ext(1, 2, &[(0, 0), (8192, 0)]), spoilt(ReplyFault::EmptyExtent)),
        map(
            "E09-sum",
            &status_ext(1, 2, &[(4096, 0), (u64::MAX, 0)]),
            spoilt(ReplyFault::ExcessExtent),
        ),
        map("E10", &status_ext(1, 1, &[(8192, 1 << 40)]), succeeds()),
        connecting("E12", unsup, refuse(PeerIncompatible::NoGoWithExtendedHeaders))
            .with(|config| config.structured_replies(true).extended_headers(true)),
    ]
}
