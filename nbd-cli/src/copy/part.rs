//! Which part of the source goes where.

use std::ops::Range;

use crate::failure::{Failure, Result};

/// What of the source is copied, and to where.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// In bytes of the source; empty where its size is not known.
    pub(super) range: Range<u64>,
    /// Where the first of them goes.
    pub(super) to: u64,
}

/// A part as it is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// In bytes of the source.
    pub(super) offset: Option<u64>,
    pub(super) length: Option<u64>,
    /// In bytes of the destination.
    pub(super) to: Option<u64>,
}

impl Asked {
    /// Whether it may be less than all of both.
    pub(super) const fn is_part(&self) -> bool {
        self.offset.is_some() || self.length.is_some() || self.to.is_some()
    }

    /// The part of a source of this size.
    pub(super) fn of(&self, size: Option<u64>) -> Result<Part> {
        let (offset, to) = (self.offset.unwrap_or(0), self.to.unwrap_or(0));
        let Some(size) = size else {
            if self.offset.is_some() || self.length.is_some() {
                return Err(Failure::new(
                    "--offset and --length need a source whose size is known",
                ));
            }
            return Ok(Part { range: 0..0, to });
        };
        if offset > size {
            return Err(Failure::new(format!("--offset is beyond the {size} bytes of the source")));
        }
        let length = self.length.unwrap_or(size - offset);
        if length > size - offset {
            return Err(Failure::new(format!(
                "--length is too much: from there the source has {} bytes",
                size - offset
            )));
        }
        // No file and no export is longer than this.
        if to.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Failure::new("--destination-offset is too large"));
        }
        Ok(Part { range: offset..offset + length, to })
    }
}

impl Part {
    /// Where it ends in the destination.
    pub(super) const fn end(&self) -> u64 {
        self.to + (self.range.end - self.range.start)
    }

    /// Where a byte of the source goes.
    pub(super) const fn there(&self, offset: u64) -> u64 {
        offset - self.range.start + self.to
    }

    /// Where a range of the destination comes from.
    pub(super) const fn here(&self, range: &Range<u64>) -> Range<u64> {
        range.start - self.to + self.range.start..range.end - self.to + self.range.start
    }

    /// Makes sure that both ends are read and written in whole blocks.
    pub(super) fn check(&self, block: u64) -> Result<()> {
        if block < 2 {
            return Ok(());
        }
        if !self.range.start.is_multiple_of(block) || !self.to.is_multiple_of(block) {
            return Err(Failure::new(format!(
                "--offset and --destination-offset must be multiples of {block} bytes here"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let part = Asked { offset: Some(10), length: Some(5), to: Some(100) }.of(Some(20)).unwrap();
        assert_eq!((part.range.clone(), part.end()), (10..15, 105));
        assert_eq!((part.there(12), part.here(&(102..105))), (102, 12..15));
        assert!(part.check(1).is_ok() && part.check(5).is_ok() && part.check(4).is_err());
    }

    #[test]
    fn what_is_not_there() {
        let asked = |offset, length, to| Asked { offset, length, to };
        assert!(asked(Some(21), None, None).of(Some(20)).is_err());
        assert!(asked(Some(20), Some(1), None).of(Some(20)).is_err());
        assert!(asked(None, None, Some(u64::MAX)).of(Some(20)).is_err());
        assert!(asked(Some(0), None, None).of(None).is_err());
        assert_eq!(asked(None, None, Some(7)).of(None).unwrap().end(), 7);
        assert_eq!(asked(Some(20), None, None).of(Some(20)).unwrap().range, 20..20);
    }
}
