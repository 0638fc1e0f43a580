//! Writing an export.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;
use std::time::Duration;

use nbd_client_blocking::proto::{
    Command, CommandFlags, CommandType, Errno, Protocol, RequestId, TransmissionFlags,
};
use nbd_client_blocking::session::replay::RecoveryError;
use nbd_client_blocking::{Client, Completion, Error, Pipeline};

use super::connected::Connected;
use super::silence::Silence;
use super::unflushed::{Flushed, Unflushed};
use super::verify::Verify;
use super::{longest_range, request_size};
use crate::copy::destination::too_small;
use crate::copy::job::Job;
use crate::copy::piece::{Piece, Sink, Slice};
use crate::copy::written::not_what_was_written;
use crate::failure::{Context, Failure, Result};
use crate::target::Server;

/// Opens an export and makes sure that all fits.
pub(in crate::copy) fn open_to_write(
    server: &Server,
    size: Option<u64>,
    limit: Option<Duration>,
) -> Result<Connected> {
    let destination = Connected::to_write(server, limit)?;
    let name = &server.name;
    if destination.client.is_read_only() {
        return Err(Failure::new(format!("{name}: the export is read-only")));
    }
    let room = destination.size();
    if size.is_some_and(|size| size > room) {
        return Err(too_small(name, room, size));
    }
    let block = destination.block();
    if let Some(size) = size.filter(|size| size % block as u64 != 0) {
        return Err(Failure::new(format!(
            "{name}: takes whole blocks of {block} bytes only, but the copy would end at byte \
             {size}; nothing was written"
        )));
    }
    Ok(destination)
}

/// Writes what `body` sends, and makes it durable if the server offers that.
pub(in crate::copy) fn write(
    destination: Connected,
    job: &Job,
    body: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<()> {
    let Connected { server, mut client, limit, .. } = destination;
    let (plan, progress) = (&job.plan, &*job.progress);
    let name = server.name.clone();
    let flags = client.flags();
    let can_flush = flags.contains(TransmissionFlags::SEND_FLUSH);
    let mut writer = Writer {
        name: &name,
        job,
        size: client.size(),
        request: request_size(&client, plan),
        longest: longest_range(&client),
        boundary: plan.longest_zero,
        can_zero: flags.contains(TransmissionFlags::SEND_WRITE_ZEROES),
        can_flush,
        zero_flags: if plan.allocated { CommandFlags::NO_HOLE } else { CommandFlags::empty() },
        depth: plan.requests,
        writes: Unflushed::new(client.session().stats().connections),
        verify: Verify::default(),
        pipeline: client.pipeline(),
        silence: Silence::new(&name, limit, &job.stop),
        refused: VecDeque::new(),
    };
    body(&mut writer)?;
    writer.finish()?;
    let flushed = if can_flush { Some(writer.flush()?) } else { None };
    progress.connected(writer.connection());
    // What the session keeps, it has put back by itself.
    if server.reconnect().is_none_or(|policy| policy.kept_bytes().is_none()) {
        job.lose(writer.writes.take_lost());
    }
    drop(writer);
    match flushed {
        None => client.disconnect().context(&name),
        // nbdkit 1.32 offers it in oldstyle, too, and does not know it then.
        Some(Err(error)) if !plan.flush && is_oldstyle(&client) && is_unknown(&error) => Ok(()),
        Some(result) => {
            result.context(&name)?;
            // What is written is safe, however the goodbye goes.
            let _ = client.disconnect();
            Ok(())
        }
    }
}

fn is_oldstyle(client: &Client) -> bool {
    client.negotiated().protocol == Protocol::Oldstyle
}

/// Whether the server may not know a command, though it offered it: nbdkit 1.32 does so in
/// oldstyle.
fn is_unknown(error: &Error) -> bool {
    error
        .command_failure()
        .is_some_and(|failure| matches!(failure.error.errno(), Errno::Inval | Errno::NotSup))
}

/// The most bytes in flight where the length of requests follows the distance.
const QUEUE: u64 = 16 << 20;
/// Nothing is made durable for less than so many bytes.
const LEAST: u64 = 1 << 20;
/// Lost connections in a row, without anything that became durable, that are too many.
const ENOUGH: u32 = 16;

struct Writer<'a> {
    name: &'a str,
    job: &'a Job,
    size: u64,
    request: u64,
    longest: u64,
    boundary: u64,
    can_zero: bool,
    can_flush: bool,
    zero_flags: CommandFlags,
    depth: usize,
    writes: Unflushed,
    verify: Verify,
    pipeline: Pipeline<'a, Slice>,
    silence: Silence<'a>,
    /// Offsets and lengths that the server would not zero: they are written instead.
    refused: VecDeque<(u64, u64)>,
}

