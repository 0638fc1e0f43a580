//! What reading and writing the file does to the export.
//!
//! A file takes any range. Where the server takes whole blocks only, the blocks at the ends of a
//! range are read and written back, with nobody else writing meanwhile.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{ReplyData, ReplyEmpty, ReplyWrite};
use mio::{Poll, Token, Waker};
use nbd_client_mio::proto::{Command, CommandFlags, Extent, TransmissionFlags};
use nbd_client_mio::{BufferPool, PooledBuffer};
use nbd_client_mio::{ConnectOptions, Error};

use super::blocks::WholeBlocks;
use super::requests::{Answer, Job, Outcome, Requests, errno};
use crate::connections::{Connections, Servers};

/// The longest range zeroed or asked about at once, in bytes: a multiple of any block.
const LONGEST: u64 = 1 << 30;

/// The longest range read or written at once, in bytes, where the server takes as much.
const USUAL: u64 = 1 << 20;

/// No connection has that token.
const WAKER: Token = Token(usize::MAX);

/// What is written where the server cannot zero.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// An export, as bytes.
#[derive(Debug)]
pub(super) struct Disk {
    requests: Arc<Requests>,
    thread: JoinHandle<Result<(), Error>>,
    memory: BufferPool,
    size: u64,
    block: u64,
    /// The longest read or write, in bytes; whole blocks.
    longest: u64,
    flags: TransmissionFlags,
    knows_holes: bool,
    whole_blocks: Arc<WholeBlocks>,
    connections: usize,
    why_fewer: &'static str,
}

impl Disk {
    /// Connects to one of the servers, with `most` connections at most. So many bytes of what is
    /// written are `kept` until they are flushed.
    pub(super) fn connect(
        servers: &Servers,
        options: &ConnectOptions,
        most: usize,
        kept: u64,
    ) -> Result<Self, Error> {
        let mut poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let connections = Connections::connect(options, most, &mut poll)?;
        let Some(first) = connections.iter().next() else { return Err(stopped()) };
        let (facts, longest) = (first.session().negotiated(), first.session().max_request());
        let knows_holes = facts.is_some_and(|facts| !facts.contexts.is_empty());
        let Some(export) = connections.export() else { return Err(stopped()) };
        let (size, flags) = (export.size, export.flags);
        let block = u64::from(export.minimum_block()).max(1);
        let longest = USUAL.min(longest as u64 / block * block).max(block);
        let (count, why_fewer) = (connections.iter().count(), connections.why_fewer(most == 1));
        let memory = BufferPool::keeping(usize::try_from(kept).unwrap_or(usize::MAX));
        let servers = servers.clone();
        let requests = Arc::new(Requests::new(connections, poll, waker, memory.clone(), servers)?);
        let runs = Arc::clone(&requests);
        let thread =
            thread::Builder::new().name("requests".to_owned()).spawn(move || runs.run())?;
        Ok(Self {
            requests,
            thread,
            memory,
            size,
            block,
            longest,
            flags,
            knows_holes,
            whole_blocks: Arc::default(),
            connections: count,
            why_fewer,
        })
    }

    /// Looks whether the servers that are not in use can be taken for the one that is.
    pub(super) fn compare(&self, limit: Option<Duration>) -> crate::failure::Result<()> {
        self.requests.compare(limit)
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) const fn is_read_only(&self) -> bool {
        self.flags.contains(TransmissionFlags::READ_ONLY)
    }

    /// The longest read or write that is carried out as one, in bytes.
    pub(super) const fn longest(&self) -> u64 {
        self.longest
    }

    /// How many connections there are, and why not more.
    pub(super) const fn connections(&self) -> (usize, &'static str) {
        (self.connections, self.why_fewer)
    }

    /// Answers with the bytes of a range, as far as it lies within the export.
    pub(super) fn read(&self, offset: u64, length: u32, reply: ReplyData) {
        let end = self.size.min(offset.saturating_add(u64::from(length)));
        if offset >= end {
            return reply.data(&[]);
        }
        let blocks = self.blocks(offset..end);
        if blocks.end - blocks.start <= self.longest {
            let part = (offset - blocks.start) as usize..(end - blocks.start) as usize;
            let command = Command::read(blocks.start, (blocks.end - blocks.start) as u32);
            return self.requests.send(Job {
                command,
                buffer: None,
                answer: Answer::Read { reply, part },
            });
        }
        let mut bytes = Vec::with_capacity(length as usize);
        for piece in self.pieces(offset..end) {
            let blocks = self.blocks(piece.clone());
            match self.read_blocks(&blocks) {
                Ok(read) => {
                    let part = piece.start - blocks.start..piece.end - blocks.start;
                    let part = part.start as usize..part.end as usize;
                    bytes.extend_from_slice(read.as_ref().get(part).unwrap_or_default());
                }
                Err(error) => return reply.error(errno(&error)),
            }
        }
        reply.data(&bytes);
    }

