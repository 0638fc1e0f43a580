//! An export as a file: a position, bytes of any length, no alignment to mind.

use std::borrow::BorrowMut;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::client::Client;

/// [`Read`], [`Write`] and [`Seek`] on an export.
///
/// Ranges that do not fall on the export's minimum block size are read as whole blocks,
/// and written by reading the blocks around them first. Reading ends, and writing stops,
/// at the end of the export; [`flush`](Write::flush) is the export's flush, where the
/// server has one.
///
/// ```no_run
/// use nbd_client_blocking::{Client, ExportFile};
/// use std::io::{Read, Seek, SeekFrom};
///
/// let mut file = ExportFile::new(Client::connect("nbd://localhost")?);
/// let mut signature = [0; 2];
/// file.seek(SeekFrom::Start(510))?;
/// file.read_exact(&mut signature)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ExportFile<C: BorrowMut<Client>> {
    client: C,
    position: u64,
    /// Whole blocks around an unaligned range.
    bounce: Vec<u8>,
}

impl<C: BorrowMut<Client>> ExportFile<C> {
    /// A view that starts at offset 0. Takes a client or a `&mut` of one.
    #[must_use]
    pub const fn new(client: C) -> Self {
        Self { client, position: 0, bounce: Vec::new() }
    }

    /// The client back.
    #[must_use]
    pub fn into_inner(self) -> C {
        self.client
    }

    /// Reads at an offset, without moving the position; returns how much, which is less
    /// than asked for only at the end of the export or for very long buffers.
    ///
    /// # Errors
    /// When the server fails the command or the connection fails.
    pub fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let client = self.client.borrow_mut();
        let length = clamp(client, offset, buf.len());
        let buf = buf.get_mut(..length).unwrap_or_default();
        match Blocks::around(client, offset, length) {
            None => client.read_exact_at(buf, offset)?,
            Some(blocks) => {
                self.bounce.resize(blocks.length, 0);
                client.read_exact_at(&mut self.bounce, blocks.start)?;
                let from = self.bounce.get(blocks.skip..blocks.skip + length).unwrap_or_default();
                buf.copy_from_slice(from);
            }
        }
        Ok(length)
    }

    /// Writes at an offset, without moving the position; returns how much, which is less
    /// than given only at the end of the export or for very long buffers.
    ///
    /// # Errors
    /// When the export is read-only, the server fails the command or the connection
    /// fails.
    pub fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let client = self.client.borrow_mut();
        let length = clamp(client, offset, buf.len());
        let buf = buf.get(..length).unwrap_or_default();
        match Blocks::around(client, offset, length) {
            None => client.write_all_at(buf, offset)?,
            Some(blocks) => {
                self.bounce.resize(blocks.length, 0);
                client.read_exact_at(&mut self.bounce, blocks.start)?;
                if let Some(to) = self.bounce.get_mut(blocks.skip..blocks.skip + length) {
                    to.copy_from_slice(buf);
                }
                client.write_all_at(&self.bounce, blocks.start)?;
            }
        }
        Ok(length)
    }
}

/// At most as much as one command carries, and as the export holds.
fn clamp(client: &Client, offset: u64, length: usize) -> usize {
    let room = client.size().saturating_sub(offset);
    let block = client.export().minimum_block() as usize;
    // Room for the blocks around an unaligned range.
    let max = client.session().max_request().saturating_sub(2 * block).max(block);
    length.min(max).min(usize::try_from(room).unwrap_or(usize::MAX))
}

/// Whole blocks around a range.
struct Blocks {
    start: u64,
    length: usize,
    /// Bytes before the range.
    skip: usize,
}

impl Blocks {
    /// `None` when the range is whole blocks already.
    fn around(client: &Client, offset: u64, length: usize) -> Option<Self> {
        let block = u64::from(client.export().minimum_block());
        let skip = offset % block;
        let start = offset - skip;
        let whole = (skip + length as u64).next_multiple_of(block);
        // The tail of an export that is no multiple of its own block size cannot be
        // asked for in whole blocks.
        let whole = whole.min(client.size().saturating_sub(start));
        if length == 0 || (skip == 0 && whole == length as u64) {
            return None;
        }
        Some(Self { start, length: whole as usize, skip: skip as usize })
    }
}

impl<C: BorrowMut<Client>> Read for ExportFile<C> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.read_at(buf, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl<C: BorrowMut<Client>> Write for ExportFile<C> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.write_at(buf, self.position)?;
        self.position += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        let client = self.client.borrow_mut();
        if client.flags().contains(nbd_proto::TransmissionFlags::SEND_FLUSH) {
            client.flush()?;
        }
        Ok(())
    }
}

impl<C: BorrowMut<Client>> Seek for ExportFile<C> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.client.borrow().size().checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek to a negative position")
        })?;
        Ok(self.position)
    }
}
