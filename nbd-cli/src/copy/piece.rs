//! What travels from the source to the destination.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};

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
    buffer: Vec<u8>,
    range: Range<usize>,
}

impl Slice {
    pub(super) fn new(buffer: Vec<u8>, range: Range<usize>) -> Self {
        let end = range.end.min(buffer.len());
        Self { range: range.start.min(end)..end, buffer }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
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

/// Buffers that are not needed any more.
#[derive(Debug, Default)]
pub(super) struct Spare(RefCell<Vec<Vec<u8>>>);

impl Spare {
    /// One of this length, used before if there is one.
    pub(super) fn take(&self, length: usize) -> Slice {
        let mut buffer = self.pop().unwrap_or_default();
        buffer.resize(length, 0);
        Slice::new(buffer, 0..length)
    }

    pub(super) fn pop(&self) -> Option<Vec<u8>> {
        self.0.borrow_mut().pop()
    }

    pub(super) fn push(&self, slice: Slice) {
        self.0.borrow_mut().push(slice.into_buffer());
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

    /// A buffer that is not needed any more.
    fn spare(&mut self) -> Option<Vec<u8>>;
}

/// The source's end: pieces out, used buffers back.
pub(super) enum Outlet<'a> {
    /// To another thread.
    Thread(ToThread),
    /// Straight to the destination.
    Direct(RefCell<&'a mut dyn Sink>),
}

/// What leads to a thread that [`pour`]s.
#[derive(Debug)]
pub(super) struct ToThread {
    pieces: SyncSender<Piece>,
    buffers: Receiver<Vec<u8>>,
}

/// The destination's end.
#[derive(Debug)]
pub(super) struct Inlet {
    pieces: Receiver<Piece>,
    buffers: SyncSender<Vec<u8>>,
}

/// Holds `waiting` pieces at most, so that neither side runs far ahead, and as many used buffers
/// as there are `requests`: one that the source cannot take back is made anew.
pub(super) fn channel(waiting: usize, requests: usize) -> (ToThread, Inlet) {
    let (pieces, inlet) = mpsc::sync_channel(waiting);
    let (buffers, returned) = mpsc::sync_channel(requests);
    (ToThread { pieces, buffers: returned }, Inlet { pieces: inlet, buffers })
}

impl<'a> Outlet<'a> {
    pub(super) fn direct(sink: &'a mut dyn Sink) -> Self {
        Self::Direct(RefCell::new(sink))
    }

    pub(super) fn send(&self, piece: Piece) -> Result<()> {
        match self {
            Self::Thread(thread) => {
                thread.pieces.send(piece).map_err(|_| Failure::new("the destination has stopped"))
            }
            Self::Direct(sink) => sink.borrow_mut().put(piece),
        }
    }

    /// A buffer of this length, used before if there is one.
    pub(super) fn buffer(&self, length: usize) -> Vec<u8> {
        let used = match self {
            Self::Thread(thread) => thread.buffers.try_recv().ok(),
            Self::Direct(sink) => sink.borrow_mut().spare(),
        };
        let Some(mut buffer) = used else {
            // Memory that nobody has touched yet is zeroes already.
            return vec![0; length];
        };
        buffer.resize(length, 0);
        buffer
    }
}

#[cfg(test)]
impl Inlet {
    /// The next piece; `None` when the source is done.
    pub(super) fn wait(&self) -> Option<Piece> {
        self.pieces.recv().ok()
    }
}

/// Passes on every piece that comes from another thread.
pub(super) fn pour(inlet: Inlet, sink: &mut dyn Sink) -> Result<()> {
    let Inlet { pieces, buffers } = inlet;
    loop {
        // Everything that is at hand goes out together; only then is an answer waited for, and
        // only with nothing under way, the source.
        let next = match sink.is_busy() {
            true => pieces.try_recv(),
            false => pieces.recv().map_err(TryRecvError::from),
        };
        match next {
            Ok(piece) => sink.put(piece)?,
            Err(TryRecvError::Empty) => sink.advance()?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        while let Some(buffer) = sink.spare() {
            // The source may be done, or have enough of them.
            let _ = buffers.try_send(buffer);
        }
    }
}
