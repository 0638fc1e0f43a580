//! Requests with compact headers.

use nbd_proto::{InvalidMessage, PeerMisbehaved};

use super::says::{
    BLOCK_STATUS, CACHE, COOKIE, DISC, FLUSH, PAYLOAD_LEN, READ, TRIM, WRITE, WRITE_ZEROES,
    compact, flagged, request,
};
use super::{Case, End, Form, SIZE, Word, talking};
use crate::hostile::bytes::join;

const PERM: u32 = 1;
const INVAL: u32 = 22;
const NOSPC: u32 = 28;
const OVERFLOW: u32 = 75;

pub(super) fn cases() -> Vec<Case> {
    let parts = [ranges(), unknown(), payload(), endings(), floods()];
    parts.into_iter().flatten().collect()
}

/// The request is refused, with simple replies and with structured ones.
fn refused(id: &'static str, says: &[u8], error: u32) -> Case {
    talking(id, Form::Structured, &[says], &[Word::Reply(COOKIE, error)], End::Lives)
}

fn simply_refused(id: &'static str, says: &[u8], error: u32) -> Case {
    talking(id, Form::Simple, &[says], &[Word::Reply(COOKIE, error)], End::Lives)
}

fn dies(id: &'static str, says: &[u8], error: impl Into<nbd_proto::Error>) -> Case {
    talking(id, Form::Simple, &[says], &[], End::Dies(error.into()))
}

fn ranges() -> Vec<Case> {
    let with = |payload: &[u8], header: Vec<u8>| join(&[&header, payload]);
    vec![
        refused("read-beyond-the-end", &compact(READ, SIZE - 1, 2), INVAL),
        simply_refused("read-beyond-the-end-simply", &compact(READ, SIZE - 1, 2), INVAL),
        refused("read-that-wraps", &compact(READ, u64::MAX, 2), INVAL),
        simply_refused("read-of-4-GiB", &compact(READ, 0, u32::MAX), OVERFLOW),
        refused("read-just-beyond-the-limit", &compact(READ, 0, (32 << 20) + 1), OVERFLOW),
        refused("write-beyond-the-end", &with(&[7; 4], compact(WRITE, SIZE, 4)), NOSPC),
        refused("write-that-wraps", &with(&[7; 4], compact(WRITE, u64::MAX, 4)), NOSPC),
        refused("zeroes-beyond-the-end", &compact(WRITE_ZEROES, SIZE, 4), NOSPC),
        refused("trim-beyond-the-end", &compact(TRIM, SIZE, 4), INVAL),
        refused("status-beyond-the-end", &compact(BLOCK_STATUS, SIZE, 4), INVAL),
        refused("write-where-none-may", &with(&[7; 4], compact(WRITE, 0, 4)), PERM).read_only(),
        // The rules of a read-only export come after what it offers.
        refused("trim-where-none-may", &compact(TRIM, 0, 4), INVAL).read_only(),
        refused("zeroes-where-none-may", &compact(WRITE_ZEROES, 0, 4), INVAL).read_only(),
    ]
}

fn unknown() -> Vec<Case> {
    let write = |flags| join(&[&flagged(flags, WRITE, 0, 4), &[7; 4]]);
    vec![
        refused("command-unknown", &compact(77, 0, 0), INVAL),
        simply_refused("command-unknown-simply", &compact(0xffff, 0, 0), INVAL),
        refused("command-not-offered", &compact(CACHE, 0, 8), INVAL),
        simply_refused("status-without-a-context", &compact(BLOCK_STATUS, 0, 8), INVAL),
        simply_refused("one-piece-without-pieces", &flagged(4, READ, 0, 8), INVAL),
        refused("every-flag", &flagged(0xffff, READ, 0, 8), INVAL),
        refused("flags-of-another-command", &write(2), INVAL),
        refused("flag-unknown", &write(0x8000), INVAL),
        // Without extended headers nothing follows a read.
        refused("payload-of-a-read", &flagged(PAYLOAD_LEN, READ, 0, 4), INVAL),
        refused("payload-flag", &write(PAYLOAD_LEN), INVAL),
        // Both fields are reserved, so nobody acts on them.
        refused("flush-of-a-range", &compact(FLUSH, u64::MAX, u32::MAX), 0),
    ]
}

fn payload() -> Vec<Case> {
    let cut = PeerMisbehaved::ClosedMidMessage;
    let parsed = compact(FLUSH, 0, 0).repeat(1000);
    let looks = join(&[&compact(WRITE, SIZE, parsed.len() as u32), &parsed]);
    let some = |length| join(&[&compact(WRITE, 0, length), &[7; 5000]]);
    vec![
        dies("request-by-half", &compact(READ, 0, 4)[..20], cut).closing(),
        dies("write-without-payload", &compact(WRITE, 0, 4096), cut).closing(),
        dies("write-with-half-its-payload", &some(10_000), cut).closing(),
        dies("refused-write-with-half-its-payload", &some(u32::MAX), cut).closing(),
        refused("payload-that-looks-like-requests", &looks, NOSPC),
        refused("write-of-nothing", &compact(WRITE, 0, 0), 0),
    ]
}

fn endings() -> Vec<Case> {
    let mut wrong = compact(FLUSH, 0, 0);
    wrong[0] ^= 1;
    let reply = join(&[&0x6744_6698u32.to_be_bytes(), &[0; 24]]);
    let extended = request(true, 0, FLUSH, COOKIE, 0, 0);
    let goodbye = compact(DISC, 0, 0);
    let leaves =
        |id, says: &[u8], hears: &[Word]| talking(id, Form::Simple, &[says], hears, End::Leaves);
    vec![
        dies("request-magic", &wrong, InvalidMessage::RequestMagic),
        dies("speaks-as-a-server", &reply, InvalidMessage::RequestMagic),
        dies("extended-request-unasked-for", &extended, InvalidMessage::RequestMagic),
        leaves("goodbye", &goodbye, &[]),
        leaves("goodbye-with-flags-and-a-range", &flagged(0xffff, DISC, 1, 1), &[]),
        leaves("goodbye-and-more", &join(&[&goodbye, &compact(FLUSH, 0, 0), &[0xff; 99]]), &[]),
        leaves(
            "goodbye-before-the-reply",
            &join(&[&compact(FLUSH, 0, 0), &goodbye]),
            &[Word::Reply(COOKIE, 0)],
        ),
        leaves("no-goodbye", &[], &[]).closing(),
    ]
}

fn floods() -> Vec<Case> {
    const MANY: usize = 10_000;
    let flood = |id, says: &[u8], error| {
        let answers = [Word::Reply(COOKIE, error)].repeat(MANY);
        talking(id, Form::Simple, &[&says.repeat(MANY)], &answers, End::Lives)
    };
    vec![
        // One cookie for all: it is the client who has to tell them apart.
        flood("requests-without-end", &compact(FLUSH, 0, 0), 0),
        flood("refused-requests-without-end", &compact(READ, SIZE, 8), INVAL),
    ]
}
