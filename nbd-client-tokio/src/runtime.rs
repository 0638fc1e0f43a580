//! What tokio does for a connection.

use std::any::Any;
use std::future::{self, Future};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_io::{AsyncRead, AsyncWrite};
use nbd_client_async::{Driver, OsSocket, Runtime, Sleep};
use nbd_transport::SocketIo;
use rustix::net::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

/// The tokio runtime in whose context a connection is made.
///
/// ```
/// use nbd_client_tokio::{Builder, Tokio};
///
/// // The same as `Builder::new()`.
/// let builder = Builder::on(Tokio);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokio;

impl Runtime for Tokio {
    fn spawn(&self, driver: Driver) -> io::Result<()> {
        Handle::try_current().map_err(io::Error::other)?.spawn(driver);
        Ok(())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        match Handle::try_current() {
            Ok(runtime) => {
                Box::pin(Timer { task: runtime.spawn(async move { sleep_until(at.into()).await }) })
            }
            Err(error) => Box::pin(future::ready(Err(io::Error::other(error)))),
        }
    }

    fn adopt(&self, socket: OwnedFd) -> io::Result<Box<dyn OsSocket>> {
        Handle::try_current().map_err(io::Error::other)?;
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let watched = catch_unwind(|| UnixStream::from_std(socket));
        let socket = watched.map_err(|panic| told(&*panic))??;
        Ok(Box::new(Watched { socket }))
    }
}

/// A timer that is a task: one that is polled by somebody else when its runtime has ended
/// would panic, and who connects may be in no task of that runtime.
struct Timer {
    task: JoinHandle<()>,
}

impl Future for Timer {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.task).poll(cx));
        Poll::Ready(result.map_err(|error| match error.try_into_panic() {
            Ok(panic) => told(&*panic),
            // The runtime has ended.
            Err(error) => io::Error::other(error),
        }))
    }
}

/// Tokio says by a panic alone what a runtime was built without.
fn told(panic: &(dyn Any + Send)) -> io::Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref().copied());
    io::Error::other(text.unwrap_or("the tokio runtime does not serve").to_owned())
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket with vectored calls that wait for nothing.
struct Watched {
    /// Of whatever family: only its readiness and its descriptor are used, and those
    /// all families have.
    socket: UnixStream,
}

impl Watched {
    fn read(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
        mut read: impl FnMut(SocketIo<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut short = None;
            let result = self.socket.try_io(Interest::READABLE, || {
                let n = read(SocketIo::non_blocking(self.socket.as_fd()))?;
                if n == 0 || n == wanted {
                    return Ok(n);
                }
                // A short read means that the socket was empty. Told so, tokio spares
                // the next call the trouble of finding that out.
                short = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            });
            match (result, short) {
                (_, Some(n)) => return Poll::Ready(Ok(n)),
                (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_read_ready(cx))?;
                }
                (result, None) => return Poll::Ready(result),
            }
        }
    }

    fn write(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(SocketIo<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let result = self
                .socket
                .try_io(Interest::WRITABLE, || write(SocketIo::non_blocking(self.socket.as_fd())));
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.read(cx, buf.len(), |mut io| io.read(buf))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
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
