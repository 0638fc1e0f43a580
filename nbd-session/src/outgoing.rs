//! Bytes that are sent by other means than a stream.

use std::io::{self, ErrorKind, IoSlice, Write};

/// Bytes on their way out, as a stream that takes so many and no more until they have been sent:
/// for transports that are handed what to send and tell how much of it has gone. The counterpart
/// of [`Received`](crate::Received).
///
/// ```
/// use nbd_session::Outgoing;
/// use std::io::Write;
///
/// let mut outgoing = Outgoing::new(4);
/// assert_eq!(outgoing.write(b"bytes")?, 4);
/// assert!(outgoing.write(b"s").is_err(), "it would block");
/// outgoing.sent(3);
/// assert_eq!(outgoing.rest(), b"e");
/// outgoing.sent(1);
/// assert!(outgoing.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    room: usize,
}

impl Outgoing {
    /// Takes up to so many bytes.
    #[must_use]
    pub const fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), sent: 0, room }
    }

    /// What is to be sent.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Whether all has been sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// So many bytes have gone. There is room again once all have.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets what was not sent.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}

impl Write for Outgoing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let before = self.bytes.len();
        for buf in bufs {
            let room = self.room.saturating_sub(self.bytes.len());
            self.bytes.extend_from_slice(buf.get(..room).unwrap_or(buf));
        }
        match self.bytes.len() - before {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
