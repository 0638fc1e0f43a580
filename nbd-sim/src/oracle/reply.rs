//! Replies: which request each belongs to, and what it does to that request.

use super::Oracle;
use super::error::Fault;
use super::message::{ChunkBody, Command, Extent, Message};
use super::numbers::{self, DONE, cmd_flag, flag};
use super::reader::{Reader, Stop};
use super::summary::{Exchange, Failure, Outcome, Piece};

/// A request in flight.
#[derive(Debug)]
pub(super) struct Progress {
    /// Its place in the summary.
    pub(super) index: usize,
    /// The contexts whose status it asks for.
    wanted: Vec<u32>,
    /// Whether any chunk has come.
    begun: bool,
    /// Content so far, in the order of the offsets.
    pieces: Vec<Piece>,
    status: Vec<(u32, Vec<Extent>)>,
    failures: Vec<Failure>,
}

impl Progress {
    pub(super) fn new(index: usize, wanted: Vec<u32>) -> Self {
        let (pieces, status, failures) = Default::default();
        Self { index, wanted, begun: false, pieces, status, failures }
    }
}

impl Oracle {
    /// Any server message of the transmission phase.
    pub(super) fn reply(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        let chunks = self.summary.structured || self.summary.extended;
        match reader.u32()? {
            numbers::SIMPLE_REPLY if !self.summary.extended => self.simple_reply(chunks, reader),
            numbers::STRUCTURED_REPLY if chunks && !self.summary.extended => {
                self.chunk(false, reader)
            }
            numbers::EXTENDED_REPLY if self.summary.extended => self.chunk(true, reader),
            other => Err(Fault::Magic(u64::from(other)).into()),
        }
    }

    /// "Simple reply message".
    fn simple_reply(&mut self, chunks: bool, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        let error = reader.u32()?;
        let cookie = reader.u64()?;
        let progress = self.in_flight.get(&cookie).ok_or(Fault::CookieUnknown(cookie))?;
        let exchange = &self.summary.requests[progress.index];
        let command = exchange.request.command;
        if progress.begun {
            return Err(Fault::SimpleAfterChunk.into());
        }
        let success = error == 0;
        match command {
            Command::Read if chunks => return Err(Fault::SimpleReply(command).into()),
            // A successful block status reply needs a chunk for each context.
            Command::BlockStatus if success => return Err(Fault::SimpleReply(command).into()),
            _ => {}
        }
        let carries = success && command == Command::Read;
        let length = if carries { exchange.request.length } else { 0 };
        let data = reader.bytes(length)?.to_vec();
        let outcome = match (success, command) {
            (true, Command::Read) if data.is_empty() => Outcome::Read(Vec::new()),
            (true, Command::Read) => {
                Outcome::Read(vec![Piece::Data(exchange.request.offset, data.clone())])
            }
            (true, _) => Outcome::Done,
            (false, _) => {
                Outcome::Failed(vec![Failure { error, message: String::new(), offset: None }])
            }
        };
        self.settle(cookie, outcome)?;
        Ok(Message::SimpleReply { error, cookie, data })
    }

    /// Takes a chunk's payload into account; the last chunk settles the request.
    pub(super) fn apply(&mut self, flags: u16, cookie: u64, body: &ChunkBody) -> Result<(), Fault> {
        let unknown = Fault::CookieUnknown(cookie);
        let Some(progress) = self.in_flight.get_mut(&cookie) else {
            return Err(unknown);
        };
        let exchange = &self.summary.requests[progress.index];
        progress.begun = true;
        match body {
            ChunkBody::None => {}
            ChunkBody::Data { offset, data } => {
                place(progress, exchange, Piece::Data(*offset, data.clone()))?;
            }
            ChunkBody::Hole { offset, length } => {
                place(progress, exchange, Piece::Hole(*offset, *length))?;
            }
            ChunkBody::Status { context, extents } => {
                if !progress.wanted.contains(context) {
                    return Err(Fault::StatusUnasked(*context));
                }
                if progress.status.iter().any(|(other, _)| other == context) {
                    return Err(Fault::StatusTwice(*context));
                }
                check_extents(exchange, extents)?;
                progress.status.push((*context, extents.clone()));
            }
            ChunkBody::Error { error, message, offset } => {
                if let Some(offset) = *offset {
                    within(exchange, offset, 1)?;
                }
                let message = message.clone();
                progress.failures.push(Failure { error: *error, message, offset: *offset });
            }
        }
        if flags & DONE == 0 {
            return Ok(());
        }
        let outcome = conclude(progress, exchange)?;
        self.settle(cookie, outcome)
    }