impl Sink for Writer<'_> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        let (offset, length) = (piece.offset(), piece.len());
        if offset + length > self.size {
            return Err(too_small(self.name, self.size, None));
        }
        self.job.progress.begin();
        if self.job.plan.adapts && matches!(piece, Piece::Data { .. }) {
            // Long pieces come from far away: as many as there is memory for.
            self.depth = self.depth.min((QUEUE / length.max(1)).max(1) as usize);
        }
        match piece {
            Piece::Data { bytes, .. } if length <= self.request => self.write(bytes, offset)?,
            Piece::Data { bytes, .. } => {
                // The destination takes smaller requests than the source.
                let mut at = offset;
                for part in bytes.as_ref().chunks(self.request as usize) {
                    self.make_room()?;
                    let mut own = self.job.memory.buffer(part.len());
                    own.copy_from_slice(part);
                    self.write(own.into(), at)?;
                    at += part.len() as u64;
                }
            }
            Piece::Zeroes { .. } if self.job.plan.skip_zeroes => {
                self.job.progress.zeroes(length);
                self.job.durable(iter::once(offset..offset + length))?;
            }
            Piece::Zeroes { .. } => self.zero(offset, length)?,
        }
        self.make_room()
    }

    fn is_busy(&self) -> bool {
        self.pipeline.in_flight() > 0 || !self.refused.is_empty() || !self.verify.is_empty()
    }

    fn advance(&mut self) -> Result<()> {
        if let Some((offset, length)) = self.refused.pop_front() {
            return self.zero(offset, length);
        }
        match self.verify.next(self.request) {
            Some((connection, range)) => {
                self.make_room()?;
                self.read(range, connection, None)
            }
            None => self.complete(),
        }
    }
}

