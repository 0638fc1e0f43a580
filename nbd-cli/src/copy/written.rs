//! Writing a file, and reading one again.

use std::io;
use std::path::Path;

use nbd_server::{Export, FileExport, Zeroing};
use rangemap::RangeSet;

use super::difference::Differences;
use super::job::Job;
use super::piece::Piece;
use super::sparse::is_zero;
use crate::failure::{Context, Failure, Result};

/// Writes a file, looks at it again if that is wanted, and records what is durable.
pub(super) struct Written<'a> {
    job: &'a Job,
    path: &'a Path,
    store: &'a FileExport,
    /// What was written since the file was last made durable, where that is recorded.
    unsynced: RangeSet<u64>,
    bytes: u64,
    /// For what is read again.
    again: Vec<u8>,
}

impl<'a> Written<'a> {
    pub(super) fn new(job: &'a Job, path: &'a Path, store: &'a FileExport) -> Self {
        Self { job, path, store, unsynced: RangeSet::new(), bytes: 0, again: Vec::new() }
    }

    pub(super) fn piece(&mut self, piece: &Piece, skip: bool) -> Result<()> {
        let plan = &self.job.plan;
        let zeroing = if plan.allocated { Zeroing::PROVISIONED } else { Zeroing::ANY };
        let written = match piece {
            Piece::Data { offset, bytes } => self.store.write_all_at(bytes.as_ref(), *offset),
            Piece::Zeroes { .. } if skip => Ok(()),
            Piece::Zeroes { offset, length } => self.store.write_zeroes(*offset, *length, zeroing),
        };
        written.context(self.path.display())?;
        if plan.verify {
            let differences = Differences::default();
            let looked = look(self.store, piece, &mut self.again, &differences);
            if let Some(at) = looked.context(self.path.display())? {
                return Err(not_what_was_written(&self.path.display().to_string(), at));
            }
        }
        if self.job.record.is_some() {
            self.unsynced.insert(piece.offset()..piece.offset() + piece.len());
            self.bytes += piece.len();
            if self.bytes >= plan.flush_every {
                self.sync()?;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.store.flush().context(self.path.display())?;
        self.bytes = 0;
        self.job.durable(std::mem::take(&mut self.unsynced))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        if self.unsynced.is_empty() { Ok(()) } else { self.sync() }
    }
}

/// What is told when a destination does not hold what was written to it.
pub(super) fn not_what_was_written(name: &str, at: u64) -> Failure {
    Failure::new(format!("{name}: does not hold what was written: the byte at {at} differs"))
}

/// Compares a piece with a file.
pub(super) fn look_at(
    store: &FileExport,
    piece: &Piece,
    bytes: &mut Vec<u8>,
    job: &Job,
) -> io::Result<()> {
    if let Some(at) = look(store, piece, bytes, &job.differences)? {
        job.differs(at);
    }
    Ok(())
}

/// Compares a piece with what a file holds; returns the first byte that differs.
fn look(
    store: &FileExport,
    piece: &Piece,
    bytes: &mut Vec<u8>,
    differences: &Differences,
) -> io::Result<Option<u64>> {
    /// Looked at at a time, in bytes.
    const PART: usize = 256 << 10;
    let (mut at, end) = (piece.offset(), piece.offset() + piece.len());
    let mut first = None;
    while at < end {
        let length = (end - at).min(PART as u64) as usize;
        bytes.resize(length, 0);
        store.read_exact_at(bytes, at)?;
        let from = (at - piece.offset()) as usize;
        let found = match piece {
            Piece::Data { bytes: written, .. } => {
                differences.look(at, &written.as_ref()[from..from + length], bytes)
            }
            Piece::Zeroes { .. } if is_zero(bytes) => None,
            Piece::Zeroes { .. } => differences.look(at, &vec![0; length], bytes),
        };
        first = first.or(found);
        at += length as u64;
    }
    Ok(first)
}
