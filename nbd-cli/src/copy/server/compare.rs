//! Comparing an export with what comes.

use std::collections::BTreeMap;

use nbd_client_blocking::proto::{Command, CommandType, ContextId, RequestId};
use nbd_client_blocking::{Completion, Pipeline};

use super::connected::{ALLOCATION, Connected};
use super::silence::Silence;
use super::{longest_range, request_size};
use crate::copy::job::Job;
use crate::copy::piece::{Piece, Sink, Slice};
use crate::failure::{Context, Result};

/// An answer about fewer bytes tells little.
const LITTLE: u64 = 4096;

/// Compares an export with what `body` sends.
pub(in crate::copy) fn compare(
    with: Connected,
    job: &Job,
    body: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<()> {
    let Connected { server, mut client, limit, .. } = with;
    let name = server.name;
    let mut reader = Reader {
        name: &name,
        job,
        allocation: client.context(ALLOCATION),
        request: request_size(&client, &job.plan),
        longest: longest_range(&client),
        depth: job.plan.requests,
        silence: Silence::new(&name, limit, &job.stop),
        pipeline: client.pipeline(),
        expected: BTreeMap::new(),
        unknown: Vec::new(),
        unasked: Vec::new(),
    };
    body(&mut reader)?;
    while reader.is_busy() {
        reader.advance()?;
    }
    job.progress.connected(reader.pipeline.client().session().stats().connections);
    drop(reader);
    // All is known, however the goodbye goes.
    let _ = client.disconnect();
    Ok(())
}

struct Reader<'a> {
    name: &'a str,
    job: &'a Job,
    allocation: Option<ContextId>,
    request: u64,
    longest: u64,
    depth: usize,
    silence: Silence<'a>,
    pipeline: Pipeline<'a, Slice>,
    /// What reads are to bring; nothing where that is zeroes.
    expected: BTreeMap<RequestId, Option<Slice>>,
    /// Offsets and lengths that are to be zeroes, and have to be read to know.
    unknown: Vec<(u64, u64)>,
    /// Those that have to be asked about once more.
    unasked: Vec<(u64, u64)>,
}

impl Sink for Reader<'_> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        match piece {
            Piece::Data { offset, bytes } if bytes.len() as u64 <= self.request => {
                self.read(offset, bytes.len(), Some(bytes))?;
            }
            Piece::Data { offset, bytes } => {
                let mut at = offset;
                for part in bytes.as_ref().chunks(self.request as usize) {
                    self.make_room()?;
                    let mut own = self.job.memory.buffer(part.len());
                    own.copy_from_slice(part);
                    self.read(at, part.len(), Some(own.into()))?;
                    at += part.len() as u64;
                }
            }
            Piece::Zeroes { offset, length } if self.allocation.is_some() => {
                self.ask(offset, length)?;
            }
            Piece::Zeroes { offset, length } => self.unknown.push((offset, length)),
        }
        self.make_room()
    }

    fn is_busy(&self) -> bool {
        self.pipeline.in_flight() > 0 || !self.unknown.is_empty() || !self.unasked.is_empty()
    }

    fn advance(&mut self) -> Result<()> {
        if let Some((offset, length)) = self.unasked.pop() {
            return self.ask(offset, length);
        }
        let Some((offset, length)) = self.unknown.pop() else { return self.complete() };
        let part = length.min(self.request);
        if part < length {
            self.unknown.push((offset + part, length - part));
        }
        self.make_room()?;
        self.read(offset, part as usize, None)
    }
}

impl Reader<'_> {
    fn read(&mut self, offset: u64, length: usize, expected: Option<Slice>) -> Result<()> {
        let buffer = self.job.memory.buffer(length);
        let id = self.pipeline.read(buffer.into(), offset).context(self.name)?;
        self.expected.insert(id, expected);
        Ok(())
    }

    /// Asks whether a range is known to be zeroes.
    fn ask(&mut self, offset: u64, length: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            self.make_room()?;
            let part = (end - at).min(self.longest);
            self.pipeline.submit(Command::block_status(at, part), None).context(self.name)?;
            at += part;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<()> {
        while self.pipeline.in_flight() >= self.depth {
            self.complete()?;
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        let Some(done) = self.silence.wait(&mut self.pipeline)? else {
            return Ok(());
        };
        if done.command.kind == CommandType::BlockStatus {
            return self.learn(done);
        }
        done.result.context(self.name)?;
        let expected = self.expected.remove(&done.id).flatten();
        let Some(read) = done.buffer else { return Ok(()) };
        let offset = done.command.offset;
        let first = match &expected {
            Some(bytes) => self.job.differences.look(offset, bytes.as_ref(), read.as_ref()),
            None => self.job.differences.look(offset, &vec![0; read.len()], read.as_ref()),
        };
        if let Some(first) = first {
            self.job.differs(first);
        }
        match expected.is_some() {
            true => self.job.progress.data(done.command.length),
            false => self.job.progress.zeroes(done.command.length),
        }
        Ok(())
    }

    /// What is not known to be zeroes is read.
    fn learn(&mut self, done: Completion<Slice>) -> Result<()> {
        let (begin, end) = (done.command.offset, done.command.offset + done.command.length);
        if let Err(error) = done.result {
            if error.command_failure().is_none() {
                return Err(error).context(self.name);
            }
            // It only saves reading.
            self.allocation = None;
            self.unknown.push((begin, end - begin));
            return Ok(());
        }
        let block = u64::from(self.pipeline.client().export().minimum_block());
        let mut at = begin;
        for (context, extent) in done.extents {
            // Reads are in whole blocks.
            let told = (at - begin).saturating_add(extent.length).next_multiple_of(block);
            let length = (begin.saturating_add(told)).min(end) - at;
            if Some(context) != self.allocation || length == 0 {
                continue;
            }
            if extent.is_zero() && length.is_multiple_of(block) && extent.length >= length {
                self.job.progress.zeroes(length);
            } else {
                self.unknown.push((at, length));
            }
            at += length;
        }
        if at < end {
            // Whoever tells little is not asked again.
            let rest = if at - begin < LITTLE { &mut self.unknown } else { &mut self.unasked };
            rest.push((at, end - at));
        }
        Ok(())
    }
}