impl Writer<'_> {
    /// How many connections there have been.
    fn connection(&self) -> u64 {
        self.pipeline.client().session().stats().connections
    }

    fn write(&mut self, bytes: Slice, offset: u64) -> Result<()> {
        let id = self.pipeline.write(bytes, offset).context(self.name)?;
        self.writes.sent(id, self.connection());
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            self.make_room()?;
            let length = if self.can_zero {
                let boundary = (at - at % self.boundary).saturating_add(self.boundary);
                let length = (end.min(boundary) - at).min(self.longest);
                let command = Command::write_zeroes(at, length).with(self.zero_flags);
                let id = self.pipeline.submit(command, None).context(self.name)?;
                self.writes.sent(id, self.connection());
                length
            } else {
                let length = (end - at).min(self.request);
                // Nobody has put anything into it.
                self.write(self.job.memory.buffer(length as usize).into(), at)?;
                length
            };
            at += length;
        }
        Ok(())
    }

    /// Reads again what was written.
    fn read(&mut self, range: Range<u64>, connection: u64, written: Option<Slice>) -> Result<()> {
        let buffer = self.job.memory.buffer((range.end - range.start) as usize);
        let id = self.pipeline.read(buffer.into(), range.start).context(self.name)?;
        self.verify.reads(id, connection, written);
        Ok(())
    }

    fn make_room(&mut self) -> Result<()> {
        while self.pipeline.in_flight() >= self.depth {
            self.complete()?;
        }
        Ok(())
    }

    /// Waits until one request is done.
    fn complete(&mut self) -> Result<()> {
        match self.silence.wait(&mut self.pipeline)? {
            Some(done) => self.completed(done),
            None => Ok(()),
        }
    }

    fn completed(&mut self, done: Completion<Slice>) -> Result<()> {
        let (command, connection) = (done.command, self.connection());
        let range = command.offset..command.offset + command.length;
        match (command.kind, done.result) {
            (CommandType::WriteZeroes, Err(error)) if is_unknown(&error) => {
                self.can_zero = false;
                self.writes.refused(done.id);
                self.refused.push_back((command.offset, command.length));
            }
            // The last flush will tell, too.
            (CommandType::Flush, result) => self.flushed(done.id, result)?.context(self.name)?,
            (_, Err(error)) => return Err(error).context(self.name),
            (CommandType::WriteZeroes, Ok(())) => {
                self.job.progress.zeroes(command.length);
                if self.job.plan.verify {
                    self.verify.zeroes(range.clone(), connection);
                }
                self.acknowledged(done.id, range)?;
            }
            (CommandType::Write, Ok(())) => {
                self.job.progress.data(command.length);
                if self.job.plan.verify {
                    self.read(range.clone(), connection, done.buffer)?;
                }
                self.acknowledged(done.id, range)?;
            }
            (_, Ok(())) => {
                let Some(bytes) = done.buffer else { return Ok(()) };
                let looked = self.verify.look(done.id, command.offset, bytes.as_ref(), connection);
                if let Some(at) = looked {
                    return Err(not_what_was_written(self.name, at));
                }
            }
        }
        Ok(())
    }

    /// A write is done: now and then what is done is made durable.
    fn acknowledged(&mut self, id: RequestId, range: Range<u64>) -> Result<()> {
        self.writes.acknowledged(id, range, self.connection());
        if self.writes.losses() >= ENOUGH {
            return Err(Failure::new(format!(
                "{}: the connection was lost {ENOUGH} times, and nothing became durable between",
                self.name
            )));
        }
        // The more often it is lost, the less is to be written again.
        let every = self.job.plan.flush_every >> (4 * self.writes.losses()).min(32);
        let every = every.max(LEAST);
        if self.can_flush && self.writes.bytes() >= every && !self.writes.is_flushing() {
            let id = self.pipeline.submit(Command::flush(), None).context(self.name)?;
            self.writes.flushing(id, self.connection());
        }
        Ok(())
    }

    /// Waits for all that is under way.
    fn finish(&mut self) -> Result<()> {
        while self.is_busy() {
            self.advance()?;
        }
        Ok(())
    }

    /// Makes everything durable. Returns what the server answered.
    fn flush(&mut self) -> Result<std::result::Result<(), Error>> {
        let id = self.pipeline.submit(Command::flush(), None).context(self.name)?;
        self.writes.flushing(id, self.connection());
        match self.silence.wait(&mut self.pipeline)? {
            Some(done) => self.flushed(done.id, done.result),
            None => Ok(Ok(())),
        }
    }

    /// What a flush came to. Where it says that acknowledged writes may be lost, they are
    /// written again, and it did not fail.
    fn flushed(
        &mut self,
        id: RequestId,
        result: std::result::Result<(), Error>,
    ) -> Result<std::result::Result<(), Error>> {
        let connection = self.connection();
        let (outcome, result) = match result {
            Ok(()) => (Flushed::Durable, Ok(())),
            Err(error) if error.recovery() == Some(&RecoveryError::UnflushedLost) => {
                (Flushed::Lost, Ok(()))
            }
            Err(error) => (Flushed::Refused, Err(error)),
        };
        self.job.durable(self.writes.flushed(id, outcome, connection))?;
        Ok(result)
    }
}
