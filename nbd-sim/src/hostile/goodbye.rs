//! What comes behind the client's goodbye.

use nbd_proto::InvalidMessage;

use super::bytes::{DONE, chunk, kind, simple, xchunk};
use super::{Case, DATA, Form, Outcome, talking};

pub(super) fn cases() -> Vec<Case> {
    let case = |id, form, reply, outcome| {
        let case = talking(id, form, &[], reply, outcome);
        Case { farewell: true, ..case }.closing()
    };
    let well = || Outcome::Leaves(Vec::new());
    let magic = || Outcome::Dies(InvalidMessage::ReplyMagic.into(), Vec::new());
    vec![
        case("X66", Form::Simple, simple(5, 0xdead, &[]), well()),
        // As if the goodbye, whose cookie is 0, were a request like any other.
        case("X66-to-the-goodbye", Form::Simple, simple(0, 0, &[]), well()),
        case("X66-structured", Form::Structured, chunk(DONE, kind::NONE, 0xdead, &[]), well()),
        case("X66-extended", Form::Extended, xchunk(DONE, kind::NONE, 0, &[]), well()),
        case("X66-endless", Form::Simple, simple(5, 0xdead, &[]).repeat(100_000), well()),
        case("X66-nothing", Form::Simple, Vec::new(), well()),
        case("X66-garbage", Form::Simple, vec![DATA; 100], magic()),
    ]
}
