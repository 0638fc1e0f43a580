//! What smol and async-std have in common: the reactor of async-io.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::{Async, Timer};
use futures_io::{AsyncRead, AsyncWrite};
use nbd_client_async::Sleep;
use nbd_transport::SocketIo;
use rustix::net::{Shutdown, shutdown};

pub(crate) fn sleep_until(at: Instant) -> Sleep {
    Box::pin(async move {
        Timer::at(at).await;
        Ok(())
    })
}

/// A socket of any family, with vectored calls that wait for nothing.
pub(crate) struct Watched {
    socket: Async<OwnedFd>,
    /// The last read found less than it asked for.
    drained: bool,
}

impl Watched {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            // Its mode does not matter: no call of ours waits.
            socket: Async::new_nonblocking(socket)?,
            drained: false,
        })
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        mut read: impl FnMut(SocketIo<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.drained {
                ready!(self.socket.poll_readable(cx))?;
                self.drained = false;
            }
            match read(SocketIo::non_blocking(self.socket.as_fd())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                result => {
                    // A short read means that the socket was empty; the next call need
                    // not find that out.
                    self.drained = matches!(result, Ok(n) if n > 0 && n < wanted);
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn write(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(SocketIo<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(SocketIo::non_blocking(self.socket.as_fd())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            ready!(self.socket.poll_writable(cx))?;
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.read(cx, buf.len(), |mut io| io.read(buf))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        self.read(cx, wanted, |mut io| io.read_vectored(bufs))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |mut io| io.write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |mut io| io.write_vectored(bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&self.socket, Shutdown::Write)?))
    }
}
