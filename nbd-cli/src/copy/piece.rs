//! What travels from the source to the destination.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};

use nbd_client_blocking::PooledBuffer;

use crate::failure::{Failure, Result};

/// A part of the copy. Parts come in any order and never overlap.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes to write at an offset.
    Data { offset: u64, bytes: Slice },
    /// A range that reads as zeroes.
    Zeroes { offset: u64, length: u64 },
}

impl Piece {
    pub(super) const fn offset(&self) -> u64 {
        match self {
            Self::Data { offset, .. } | Self::Zeroes { offset, .. } => *offset,
        }
    }

    /// Bytes of it.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Data { bytes, .. } => bytes.len() as u64,
            Self::Zeroes { length, .. } => *length,
        }
    }
}

/// A part of a buffer that it owns.
#[derive(Debug)]
pub(super) struct Slice {
    buffer: PooledBuffer,
    range: Range<usize>,
}

impl Slice {
    pub(super) fn new(buffer: PooledBuffer, range: Range<usize>) -> Self {
        let end = range.end.min(buffer.len());
        Self { range: range.start.min(end)..end, buffer }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }
}

impl From<PooledBuffer> for Slice {
    /// All of it.
    fn from(buffer: PooledBuffer) -> Self {
        Self { range: 0..buffer.len(), buffer }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl AsMut<[u8]> for Slice {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.range.clone()]
    }
}

/// Where pieces go.
pub(super) trait Sink {
    /// Takes a piece, and waits for room if there is none.
    fn put(&mut self, piece: Piece) -> Result<()>;

    /// Whether something is under way that [`advance`](Self::advance) would wait for.
    fn is_busy(&self) -> bool {
        false
    }

    /// Waits until a part of what is under way is done.
    fn advance(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The source's end.
pub(super) enum PieceSender<'a> {
    /// To another thread, which [`forward_all`]s.
    Thread(SyncSender<Piece>),
    /// Straight to the destination.
    Direct(RefCell<&'a mut dyn Sink>),
}

/// The destination's end.
#[derive(Debug)]
pub(super) struct PieceReceiver(Receiver<Piece>);

/// Holds `waiting` pieces at most, so that neither side runs far ahead.
pub(super) fn channel(waiting: usize) -> (SyncSender<Piece>, PieceReceiver) {
    let (pieces, receiver) = mpsc::sync_channel(waiting);
    (pieces, PieceReceiver(receiver))
}

impl<'a> PieceSender<'a> {
    pub(super) fn direct(sink: &'a mut dyn Sink) -> Self {
        Self::Direct(RefCell::new(sink))
    }

    pub(super) fn send(&self, piece: Piece) -> Result<()> {
        match self {
            Self::Thread(pieces) => {
                pieces.send(piece).map_err(|_| Failure::new("the destination has stopped"))
            }
            Self::Direct(sink) => sink.borrow_mut().put(piece),
        }
    }
}

#[cfg(test)]
impl PieceReceiver {
    /// The next piece; `None` when the source is done.
    pub(super) fn wait(&self) -> Option<Piece> {
        self.0.recv().ok()
    }
}

/// Passes on every piece that comes from another thread.
pub(super) fn forward_all(receiver: PieceReceiver, sink: &mut dyn Sink) -> Result<()> {
    loop {
        // Everything that is at hand goes out together; only then is an answer waited for, and
        // only with nothing under way, the source.
        let next = match sink.is_busy() {
            true => receiver.0.try_recv(),
            false => receiver.0.recv().map_err(TryRecvError::from),
        };
        match next {
            Ok(piece) => sink.put(piece)?,
            Err(TryRecvError::Empty) => sink.advance()?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}
