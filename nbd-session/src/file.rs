//! An export as a file: a position, bytes of any length, no alignment to mind.
//!
//! [`FileView`] says which commands that takes, one at a time, and what a caller is told. A
//! client lends it its way of waiting:
//!
//! ```text
//!   read, write, flush ──► Ready: tell the caller
//!                      ──► Send: submit the command, and when it is finished ─► completed ─► Send?
//!                      ──► Busy: come again when the command under way is finished
//! ```
//!
//! * A write is accepted when the server has acknowledged it. So nothing that was accepted is
//!   lost with the view, and nothing that it does races with what its caller does next. A
//!   write that nobody waits for any more may have taken place.
//! * One that reads and one that writes may share a view, as the halves of a split stream do.
//!   Both wait for the one command: a client keeps a waker for each, and wakes both when it
//!   is finished.
//! * A flush is sent only if something was written through this view since the last one, or
//!   if there was none yet: whoever flushes and closes in one poll, as codecs do, comes to an
//!   end. It vouches for this view's writes.
//! * Ranges that do not fall on the export's blocks are read as whole [`Blocks`], and written
//!   by reading the blocks around them first. Two views that write different parts of one
//!   block at the same time undo each other's work; so does everybody who does that.
//!
//! A client that waits in the call needs [`Blocks`] and [`seek`] alone.

use std::io::{self, SeekFrom};

use bytes::{Bytes, BytesMut};
use nbd_proto::{Command, ExportInfo, TransmissionFlags};

use crate::error::Error;

/// The most that a view reads or writes at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// Where a seek leads, from a position in an export of `size` bytes; beyond its end, too.
///
/// # Errors
/// When it would be negative.
pub fn seek(position: u64, size: u64, to: SeekFrom) -> io::Result<u64> {
    let position = match to {
        SeekFrom::Start(offset) => Some(offset),
        SeekFrom::End(delta) => size.checked_add_signed(delta),
        SeekFrom::Current(delta) => position.checked_add_signed(delta),
    };
    position.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "seek to a negative or too large position")
    })
}

/// A range of bytes and the whole blocks around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    start: u64,
    whole: usize,
    skip: usize,
    length: usize,
}

impl Blocks {
    /// Of a range of at most `length` bytes at `offset`: as many of them as one command may
    /// carry with the blocks around, `most` bytes, and as the export holds. Empty at the end
    /// of the export.
    #[must_use]
    pub fn around(export: &ExportInfo, most: usize, offset: u64, length: usize) -> Self {
        let room = usize::try_from(export.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let block = u64::from(export.minimum_block());
        // As many whole blocks as the command carries.
        let most = (most as u64 / block * block).max(block);
        let skip = offset % block;
        let length = (length.min(room) as u64).min(most - skip) as usize;
        let start = offset - skip;
        let end = (offset + length as u64).checked_next_multiple_of(block).unwrap_or(u64::MAX);
        // The tail of an export that is no multiple of its own block size cannot be asked for
        // in whole blocks.
        let whole = end.min(export.size.max(start)) - start;
        Self { start, whole: whole as usize, skip: skip as usize, length }
    }

    /// Where the first block starts, in bytes from the start of the export.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Length of all blocks together, in bytes.
    #[must_use]
    pub const fn whole(&self) -> usize {
        self.whole
    }

    /// Length of the range itself, in bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether there is more to the blocks than the range.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.whole != self.length
    }

    /// The range within the blocks.
    #[must_use]
    pub const fn range(&self) -> std::ops::Range<usize> {
        self.skip..self.skip + self.length
    }

    const fn read(&self) -> Command {
        Command::read(self.start, self.whole as u32)
    }

    const fn write(&self) -> Command {
        Command::write(self.start, self.whole as u32)
    }
}

/// What comes next for a caller of [`FileView`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Next<T> {
    /// This is to be told.
    Ready(T),
    /// A command is to be submitted; then it is under way.
    Send(Send),
    /// A command is under way: come again when it is finished.
    Busy,
}

/// A command that is to be submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Send {
    /// The command.
    pub command: Command,
    /// The data of a write.
    pub payload: Option<Bytes>,
}

/// A position in an export, and reading and writing there, without waiting. See the
/// [module](self).
#[derive(Debug)]
pub struct FileView {
    export: ExportInfo,
    most: usize,
    position: u64,
    /// What was read at the position and is not consumed.
    ahead: BytesMut,
    work: Option<Work>,
    /// How reads, writes and flushes ended that nobody was told of yet.
    read_failed: Option<Error>,
    written: Option<Written>,
    flush_failed: Option<Error>,
    /// Something may have been written that this view has not flushed.
    unflushed: bool,
}

/// What is under way.
#[derive(Debug)]
enum Work {
    Read(Blocks),
    /// A read whose outcome is for nobody.
    Stale,
    /// The blocks around a write are read.
    Around(Blocks, u64, Bytes),
    Write(u64, Bytes),
    Flush,
}

/// A write that is over, for whoever comes back to be told so.
#[derive(Debug)]
struct Written {
    offset: u64,
    data: Bytes,
    result: Result<(), Error>,
}

impl FileView {
    /// A view that starts at offset 0 of an export, where one command carries `most` bytes.
    #[must_use]
    pub fn new(export: ExportInfo, most: usize) -> Self {
        Self {
            export,
            most: most.min(CHUNK),
            position: 0,
            ahead: BytesMut::new(),
            work: None,
            read_failed: None,
            written: None,
            flush_failed: None,
            // By others, before there was this view.
            unflushed: true,
        }
    }