    /// Writes bytes within the export, and answers.
    pub(super) fn write(&self, data: &[u8], offset: u64, reply: ReplyWrite) {
        let range = offset..offset + data.len() as u64;
        let is_whole = self.blocks(range.clone()) == range;
        if is_whole && !data.is_empty() && data.len() as u64 <= self.longest {
            // Where any byte is a block nobody ever writes one back.
            let sharing = (self.block > 1).then(|| self.whole_blocks.share());
            let count = data.len() as u32;
            let mut buffer = self.memory.buffer(data.len());
            buffer.as_mut().copy_from_slice(data);
            let answer = Answer::Written { reply, count, sharing };
            let command = Command::write(offset, count);
            return self.requests.send(Job { command, buffer: Some(buffer), answer });
        }
        match self.write_pieces(data, offset) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Makes everything durable that was written, and answers.
    pub(super) fn flush(&self, reply: ReplyEmpty) {
        if !self.flags.contains(TransmissionFlags::SEND_FLUSH) {
            return reply.ok();
        }
        let answer = Answer::Done(reply);
        self.requests.send(Job { command: Command::flush(), buffer: None, answer });
    }

    /// Makes a range within the export read as zeroes; as a hole, or fully provisioned.
    pub(super) fn zero(&self, range: Range<u64>, may_punch: bool) -> Result<(), Error> {
        // The whole blocks inside.
        let start = range.start.next_multiple_of(self.block).min(range.end);
        let end = (range.end - range.end % self.block).max(start);
        self.write_zeroes(range.start..start)?;
        self.write_zeroes(end..range.end)?;
        if !self.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES) {
            return self.write_zeroes(start..end);
        }
        let flags = if may_punch { CommandFlags::empty() } else { CommandFlags::NO_HOLE };
        let mut at = start;
        let _shared = self.whole_blocks.share();
        while at < end {
            let length = (end - at).min(LONGEST);
            self.call(Command::write_zeroes(at, length).with(flags), None)?;
            at += length;
        }
        Ok(())
    }

    fn write_zeroes(&self, mut range: Range<u64>) -> Result<(), Error> {
        while range.start < range.end {
            let length = (range.end - range.start).min(ZEROES.len() as u64);
            let zeroes = ZEROES.get(..length as usize).unwrap_or(&ZEROES);
            self.write_pieces(zeroes, range.start)?;
            range.start += length;
        }
        Ok(())
    }

    /// Where the next data, or the next hole, begins: at `offset` or behind it. The end of the
    /// export is a hole.
    pub(super) fn seek(&self, offset: u64, to_hole: bool) -> Result<Option<u64>, Error> {
        if offset >= self.size {
            return Ok(None);
        }
        let mut at = offset - offset % self.block;
        while at < self.size {
            let length = (self.size - at).min(LONGEST);
            let extents = match self.knows_holes {
                true => self.call(Command::block_status(at, length), None)?.extents,
                false => Vec::new(),
            };
            let before = at;
            for Extent { length, status } in extents {
                let is_hole = status & Extent::ZERO != 0;
                let end = at.saturating_add(length);
                if is_hole == to_hole && end > offset {
                    return Ok(Some(at.max(offset)));
                }
                at = end;
            }
            if at == before {
                // Nobody knows: all of it is data.
                return Ok(Some(if to_hole { self.size } else { offset }));
            }
        }
        Ok(to_hole.then_some(self.size))
    }

    /// Makes everything durable that was written, and waits for it.
    pub(super) fn settle(&self) -> Result<(), Error> {
        match self.flags.contains(TransmissionFlags::SEND_FLUSH) {
            true => self.call(Command::flush(), None).map(drop),
            false => Ok(()),
        }
    }

    /// Takes leave of the server.
    ///
    /// # Errors
    /// When it is not certain that everything which was written is safe.
    pub(super) fn finish(self) -> Result<(), Error> {
        let Self { requests, thread, .. } = self;
        requests.end()?;
        thread.join().map_err(|_| stopped())?
    }

    /// Writes as much at once as can be, in whole blocks; waits for it.
    fn write_pieces(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        let mut left = data;
        for piece in self.pieces(offset..offset + data.len() as u64) {
            let (bytes, rest) = left.split_at((piece.end - piece.start) as usize);
            left = rest;
            let blocks = self.blocks(piece.clone());
            let is_whole = blocks == piece;
            let _shared = is_whole.then(|| self.whole_blocks.share());
            let _alone = (!is_whole).then(|| self.whole_blocks.alone());
            let mut buffer = match is_whole {
                true => self.memory.buffer(bytes.len()),
                false => self.read_blocks(&blocks)?,
            };
            let at = (piece.start - blocks.start) as usize;
            if let Some(place) = buffer.as_mut().get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            let command = Command::write(blocks.start, (blocks.end - blocks.start) as u32);
            self.call(command, Some(buffer))?;
        }
        Ok(())
    }

    fn read_blocks(&self, blocks: &Range<u64>) -> Result<PooledBuffer, Error> {
        let command = Command::read(blocks.start, (blocks.end - blocks.start) as u32);
        self.call(command, None)?.buffer.ok_or_else(stopped)
    }

    /// Waits for a command.
    fn call(&self, command: Command, buffer: Option<PooledBuffer>) -> Result<Outcome, Error> {
        let (tell, told) = sync_channel(1);
        self.requests.send(Job { command, buffer, answer: Answer::Thread(tell) });
        let outcome = told.recv().map_err(|_| stopped())?;
        outcome.result.map(|()| Outcome { result: Ok(()), ..outcome })
    }

    /// The whole blocks around a range.
    fn blocks(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.checked_next_multiple_of(self.block).unwrap_or(range.end);
        range.start - range.start % self.block..end.min(self.size)
    }

    /// A range in parts whose blocks are no longer than one request may be.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let longest = self.longest;
        let mut at = range.start;
        std::iter::from_fn(move || {
            let end = (at / longest + 1).saturating_mul(longest).min(range.end);
            let piece = at..end;
            at = end;
            (piece.start < piece.end).then_some(piece)
        })
    }
}

/// There is nobody who does anything any more.
fn stopped() -> Error {
    io::Error::from(ErrorKind::NotConnected).into()
}
