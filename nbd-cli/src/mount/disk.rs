//! What reading and writing the file does to the export.
//!
//! A file takes any range. Where the server takes whole blocks only, the blocks at the ends of a
//! range are read and written back, with nobody else writing meanwhile.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use nbd_client_blocking::proto::{CommandFlags, ExportInfo, Extent, TransmissionFlags};
use nbd_client_blocking::{Error, Pool};

/// The longest range zeroed or asked about at once, in bytes: a multiple of any block.
const LONGEST: u64 = 1 << 30;

/// What is written where the server cannot zero.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// An export, as bytes.
#[derive(Debug)]
pub(super) struct Disk {
    pool: Pool,
    size: u64,
    block: u64,
    flags: TransmissionFlags,
    knows_holes: bool,
    /// Held for itself by whoever reads a block and writes it back, and shared by all others who
    /// write.
    whole_blocks: RwLock<()>,
}

impl Disk {
    pub(super) fn new(pool: Pool, read_only: bool) -> Result<Self, Error> {
        let facts = pool.negotiated();
        let nothing = || Error::from(std::io::Error::from(std::io::ErrorKind::NotFound));
        let export: ExportInfo = facts.export.clone().ok_or_else(nothing)?;
        let (mut flags, knows_holes) = (export.flags, !facts.contexts.is_empty());
        flags.set(
            TransmissionFlags::READ_ONLY,
            read_only || flags.contains(TransmissionFlags::READ_ONLY),
        );
        let block = u64::from(export.minimum_block()).max(1);
        let whole_blocks = RwLock::new(());
        Ok(Self { pool, size: export.size, block, flags, knows_holes, whole_blocks })
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) const fn is_read_only(&self) -> bool {
        self.flags.contains(TransmissionFlags::READ_ONLY)
    }

    /// The bytes of a range, as far as it lies within the export.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let end = self.size.min(offset.saturating_add(length as u64));
        if offset >= end {
            return Ok(Vec::new());
        }
        let blocks = self.blocks(offset..end);
        let mut bytes = vec![0; (blocks.end - blocks.start) as usize];
        self.pool.read_exact_at(&mut bytes, blocks.start)?;
        bytes.truncate((end - blocks.start) as usize);
        bytes.drain(..(offset - blocks.start) as usize);
        Ok(bytes)
    }

    /// Writes bytes within the export.
    pub(super) fn write(&self, data: &[u8], offset: u64) -> Result<(), Error> {
        let range = offset..offset + data.len() as u64;
        let blocks = self.blocks(range.clone());
        if blocks == range {
            let _shared = self.whole_blocks.read().unwrap_or_else(PoisonError::into_inner);
            return self.pool.write_all_at(data, offset);
        }
        let _alone = self.whole_blocks.write().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; (blocks.end - blocks.start) as usize];
        self.pool.read_exact_at(&mut bytes, blocks.start)?;
        let at = (range.start - blocks.start) as usize;
        bytes[at..at + data.len()].copy_from_slice(data);
        self.pool.write_all_at(&bytes, blocks.start)
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
        let _shared = self.whole_blocks.read().unwrap_or_else(PoisonError::into_inner);
        while at < end {
            let length = (end - at).min(LONGEST);
            self.pool.write_zeroes(at, length, flags)?;
            at += length;
        }
        Ok(())
    }

    fn write_zeroes(&self, mut range: Range<u64>) -> Result<(), Error> {
        while range.start < range.end {
            let length = (range.end - range.start).min(ZEROES.len() as u64);
            self.write(&ZEROES[..length as usize], range.start)?;
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
                true => self.pool.block_status(at, length, CommandFlags::empty())?,
                false => Vec::new(),
            };
            let before = at;
            for (_, Extent { length, status }) in extents {
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

    /// Makes everything durable that was written.
    pub(super) fn flush(&self) -> Result<(), Error> {
        match self.flags.contains(TransmissionFlags::SEND_FLUSH) {
            true => self.pool.flush(),
            false => Ok(()),
        }
    }

    pub(super) fn disconnect(self) -> Result<(), Error> {
        self.pool.disconnect()
    }

    /// The whole blocks around a range.
    fn blocks(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.checked_next_multiple_of(self.block).unwrap_or(range.end);
        range.start - range.start % self.block..end.min(self.size)
    }
}