    /// The position, in bytes from the start of the export.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Wants at least one and at most `want` bytes at the position, and none at the end of the
    /// export. When it is ready they are what [`ahead`](Self::ahead) has.
    ///
    /// # Errors
    /// How the read failed.
    pub fn read(&mut self, want: usize) -> Result<Next<()>, Error> {
        if self.work.is_some() {
            return Ok(Next::Busy);
        }
        if let Some(error) = self.read_failed.take() {
            return Err(error);
        }
        let blocks = Blocks::around(&self.export, self.most, self.position, want);
        if !self.ahead.is_empty() || blocks.length == 0 {
            return Ok(Next::Ready(()));
        }
        self.work = Some(Work::Read(blocks));
        Ok(Next::Send(Send { command: blocks.read(), payload: None }))
    }

    /// Bytes at the position that were read and not consumed, at most `want`.
    #[must_use]
    pub fn ahead(&self, want: usize) -> &[u8] {
        self.ahead.get(..want.min(self.ahead.len())).unwrap_or_default()
    }

    /// Moves the position over bytes that [`ahead`](Self::ahead) has.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.ahead.len());
        drop(self.ahead.split_to(count));
        self.position += count as u64;
    }

    /// Writes at the position. When it is ready that has been done with so many bytes, none at
    /// the end of the export, and the position is behind them. Until then nothing is accepted,
    /// and the same bytes are to be given again; others, or the same at another place, begin
    /// another write.
    ///
    /// # Errors
    /// How the write failed, or the read of the blocks around.
    pub fn write(&mut self, data: &[u8]) -> Result<Next<usize>, Error> {
        if self.work.is_some() {
            return Ok(Next::Busy);
        }
        let blocks = Blocks::around(&self.export, self.most, self.position, data.len());
        let Some(data) = data.get(..blocks.length).filter(|data| !data.is_empty()) else {
            return Ok(Next::Ready(0));
        };
        // The outcome for a caller who went away is for nobody.
        let position = self.position;
        let ended = self.written.take();
        if let Some(Written { result, .. }) =
            ended.filter(|one| one.offset == position && one.data == data)
        {
            result?;
            // The other half may have read since.
            self.ahead.clear();
            self.position += blocks.length as u64;
            return Ok(Next::Ready(blocks.length));
        }
        self.unflushed = true;
        // Not what is there any more, whoever waits for the end of this.
        self.ahead.clear();
        let data = Bytes::copy_from_slice(data);
        Ok(Next::Send(if blocks.is_partial() {
            self.work = Some(Work::Around(blocks, position, data));
            Send { command: blocks.read(), payload: None }
        } else {
            self.work = Some(Work::Write(position, data.clone()));
            Send { command: blocks.write(), payload: Some(data) }
        }))
    }

    /// Has the server make durable what was written through this view, if it knows how to.
    ///
    /// # Errors
    /// How the flush failed. The next one tries again.
    pub fn flush(&mut self) -> Result<Next<()>, Error> {
        if self.work.is_some() {
            return Ok(Next::Busy);
        }
        if let Some(error) = self.flush_failed.take() {
            return Err(error);
        }
        if !self.unflushed || !self.export.flags.contains(TransmissionFlags::SEND_FLUSH) {
            return Ok(Next::Ready(()));
        }
        self.work = Some(Work::Flush);
        Ok(Next::Send(Send { command: Command::flush(), payload: None }))
    }

    /// Moves the position; it may be beyond the end of the export. Returns the new one. What
    /// was read ahead is forgotten, unless the position is where it was.
    ///
    /// # Errors
    /// When it would be negative.
    pub fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = seek(self.position, self.export.size, to)?;
        if position != self.position {
            self.position = position;
            self.ahead.clear();
            self.read_failed = None;
            if let Some(work @ Work::Read(_)) = &mut self.work {
                *work = Work::Stale;
            }
        }
        Ok(position)
    }

    /// Whether the command under way is of no use to anybody. Then it is not under way any
    /// more: withdraw it, and do not report its end.
    pub fn take_stale(&mut self) -> bool {
        self.work.take_if(|work| matches!(work, Work::Stale)).is_some()
    }

    /// The command under way is finished; a read brought `data`. Returns what is to be
    /// submitted next for the same caller, if anything is; otherwise everybody who was told
    /// that the view is [busy](Next::Busy) comes again.
    pub fn completed(&mut self, result: Result<(), Error>, data: BytesMut) -> Option<Send> {
        match (self.work.take()?, result) {
            (Work::Read(blocks), Ok(())) => self.ahead = within(data, &blocks),
            (Work::Read(_), Err(error)) => self.read_failed = Some(error),
            (Work::Stale, _) => {}
            (Work::Around(blocks, offset, part), Ok(())) => {
                let mut whole = data;
                if let Some(to) = whole.get_mut(blocks.range()) {
                    to.copy_from_slice(&part);
                }
                self.work = Some(Work::Write(offset, part));
                return Some(Send { command: blocks.write(), payload: Some(whole.freeze()) });
            }
            (Work::Around(_, offset, data) | Work::Write(offset, data), result) => {
                self.written = Some(Written { offset, data, result });
            }
            (Work::Flush, Ok(())) => self.unflushed = false,
            (Work::Flush, Err(error)) => self.flush_failed = Some(error),
        }
        None
    }
}

/// The range out of its blocks.
fn within(mut data: BytesMut, blocks: &Blocks) -> BytesMut {
    let mut range = data.split_off(blocks.skip.min(data.len()));
    range.truncate(blocks.length);
    range
}
