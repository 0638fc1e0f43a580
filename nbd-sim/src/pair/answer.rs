//! How the server application cuts, reorders and fails an answer.

use nbd_proto::{
    ApiMisuse, Command, CommandFlags, CommandType, ContextId, Errno, Extent, HeaderStyle,
    RequestId, Server,
};

use crate::disk::Disk;
use crate::rng::Rng;

/// One message of an answer.
#[derive(Debug, Clone)]
enum Piece {
    Done,
    Fail(Errno),
    FailAt(Errno, u64),
    Whole,
    Data { at: usize, length: usize },
    Hole { at: usize, length: usize },
    Extents(ContextId, Vec<Extent>),
    End,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Job {
    id: RequestId,
    /// Sent from the back.
    pieces: Vec<Piece>,
}

const REASON: &str = "the disk is made of chance";

impl Job {
    /// Success without data.
    pub(super) fn done(id: RequestId) -> Self {
        Self { id, pieces: vec![Piece::Done] }
    }

    /// An error, perhaps after a part of a read.
    pub(super) fn failing(id: RequestId, rng: &mut Rng, server: &Server, command: Command) -> Self {
        let errno = rng.pick(&[Errno::Io, Errno::NoMem, Errno::NoSpc, Errno::NotSup]);
        let mut pieces = vec![Piece::Fail(errno)];
        // A flipped bit may have emptied a request; no offset lies within that.
        let ranged = command.length > 0;
        if is_structured(server) && ranged && rng.one_in(2) {
            let at = command.offset + rng.below(command.length as usize) as u64;
            pieces = vec![Piece::FailAt(errno, at)];
            if rng.one_in(2) {
                // Errors that do not end the answer; the first one counts.
                pieces.insert(0, Piece::End);
            }
        }
        if is_structured(server) && ranged && command.kind == CommandType::Read && rng.one_in(2) {
            let length = rng.between(1, command.length as usize);
            pieces.push(Piece::Hole { at: 0, length });
        }
        Self { id, pieces }
    }

    /// The data of a read, whole or in pieces of any size in any order.
    pub(super) fn reading(
        id: RequestId,
        rng: &mut Rng,
        server: &Server,
        command: Command,
        data: &[u8],
    ) -> Self {
        if !is_structured(server) || rng.one_in(3) {
            return Self { id, pieces: vec![Piece::Whole] };
        }
        let most = if command.flags.contains(CommandFlags::DF) {
            usize::MAX
        } else {
            rng.pick(&[usize::MAX, 2000, 512, 100])
        };
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < data.len() {
            let left = data.len() - at;
            let length = if most == usize::MAX { left } else { rng.between(1, most.min(left)) };
            let zero = data[at..at + length].iter().all(|byte| *byte == 0);
            pieces.push(if zero && rng.one_in(2) {
                Piece::Hole { at, length }
            } else {
                Piece::Data { at, length }
            });
            at += length;
        }
        if rng.one_in(2) {
            rng.shuffle(&mut pieces);
        }
        if pieces.is_empty() || rng.one_in(2) {
            pieces.insert(0, Piece::End);
        }
        Self { id, pieces }
    }

    /// The extents of each context asked for, at least the first of them.
    pub(super) fn mapping(
        id: RequestId,
        rng: &mut Rng,
        server: &Server,
        command: Command,
        disk: &Disk,
    ) -> Self {
        let start = command.offset as usize;
        let end = start + command.length as usize;
        let allocation = server
            .negotiated()
            .contexts
            .iter()
            .find(|context| context.name == "base:allocation")
            .map(|context| context.id);
        let one = command.flags.contains(CommandFlags::REQ_ONE);
        let mut pieces: Vec<Piece> = Vec::new();
        for context in server.contexts(id) {
            let mut extents = if Some(context) == allocation {
                disk.extents(start..end)
            } else {
                stripes(start..end)
            };
            if rng.one_in(3) {
                extents.truncate(rng.between(1, extents.len()));
            } else if !one
                && Some(context) != allocation
                && let Some(last) = extents.last_mut()
            {
                // The last one may reach beyond the request, not beyond the disk.
                last.length += rng.below(disk.bytes().len() - end + 1) as u64;
            }
            pieces.push(Piece::Extents(context, extents));
        }
        rng.shuffle(&mut pieces);
        if rng.one_in(2) {
            pieces.insert(0, Piece::End);
        }
        Self { id, pieces }
    }

    /// Sends the next message; returns whether it was the last.
    pub(super) fn send_next(&mut self, server: &mut Server) -> Result<bool, ApiMisuse> {
        let id = self.id;
        let Some(piece) = self.pieces.pop() else {
            return Ok(true);
        };
        let last = self.pieces.is_empty();
        match piece {
            Piece::Done => server.reply(id, Ok(()))?,
            Piece::Fail(errno) => server.reply_error(id, errno, REASON)?,
            Piece::FailAt(errno, at) => server.send_error_at(id, errno, at, REASON, last)?,
            Piece::Whole => server.reply_data(id)?,
            Piece::Data { at, length } => server.send_data(id, at, length, last)?,
            Piece::Hole { at, length } => server.send_hole(id, at, length, last)?,
            Piece::Extents(context, extents) => {
                server.send_extents(id, context, &extents, last)?;
            }
            Piece::End => server.end_reply(id)?,
        }
        Ok(last)
    }
}

fn is_structured(server: &Server) -> bool {
    server.negotiated().headers != HeaderStyle::Simple
}

/// A context of the test kit's own: even and odd kilobytes.
fn stripes(range: std::ops::Range<usize>) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = (at + 1024 - at % 1024).min(range.end);
        extents.push(Extent { length: (end - at) as u64, status: (at / 1024 % 2) as u64 });
        at = end;
    }
    extents
}
