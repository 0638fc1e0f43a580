//! The bytes between a client and what serves it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};

/// A stream, seen from the server. Nothing of it ever waits.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) to_server: VecDeque<u8>,
    pub(super) to_client: VecDeque<u8>,
    /// Most bytes that wait for the client.
    pub(super) room: usize,
    /// The client has left.
    pub(super) ended: bool,
}

impl Wire {
    pub(super) fn is_readable(&self) -> bool {
        self.ended || !self.to_server.is_empty()
    }

    pub(super) fn is_writable(&self) -> bool {
        self.ended || self.to_client.len() < self.room
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.to_server.is_empty() {
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let mut moved = 0;
        for buf in bufs {
            // Less than there is, where the queue goes round its end.
            let n = self.to_server.read(buf)?;
            moved += n;
            if n < buf.len() {
                break;
            }
        }
        Ok(moved)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let before = self.to_client.len();
        for buf in bufs {
            let room = self.room.saturating_sub(self.to_client.len());
            self.to_client.extend(&buf[..buf.len().min(room)]);
        }
        match self.to_client.len() - before {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            moved => Ok(moved),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
