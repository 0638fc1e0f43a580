//! Bytes that were received by other means than a stream.

use std::io::{self, ErrorKind, IoSliceMut, Read};

/// Bytes that have come already, as a stream that has nothing more to read for now, and is
/// never at its end: for transports that are told what to fill and tell when that is done.
///
/// ```
/// use nbd_session::Received;
/// use std::io::{ErrorKind, Read};
///
/// let mut received = Received::new(b"bytes");
/// let mut buffer = [0; 3];
/// assert_eq!(received.read(&mut buffer)?, 3);
/// assert_eq!(received.rest(), b"es");
/// assert_eq!(received.read(&mut buffer)?, 2);
/// assert_eq!(received.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Received<'a>(&'a [u8]);

impl<'a> Received<'a> {
    /// These bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Those that were not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl Read for Received<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && !buf.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.0.read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.0.read_vectored(bufs)
    }
}
