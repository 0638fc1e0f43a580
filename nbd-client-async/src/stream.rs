//! A socket as `Read` and `Write`, for the length of a few calls: pending is would-block.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::task::{Context, Poll};

use nbd_transport::SocketIo;

use crate::runtime::Watched;

/// A socket for the length of a few calls, made for one task.
///
/// It remembers which direction was found not to be ready: only that one has a waker in store.
pub(crate) struct WatchedIo<'a, 'c> {
    socket: &'a mut dyn Watched,
    context: &'a mut Context<'c>,
    pub(crate) read_pending: bool,
    pub(crate) write_pending: bool,
}

impl<'a, 'c> WatchedIo<'a, 'c> {
    pub(crate) fn new(socket: &'a mut dyn Watched, context: &'a mut Context<'c>) -> Self {
        Self { socket, context, read_pending: false, write_pending: false }
    }

    fn receive(
        &mut self,
        wanted: usize,
        mut read: impl FnMut(SocketIo<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut short = None;
        let poll = self.socket.poll_read_io(self.context, &mut |fd| {
            if short.is_some() {
                // More has come meanwhile; it is for the next call.
                return Ok(0);
            }
            let n = read(SocketIo::non_blocking(fd))?;
            if n == 0 || n == wanted {
                return Ok(n);
            }
            // A short read means that the socket was empty. Told so, the runtime waits, and
            // the next call need not find that out.
            short = Some(n);
            Err(ErrorKind::WouldBlock.into())
        });
        self.read_pending = poll.is_pending();
        match (short, poll) {
            (Some(n), _) => Ok(n),
            (None, Poll::Ready(result)) => result,
            (None, Poll::Pending) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn send(
        &mut self,
        mut write: impl FnMut(SocketIo<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let poll =
            self.socket.poll_write_io(self.context, &mut |fd| write(SocketIo::non_blocking(fd)));
        self.write_pending = poll.is_pending();
        match poll {
            Poll::Ready(result) => result,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Read for WatchedIo<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(buf.len(), |mut io| io.read(buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        self.receive(wanted, |mut io| io.read_vectored(bufs))
    }
}

impl Write for WatchedIo<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send(|mut io| io.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(|mut io| io.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
