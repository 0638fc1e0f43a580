//! An export as a file: a position, bytes of any length, no alignment to mind.

use std::borrow::BorrowMut;
use std::io::{self, Read, Seek, SeekFrom, Write};

use nbd_session::file::{Blocks, seek};

use crate::client::Client;

/// [`Read`], [`Write`] and [`Seek`] on an export.
///
/// [`flush`](Write::flush) is the export's flush, where the server has one: it makes durable
/// all that was written over the connection. A write is accepted when the server has
/// acknowledged it, so dropping the file loses nothing that was accepted.
///
/// Ranges that do not fall on the export's minimum block size are read as whole blocks,
/// and written by reading the blocks around them first. Reading ends, and writing stops,
/// at the end of the export. Each call is at least one command: for many small ones wrap it in
/// a [`BufReader`](io::BufReader) or a [`BufWriter`](io::BufWriter).
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
        let blocks = around(client, offset, buf.len());
        let buf = buf.get_mut(..blocks.length()).unwrap_or_default();
        if blocks.is_partial() {
            self.bounce.resize(blocks.whole(), 0);
            client.read_exact_at(&mut self.bounce, blocks.start())?;
            buf.copy_from_slice(self.bounce.get(blocks.range()).unwrap_or_default());
        } else {
            client.read_exact_at(buf, offset)?;
        }
        Ok(blocks.length())
    }

    /// Writes at an offset, without moving the position; returns how much, which is less
    /// than given only at the end of the export or for very long buffers.
    ///
    /// # Errors
    /// When the export is read-only, the server fails the command or the connection
    /// fails.
    pub fn write_at(&mut self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let client = self.client.borrow_mut();
        let blocks = around(client, offset, buf.len());
        let buf = buf.get(..blocks.length()).unwrap_or_default();
        if blocks.is_partial() {
            self.bounce.resize(blocks.whole(), 0);
            client.read_exact_at(&mut self.bounce, blocks.start())?;
            if let Some(to) = self.bounce.get_mut(blocks.range()) {
                to.copy_from_slice(buf);
            }
            client.write_all_at(&self.bounce, blocks.start())?;
        } else {
            client.write_all_at(buf, offset)?;
        }
        Ok(blocks.length())
    }
}

/// Whole blocks around as much of a range as one command carries, and as the export holds.
fn around(client: &Client, offset: u64, length: usize) -> Blocks {
    Blocks::around(client.export(), client.session().max_request(), offset, length)
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
        self.position = seek(self.position, self.client.borrow().size(), to)?;
        Ok(self.position)
    }
}
