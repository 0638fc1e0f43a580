//! Block status.

use nbd_proto::{Command, CommandFlags, Errno, InvalidMessage, PeerMisbehaved, ReplyFault};

use super::bytes::{DONE, MORE, chunk, cookie, error, join, kind, simple, status, status_ext};
use super::{Case, Form, Outcome, dies, fails, spoilt, succeeds, talking};

const ID: u64 = cookie(0);

fn map(id: &'static str, reply: Vec<u8>, outcome: Outcome) -> Case {
    let command = Command::block_status(4096, 8192);
    talking(id, Form::Structured, &[command], reply, outcome)
}

fn report(flags: u16, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    chunk(flags, kind::BLOCK_STATUS, ID, &status(context, extents))
}

pub(super) fn cases() -> Vec<Case> {
    let one = |id, reply, outcome| {
        let command = Command::block_status(4096, 8192).with(CommandFlags::REQ_ONE);
        talking(id, Form::Structured, &[command], reply, outcome)
    };
    let two = |id, reply, outcome| {
        let command = Command::block_status(4096, 8192);
        talking(id, Form::TwoContexts, &[command], reply, outcome)
    };
    let length = || dies(InvalidMessage::ChunkLength);
    let raw = |id, body: &[u8]| map(id, chunk(DONE, kind::BLOCK_STATUS, ID, body), length());
    let excess = || spoilt(ReplyFault::ExcessExtent);
    let strangers = (9..50_009).map(|id| report(u16::from(id == 50_008), id, &[(8192, 0)]));
    let strangers: Vec<_> = strangers.collect();
    let crowd = report(DONE, 1, &vec![(1, 0); 1 << 20]);
    let end = chunk(DONE, kind::NONE, ID, &[]);
    let wide = status_ext(1, 1, &[(8192, 0)]);
    vec![
        map("S00-sound", report(DONE, 1, &[(4096, 0), (4096, 3)]), succeeds()),
        raw("S01", &status(1, &[])),
        raw("S02", &[0; 7]),
        raw("S03", &[0; 15]),
        map("S05", report(DONE, 9, &[(8192, 0)]), spoilt(ReplyFault::UnknownContext)),
        map(
            "S06",
            join(&[&report(MORE, 1, &[(8192, 0)]), &report(DONE, 1, &[(8192, 0)])]),
            spoilt(ReplyFault::DuplicateContext),
        ),
        map("S07", report(DONE, 1, &[(0, 0), (8192, 0)]), spoilt(ReplyFault::EmptyExtent)),
        map("S08-last-reaches-beyond", report(DONE, 1, &[(65536, 0)]), succeeds()),
        map("S09", report(DONE, 1, &[(u32::MAX, 0); 3]), excess()),
        map("S10", report(DONE, 1, &[(8192, 0xffff_fffc)]), succeeds()),
        one("S11", report(DONE, 1, &[(4096, 0), (4096, 0)]), excess()),
        one("S12", report(DONE, 1, &[(8193, 0)]), excess()),
        map("S14", report(DONE, 1, &[(1, 0)]), succeeds()),
        map("S15", report(DONE, 1, &[(8192, 0), (4096, 0)]), excess()),
        map("S16", end, spoilt(ReplyFault::MissingContext)),
        map("S17", simple(0, ID, &[]), spoilt(ReplyFault::SimpleReply)),
        map("S18-simple-error", simple(5, ID, &[]), fails(Errno::Io)),
        map(
            "S19",
            join(&[&report(MORE, 1, &[(8192, 0)]), &chunk(DONE, kind::ERROR, ID, &error(5, b""))]),
            fails(Errno::Io),
        ),
        map(
            "S20",
            chunk(DONE, kind::BLOCK_STATUS_EXT, ID, &wide),
            dies(PeerMisbehaved::UnexpectedChunkType),
        ),
        two("S21", report(DONE, 1, &[(8192, 0)]), spoilt(ReplyFault::MissingContext)),
        map("S05-endless", strangers.concat(), spoilt(ReplyFault::UnknownContext)),
        map("S09-a-million", crowd, excess()),
        two(
            "S22-both",
            join(&[&report(MORE, 7, &[(8192, 0)]), &report(DONE, 1, &[(8192, 0)])]),
            succeeds(),
        ),
    ]
}
