//! Structured replies in general: errors, empty chunks, unknown types.

use nbd_proto::{Command, Errno, InvalidMessage, PeerMisbehaved, ReplyFault};

use super::bytes::{DONE, MORE, chunk, cookie, data, error, error_claim, join, kind};
use super::{Case, Form, Outcome, dies, fails, spoilt, succeeds, talking};

const ID: u64 = cookie(0);

pub(super) fn cases() -> Vec<Case> {
    let write = |id, reply, outcome| {
        talking(id, Form::Structured, &[Command::write(0, 512)], reply, outcome)
    };
    let failing = |id, body: &[u8], outcome| write(id, chunk(DONE, kind::ERROR, ID, body), outcome);
    let at = |offset: u64| {
        let body = join(&[&error(5, b"here"), &offset.to_be_bytes()]);
        chunk(DONE, kind::ERROR_OFFSET, ID, &body)
    };
    let none = |flags, body: &[u8]| chunk(flags, kind::NONE, ID, body);
    vec![
        write("X14", chunk(DONE, 0x8077, ID, &error(28, b"what")), fails(Errno::NoSpc)),
        write(
            "X14-more-fields",
            chunk(DONE, 0x8077, ID, &join(&[&error(28, b"what"), &[7; 30]])),
            fails(Errno::NoSpc),
        ),
        failing("X15", &error(0, b""), spoilt(ReplyFault::ErrorZero)),
        failing("X16", &error_claim(5, 9, b"short"), dies(InvalidMessage::ErrorMessageLength)),
        failing("X17-too-short", &[0; 5], dies(InvalidMessage::ChunkLength)),
        failing("X18-text-of-4096", &error(5, &[b'x'; 4096]), fails(Errno::Io)),
        failing("X19", &error(5, &[b'x'; 8192]), fails(Errno::Io)),
        write("X20", at(100), fails(Errno::Io)),
        write("X21", at(1 << 40), fails(Errno::Io)),
        write(
            "X22-offset-missing",
            chunk(DONE, kind::ERROR_OFFSET, ID, &error(5, b"")),
            fails(Errno::Io),
        ),
        write("X36", none(MORE, &[]), dies(PeerMisbehaved::NoneNotDone)),
        write("X37", none(DONE, &[1]), dies(InvalidMessage::ChunkLength)),
        write(
            "X38",
            chunk(DONE, kind::OFFSET_DATA, ID, &data(0, 16)),
            dies(PeerMisbehaved::UnexpectedChunkType),
        ),
        write("X40", none(DONE, &[]), succeeds()),
        write("X41-unknown-type", chunk(DONE, 77, ID, &[]), dies(PeerMisbehaved::UnknownChunkType)),
        write(
            "X47-structured",
            chunk(DONE, kind::ERROR, ID, &error(108, b"")),
            Outcome::Leaves(vec![super::told(Errno::Shutdown)]),
        ),
        write(
            "X50-late-end",
            join(&[&chunk(MORE, kind::ERROR, ID, &error(5, b"")), &none(DONE, &[])]),
            fails(Errno::Io),
        ),
        write(
            "X53-structured",
            join(&[&chunk(DONE, kind::ERROR, 0, &error(5, b"who")), &none(DONE, &[])]),
            succeeds(),
        ),
    ]
}
