//! Requests with extended headers.

use nbd_proto::{InvalidMessage, PeerMisbehaved};

use super::says::{
    BLOCK_STATUS, COOKIE, FLUSH, PAYLOAD_LEN, READ, TRIM, WRITE, WRITE_ZEROES, compact, request,
};
use super::{Case, End, Form, SIZE, Word, talking};
use crate::hostile::bytes::join;

const INVAL: u32 = 22;
const NOSPC: u32 = 28;
const OVERFLOW: u32 = 75;

fn header(flags: u16, kind: u16, offset: u64, length: u64) -> Vec<u8> {
    request(true, flags, kind, COOKIE, offset, length)
}

/// With as much payload as it says.
fn loaded(kind: u16, payload: &[u8]) -> Vec<u8> {
    join(&[&header(PAYLOAD_LEN, kind, 0, payload.len() as u64), payload])
}

/// A block status of so many bytes and of these contexts.
fn filter(effect: u64, contexts: &[u32]) -> Vec<u8> {
    let ids: Vec<u8> = contexts.iter().flat_map(|id| id.to_be_bytes()).collect();
    loaded(BLOCK_STATUS, &join(&[&effect.to_be_bytes(), &ids]))
}

fn answered(id: &'static str, says: &[u8], error: u32) -> Case {
    talking(id, Form::Extended, &[says], &[Word::Reply(COOKIE, error)], End::Lives)
}

fn dies(id: &'static str, says: &[u8], error: impl Into<nbd_proto::Error>) -> Case {
    talking(id, Form::Extended, &[says], &[], End::Dies(error.into()))
}

pub(super) fn cases() -> Vec<Case> {
    let magic = InvalidMessage::RequestMagic;
    let cut = PeerMisbehaved::ClosedMidMessage;
    let many: Vec<u32> = (0..300).collect();
    let takes_none = [READ, FLUSH, TRIM, WRITE_ZEROES, 77];
    let payloads: Vec<u8> =
        takes_none.iter().flat_map(|kind| loaded(*kind, &[0xa5; 512])).collect();
    vec![
        dies(
            "compact-request-with-extended-headers",
            &join(&[&compact(READ, 0, 4), &[0; 4]]),
            magic,
        ),
        dies("extended-request-by-half", &header(0, READ, 0, 4)[..30], cut).closing(),
        dies(
            "write-of-2-to-the-32-bytes",
            &header(PAYLOAD_LEN, WRITE, 0, 1 << 32),
            PeerMisbehaved::TooLong,
        ),
        dies(
            "payload-of-2-to-the-64-bytes",
            &header(PAYLOAD_LEN, BLOCK_STATUS, 0, u64::MAX),
            PeerMisbehaved::TooLong,
        ),
        answered("read-of-all", &header(0, READ, 0, SIZE), OVERFLOW),
        answered("read-of-2-to-the-64-bytes", &header(0, READ, 0, u64::MAX), INVAL),
        answered("read-that-wraps-once", &header(0, READ, u64::MAX, u64::MAX), INVAL),
        answered("zeroes-of-2-to-the-64-bytes", &header(0, WRITE_ZEROES, 1, u64::MAX), NOSPC),
        answered("write-without-the-flag", &join(&[&header(0, WRITE, 0, 4), &[7; 4]]), 0),
        talking(
            "payload-of-commands-that-take-none",
            Form::Extended,
            &[&payloads],
            &takes_none.map(|_| Word::Reply(COOKIE, INVAL)),
            End::Lives,
        ),
        answered("filter-without-contexts", &filter(512, &[]), INVAL),
        answered("filter-with-an-unknown-context", &filter(512, &[1, 9]), INVAL),
        answered("filter-with-one-context-twice", &filter(512, &[1, 1]), INVAL),
        answered("filter-with-300-contexts", &filter(512, &many), INVAL),
        answered("filter-beyond-the-end", &filter(SIZE + 1, &[1]), INVAL),
        answered("filter-of-11-bytes", &loaded(BLOCK_STATUS, &[0; 11]), INVAL),
    ]
}
