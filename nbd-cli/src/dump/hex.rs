//! Lines of sixteen bytes, as hexdump -C prints them.

use std::io::{self, Write};
use std::ops::Range;

/// Bytes in a line.
const WIDTH: usize = 16;

const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// Takes bytes in order and writes lines. Of lines that are equal the first is written, then
/// `*`, and the last one of all always.
pub(super) struct HexDump<W> {
    out: W,
    color: bool,
    /// Bytes that come before the first that is wanted.
    skip: u64,
    /// Bytes that are wanted and have not come.
    left: u64,
    /// Where the line under way begins.
    offset: u64,
    line: Vec<u8>,
    /// The last whole line.
    before: Option<[u8; WIDTH]>,
    starred: bool,
}

impl<W: Write> HexDump<W> {
    /// `wanted` is the range that is written, of bytes that begin at a multiple of a block.
    pub(super) fn new(out: W, wanted: (u64, Range<u64>), color: bool) -> Self {
        let (begin, range) = wanted;
        Self {
            out,
            color,
            skip: range.start - begin,
            left: range.end - range.start,
            offset: range.start,
            line: Vec::with_capacity(WIDTH),
            before: None,
            starred: false,
        }
    }

    fn whole(&mut self, line: [u8; WIDTH]) -> io::Result<()> {
        if self.before != Some(line) || self.left == 0 {
            self.starred = false;
            self.print(&line)?;
            self.before = Some(line);
        } else if !self.starred {
            self.out.write_all(b"*\n")?;
            self.starred = true;
        }
        self.offset += WIDTH as u64;
        Ok(())
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut text = format!("{:010x}: ", self.offset);
        for i in 0..WIDTH {
            if i == WIDTH / 2 {
                text.push(' ');
            }
            match bytes.get(i) {
                Some(byte) => self.colored(&mut text, *byte, &format!("{byte:02x}")),
                None => text.push_str("  "),
            }
            text.push(' ');
        }
        text.push('|');
        for i in 0..WIDTH {
            match bytes.get(i) {
                Some(byte @ b' '..=b'~') => {
                    self.colored(&mut text, *byte, &char::from(*byte).to_string());
                }
                Some(byte) => self.colored(&mut text, *byte, "."),
                None => text.push(' '),
            }
        }
        text.push_str("|\n");
        self.out.write_all(text.as_bytes())
    }

    /// Zeroes stand back, text stands out.
    fn colored(&self, text: &mut String, byte: u8, shown: &str) {
        let color = match byte {
            0 => DIM,
            b' '..=b'~' => GREEN,
            _ => "",
        };
        if self.color && !color.is_empty() {
            text.extend([color, shown, PLAIN]);
        } else {
            text.push_str(shown);
        }
    }
}

impl<W: Write> Write for HexDump<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(buffer.len() as u64);
        self.skip -= skipped;
        let mut rest = buffer.get(skipped as usize..).unwrap_or_default();
        while !rest.is_empty() && self.left > 0 {
            let room = (WIDTH - self.line.len()).min(rest.len());
            let taken = usize::try_from(self.left).map_or(room, |left| left.min(room));
            let (bytes, after) = rest.split_at(taken);
            self.line.extend_from_slice(bytes);
            (rest, self.left) = (after, self.left - taken as u64);
            if let Ok(line) = <[u8; WIDTH]>::try_from(self.line.as_slice()) {
                self.line.clear();
                self.whole(line)?;
            } else if self.left == 0 {
                let line = std::mem::take(&mut self.line);
                self.print(&line)?;
            }
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(bytes: &[u8], begin: u64, range: Range<u64>) -> String {
        let mut out = Vec::new();
        let mut hex = HexDump::new(&mut out, (begin, range), false);
        for part in bytes.chunks(7) {
            hex.write_all(part).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_that_are_equal_are_left_out() {
        let zero = "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00 |................|";
        assert_eq!(dump(&[0; 16], 0, 0..16), format!("0000000000: {zero}\n"));
        let two = format!("0000000000: {zero}\n0000000010: {zero}\n");
        assert_eq!(dump(&[0; 32], 0, 0..32), two);
        let many = format!("0000000000: {zero}\n*\n0000000030: {zero}\n");
        assert_eq!(dump(&[0; 64], 0, 0..64), many);
    }

    #[test]
    fn the_end_and_the_start_may_lie_anywhere() {
        let bytes: Vec<u8> = (0..64).collect();
        let line =
            "0000000003: 03 04 05                                         |...             |\n";
        assert_eq!(dump(&bytes, 0, 3..6), line);
        assert_eq!(dump(&bytes, 0, 0..0), "");
        let text = dump(b"0123456789abcdefXYZ", 512, 512..531);
        assert!(
            text.ends_with(
                "0000000210: 58 59 5a                                         |XYZ             |\n"
            ),
            "{text}"
        );
    }
}
