//! Structured replies to a read.

use nbd_proto::{Command, CommandFlags, Errno, InvalidMessage, PeerMisbehaved, ReplyFault};

use super::bytes::{DONE, MORE, chunk, chunk_claim, cookie, data, error, hole, join, kind, simple};
use super::{Case, DATA, DONE_WELL, Form, Outcome, dies, fails, spoilt, succeeds, talking};

const ID: u64 = cookie(0);

fn piece(flags: u16, at: u64, length: usize) -> Vec<u8> {
    chunk(flags, kind::OFFSET_DATA, ID, &data(at, length))
}

fn end() -> Vec<u8> {
    chunk(DONE, kind::NONE, ID, &[])
}

/// A read of 1024 bytes at 4096.
fn read(id: &'static str, parts: &[Vec<u8>], outcome: Outcome) -> Case {
    let read = Command::read(4096, 1024);
    talking(id, Form::Structured, &[read], parts.concat(), outcome)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = forms();
    cases.extend(coverage());
    cases
}

/// Chunks that cannot be.
fn forms() -> Vec<Case> {
    let outside = || dies(PeerMisbehaved::ChunkOutsideRequest);
    let length = || dies(InvalidMessage::ChunkLength);
    let gap = |flags, offset, length| chunk(flags, kind::OFFSET_HOLE, ID, &hole(offset, length));
    vec![
        read("X09", &[simple(0, ID, &[DATA; 1024])], spoilt(ReplyFault::SimpleReply)),
        read("X10", &[simple(5, ID, &[])], fails(Errno::Io)),
        read("X23", &[piece(DONE, 4096, 0)], length()),
        read("X24", &[chunk(DONE, kind::OFFSET_DATA, ID, &[0; 7])], length()),
        read("X25", &[piece(DONE, 4608, 1024)], outside()),
        read("X26", &[piece(DONE, 4095, 8)], outside()),
        read("X27", &[piece(DONE, u64::MAX - 3, 8)], outside()),
        read("X28", &[gap(DONE, 4096, 0)], length()),
        read("X29-hole-past-the-end", &[gap(DONE, 4096, 1025)], outside()),
        read("X30-hole-of-all", &[gap(DONE, 4096, 1024)], succeeds()),
        read("X31", &[chunk(DONE, kind::OFFSET_HOLE, ID, &[0; 11])], length()),
        read(
            "X35-claims-4-GiB",
            &[chunk_claim(DONE, kind::OFFSET_DATA, ID, u32::MAX, &[0; 8])],
            dies(PeerMisbehaved::TooLong),
        ),
        read(
            "X39",
            &[chunk(DONE, kind::BLOCK_STATUS, ID, &[0; 12])],
            dies(PeerMisbehaved::UnexpectedChunkType),
        ),
        read("X43", &[piece(MORE, 4096, 1024)], dies(PeerMisbehaved::Closed)).closing(),
        read(
            "X49",
            &[piece(DONE, 4096, 1024)[..500].to_vec()],
            dies(PeerMisbehaved::ClosedMidMessage),
        )
        .closing(),
        read("X54", &[piece(0xffff, 4096, 1024)], succeeds()),
    ]
}

/// Chunks that are sound one by one.
fn coverage() -> Vec<Case> {
    let df = |id, parts: &[Vec<u8>], outcome| {
        let read = Command::read(4096, 1024).with(CommandFlags::DF);
        talking(id, Form::Structured, &[read], parts.concat(), outcome)
    };
    let failed = |flags| chunk(flags, kind::ERROR, ID, &error(5, b"disk on fire"));
    let text = chunk(MORE, kind::ERROR, ID, &error(28, &[b'x'; 4096]));
    let scattered: Vec<_> = (0..20_000).map(|n| piece(MORE, 2 * n, 1)).collect();
    let bytes: Vec<Vec<u8>> = (0..1024).rev().map(|n| piece(MORE, 4096 + n, 1)).collect();
    let other = chunk(DONE, kind::NONE, cookie(7), &[]);
    let second = chunk(DONE, kind::OFFSET_DATA, cookie(1), &data(0, 512));
    let interleaved = talking(
        "X61-interleaved",
        Form::Structured,
        &[Command::read(4096, 1024), Command::read(0, 512)],
        join(&[&piece(MORE, 4096, 512), &second, &piece(DONE, 4608, 512)]),
        Outcome::Lives(vec![DONE_WELL, DONE_WELL]),
    );
    vec![
        read("X32", &[piece(MORE, 4096, 600), piece(DONE, 4608, 512)], spoilt(ReplyFault::Overlap)),
        read("X33", &[piece(MORE, 4096, 512), piece(DONE, 4096, 512)], spoilt(ReplyFault::Overlap)),
        read("X34-one-half", &[piece(DONE, 4096, 512)], spoilt(ReplyFault::Incomplete)),
        read("X34-nothing", &[end()], spoilt(ReplyFault::Incomplete)),
        df(
            "X44",
            &[piece(MORE, 4096, 512), piece(DONE, 4608, 512)],
            spoilt(ReplyFault::Fragmented),
        ),
        df("X45", &[chunk(DONE, kind::ERROR, ID, &error(75, b""))], fails(Errno::Overflow)),
        read("X55-anomaly-first", &[other, piece(DONE, 4096, 1024)], succeeds()),
        read("X56", &[piece(MORE, 4608, 512), piece(MORE, 4096, 512), end()], succeeds()),
        read("X57", &[bytes.concat(), end()], succeeds()),
        read("X58", &[piece(MORE, 4096, 1024), failed(DONE)], fails(Errno::Io)),
        read("X59", &[failed(MORE), piece(DONE, 4096, 1024)], fails(Errno::Io)),
        read(
            "X60-first-error-counts",
            &[failed(MORE), chunk(DONE, kind::ERROR, ID, &error(28, b"full"))],
            fails(Errno::Io),
        ),
        interleaved,
        read("X62-endless-errors", &[text.repeat(3000), failed(DONE)], fails(Errno::NoSpc)),
        talking(
            "X62-scattered",
            Form::Structured,
            &[Command::read(0, 1 << 16)],
            [scattered.concat(), end()].concat(),
            spoilt(ReplyFault::TooScattered),
        ),
    ]
}
