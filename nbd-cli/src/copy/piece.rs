//! What travels from the source to the destination.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};

use indicatif::ProgressBar;

use super::Copied;
use crate::failure::{Failure, Result};

/// A part of the copy. Parts come in any order and never overlap.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes to write at an offset.
    Data { offset: u64, bytes: Slice },
    /// A range that reads as zeroes.
    Zeroes { offset: u64, length: u64 },
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

/// The source's end: pieces out, used buffers back.
#[derive(Debug)]
pub(super) enum Outlet {
    /// To the destination's thread.
    Thread { pieces: SyncSender<Piece>, buffers: Receiver<Vec<u8>> },
    /// To nowhere: pieces are counted, which needs no thread.
    Nowhere { bar: ProgressBar, copied: Cell<Copied>, buffers: RefCell<Vec<Vec<u8>>> },
}

/// The destination's end.
#[derive(Debug)]
pub(super) struct Inlet {
    pieces: Receiver<Piece>,
    buffers: SyncSender<Vec<u8>>,
}

/// What a look at the inlet found.
#[derive(Debug)]
pub(super) enum Next {
    Piece(Piece),
    /// None at the moment.
    Empty,
    /// The source is done.
    End,
}

/// Holds as many pieces as there are requests, so that neither side runs far ahead.
pub(super) fn channel(depth: usize) -> (Outlet, Inlet) {
    let (pieces, inlet) = mpsc::sync_channel(depth);
    let (buffers, returned) = mpsc::sync_channel(depth);
    (Outlet::Thread { pieces, buffers: returned }, Inlet { pieces: inlet, buffers })
}

impl Outlet {
    pub(super) fn nowhere(bar: ProgressBar) -> Self {
        Self::Nowhere { bar, copied: Cell::default(), buffers: RefCell::default() }
    }

    pub(super) fn send(&self, piece: Piece) -> Result<()> {
        match self {
            Self::Thread { pieces, .. } => {
                pieces.send(piece).map_err(|_| Failure::new("the destination has stopped"))
            }
            Self::Nowhere { bar, copied, buffers } => {
                let mut count = copied.get();
                count.count(&piece, bar);
                copied.set(count);
                if let Piece::Data { bytes, .. } = piece {
                    buffers.borrow_mut().push(bytes.into_buffer());
                }
                Ok(())
            }
        }
    }

    /// A buffer of this length, used before if there is one.
    pub(super) fn buffer(&self, length: usize) -> Vec<u8> {
        let used = match self {
            Self::Thread { buffers, .. } => buffers.try_recv().ok(),
            Self::Nowhere { buffers, .. } => buffers.borrow_mut().pop(),
        };
        let mut buffer = used.unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// What went nowhere. Of what another thread writes, that thread keeps count.
    pub(super) fn counted(&self) -> Copied {
        match self {
            Self::Thread { .. } => Copied::default(),
            Self::Nowhere { copied, .. } => copied.get(),
        }
    }
}

impl Inlet {
    /// The next piece, after waiting for it.
    pub(super) fn wait(&self) -> Next {
        self.pieces.recv().map_or(Next::End, Next::Piece)
    }

    pub(super) fn poll(&self) -> Next {
        match self.pieces.try_recv() {
            Ok(piece) => Next::Piece(piece),
            Err(TryRecvError::Empty) => Next::Empty,
            Err(TryRecvError::Disconnected) => Next::End,
        }
    }

    pub(super) fn give_back(&self, bytes: Slice) {
        // The source may be done, or have enough of them.
        let _ = self.buffers.try_send(bytes.into_buffer());
    }
}