    fn settle(&mut self, cookie: u64, outcome: Outcome) -> Result<(), Fault> {
        let progress = self.in_flight.remove(&cookie).ok_or(Fault::CookieUnknown(cookie))?;
        let exchange = &mut self.summary.requests[progress.index];
        let command = exchange.request.command;
        let writes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
        let read_only = self.summary.flags.unwrap_or(0) & flag::READ_ONLY != 0;
        if writes && read_only && outcome == Outcome::Done {
            return Err(Fault::ReadOnly(command));
        }
        exchange.outcome = outcome;
        Ok(())
    }
}

/// A content or error chunk must lie within the request.
fn within(exchange: &Exchange, offset: u64, length: u64) -> Result<(), Fault> {
    let start = exchange.request.offset;
    let inside = offset
        .checked_sub(start)
        .and_then(|skip| skip.checked_add(length))
        .is_some_and(|end| end <= exchange.effect);
    if inside { Ok(()) } else { Err(Fault::OutsideRequest { offset, length }) }
}

/// Puts content where it belongs; it must not overlap what came before.
fn place(progress: &mut Progress, exchange: &Exchange, piece: Piece) -> Result<(), Fault> {
    let (offset, length) = (piece.offset(), piece.length());
    within(exchange, offset, length)?;
    // `within` has shown that these ends do not overflow past the request.
    let covers = |start: u64, length: u64, place: u64| {
        place.checked_sub(start).is_some_and(|skip| skip < length)
    };
    let overlaps = |other: &Piece| {
        covers(other.offset(), other.length(), offset) || covers(offset, length, other.offset())
    };
    let fails = |failure: &Failure| failure.offset.is_some_and(|at| covers(offset, length, at));
    if progress.pieces.iter().any(overlaps) || progress.failures.iter().any(fails) {
        return Err(Fault::Overlap(offset));
    }
    if exchange.request.flags & cmd_flag::DF != 0 && !progress.pieces.is_empty() {
        return Err(Fault::Fragmented);
    }
    let index = progress.pieces.partition_point(|other| other.offset() < offset);
    progress.pieces.insert(index, piece);
    Ok(())
}

fn check_extents(exchange: &Exchange, extents: &[Extent]) -> Result<(), Fault> {
    let one = exchange.request.flags & cmd_flag::REQ_ONE != 0;
    if one && !matches!(extents, [only] if only.length <= exchange.effect) {
        return Err(Fault::NotOne);
    }
    let mut start = 0_u64;
    for (index, extent) in extents.iter().enumerate() {
        // "the sum of the length fields of the first N-1 extents (if any) MUST be less
        // than the requested length".
        if index > 0 && start >= exchange.effect {
            return Err(Fault::ExtentBeyond);
        }
        start = start.saturating_add(extent.length);
    }
    Ok(())
}

/// What a request came to, now that its last chunk is here.
fn conclude(progress: &mut Progress, exchange: &Exchange) -> Result<Outcome, Fault> {
    if !progress.failures.is_empty() {
        return Ok(Outcome::Failed(std::mem::take(&mut progress.failures)));
    }
    match exchange.request.command {
        Command::Read => {
            let found = progress.pieces.iter().map(Piece::length).fold(0, u64::saturating_add);
            let wanted = exchange.effect;
            if found != wanted {
                return Err(Fault::Gap { found, wanted });
            }
            Ok(Outcome::Read(std::mem::take(&mut progress.pieces)))
        }
        Command::BlockStatus => {
            let came = |id: &u32| progress.status.iter().any(|(other, _)| other == id);
            if let Some(missing) = progress.wanted.iter().find(|id| !came(id)) {
                return Err(Fault::StatusMissing(*missing));
            }
            Ok(Outcome::Status(std::mem::take(&mut progress.status)))
        }
        _ => Ok(Outcome::Done),
    }
}
