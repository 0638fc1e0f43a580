//! The part that is wanted of what is read in whole blocks.

use std::io::{self, Write};
use std::ops::Range;

/// Passes on the bytes that are wanted.
pub(super) struct Window<W> {
    out: W,
    /// Bytes that come before the first that is wanted.
    skip: u64,
    /// Bytes that are wanted and have not come.
    left: u64,
}

impl<W: Write> Window<W> {
    /// `wanted` is the range that is passed on, of bytes that begin at the other number.
    pub(super) const fn new(out: W, wanted: (u64, Range<u64>)) -> Self {
        let (begin, range) = wanted;
        Self { out, skip: range.start - begin, left: range.end - range.start }
    }
}

impl<W: Write> Write for Window<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(buffer.len() as u64);
        let rest = buffer.get(skipped as usize..).unwrap_or_default();
        let taken = self.left.min(rest.len() as u64);
        self.out.write_all(rest.get(..taken as usize).unwrap_or_default())?;
        self.skip -= skipped;
        self.left -= taken;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_and_nothing_else() {
        let bytes: Vec<u8> = (0..100).collect();
        for part in [1, 7, 100] {
            let mut out = Vec::new();
            let mut window = Window::new(&mut out, (512, 520..530));
            for part in bytes.chunks(part) {
                window.write_all(part).unwrap();
            }
            assert_eq!(out, &bytes[8..18]);
        }
    }
}
