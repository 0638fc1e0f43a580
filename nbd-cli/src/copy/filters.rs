//! What is done with pieces on their way: moved to another offset, or summed up.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::part::Part;
use super::piece::{Piece, Sink};
use crate::checksum::Digest;
use crate::failure::{Failure, Result};

/// Pieces of a part of the source, for where they go.
pub(super) struct Shifted<'a> {
    pub(super) part: &'a Part,
    pub(super) sink: &'a mut dyn Sink,
}

impl Sink for Shifted<'_> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        self.sink.put(match piece {
            Piece::Data { offset, bytes } => Piece::Data { offset: self.part.there(offset), bytes },
            Piece::Zeroes { offset, length } => {
                Piece::Zeroes { offset: self.part.there(offset), length }
            }
        })
    }

    fn is_busy(&self) -> bool {
        self.sink.is_busy()
    }

    fn advance(&mut self) -> Result<()> {
        self.sink.advance()
    }
}

/// Sums up all bytes in order: what comes early waits.
pub(super) struct Summing<'a> {
    digest: &'a Mutex<Option<Digest>>,
    early: BTreeMap<u64, Piece>,
    position: u64,
    sink: &'a mut dyn Sink,
}

impl<'a> Summing<'a> {
    pub(super) fn new(
        digest: &'a Mutex<Option<Digest>>,
        position: u64,
        sink: &'a mut dyn Sink,
    ) -> Self {
        Self { digest, early: BTreeMap::new(), position, sink }
    }

    /// # Errors
    ///
    /// When something still waits for what is before it, which has never come.
    pub(super) fn finish(self) -> Result<()> {
        nothing_waits(&self.early)
    }
}

/// Fails where pieces that came early still wait at the end: what is before them was not read.
pub(super) fn nothing_waits(early: &BTreeMap<u64, Piece>) -> Result<()> {
    match early.first_key_value() {
        None => Ok(()),
        Some((offset, _)) => {
            Err(Failure::new(format!("what is before byte {offset} has not come from the source")))
        }
    }
}

impl Sink for Summing<'_> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        self.early.insert(piece.offset(), piece);
        while let Some(piece) = self.early.remove(&self.position) {
            self.position += piece.len();
            match (self.digest.lock().as_deref_mut(), &piece) {
                (Ok(Some(digest)), Piece::Data { bytes, .. }) => digest.data(bytes.as_ref()),
                (Ok(Some(digest)), Piece::Zeroes { length, .. }) => digest.zeroes(*length),
                (Ok(None) | Err(_), _) => return Err(Failure::new("the checksum is lost")),
            }
            self.sink.put(piece)?;
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.sink.is_busy()
    }

    fn advance(&mut self) -> Result<()> {
        self.sink.advance()
    }
}
