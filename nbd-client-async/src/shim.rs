//! A stream as `Read` and `Write`, for the length of a few calls: pending is would-block.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use nbd_transport::SocketIo;

use crate::runtime::{Runtime, Watched};
use crate::state::Stream;

/// A stream for the length of a few calls, made for one task.
///
/// It remembers which direction was tried and found pending: only that one has a waker
/// in store.
pub(crate) struct Shim<'a, 'c> {
    stream: &'a mut Stream,
    context: &'a mut Context<'c>,
    pub(crate) calls: u32,
    pub(crate) read_pending: bool,
    pub(crate) write_pending: bool,
}

impl<'a, 'c> Shim<'a, 'c> {
    pub(crate) fn new(stream: &'a mut Stream, context: &'a mut Context<'c>) -> Self {
        Self { stream, context, calls: 0, read_pending: false, write_pending: false }
    }

    fn settle(&mut self, poll: Poll<io::Result<usize>>) -> (bool, io::Result<usize>) {
        self.calls += 1;
        match poll {
            Poll::Pending => (true, Err(io::ErrorKind::WouldBlock.into())),
            Poll::Ready(Err(error)) => match error.kind() {
                // To be tried again, but not at once: one that never ends must not
                // hold the runtime up.
                io::ErrorKind::Interrupted => {
                    self.context.waker().wake_by_ref();
                    (true, Err(io::ErrorKind::WouldBlock.into()))
                }
                // No waker is in store: this would never go on.
                io::ErrorKind::WouldBlock => {
                    let text = "the stream would block but does not say until when";
                    (false, Err(io::Error::other(text)))
                }
                _ => (false, Err(error)),
            },
            Poll::Ready(done) => (false, done),
        }
    }

    fn have_read(&mut self, poll: Poll<io::Result<usize>>) -> io::Result<usize> {
        let (pending, result) = self.settle(poll);
        self.read_pending = pending;
        result
    }

    fn have_written(&mut self, poll: Poll<io::Result<usize>>) -> io::Result<usize> {
        let (pending, result) = self.settle(poll);
        self.write_pending = pending;
        result
    }
}

/// Reads once from a socket.
fn read_watched(
    socket: &mut dyn Watched,
    cx: &mut Context<'_>,
    wanted: usize,
    mut read: impl FnMut(SocketIo<'_>) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    let mut short = None;
    let poll = socket.poll_read_io(cx, &mut |fd| {
        if short.is_some() {
            // More has come meanwhile; it is for the next call.
            return Ok(0);
        }
        let n = read(SocketIo::non_blocking(fd))?;
        if n == 0 || n == wanted {
            return Ok(n);
        }
        // A short read means that the socket was empty. Told so, the runtime waits, and the
        // next call need not find that out.
        short = Some(n);
        Err(io::ErrorKind::WouldBlock.into())
    });
    short.map_or(poll, |n| Poll::Ready(Ok(n)))
}

impl Read for Shim<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let poll = match self.stream {
            Stream::Os(socket) => {
                read_watched(&mut **socket, self.context, buf.len(), |mut io| io.read(buf))
            }
            Stream::Any(stream) => Pin::new(&mut **stream).poll_read(self.context, buf),
        };
        self.have_read(poll)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let poll = match self.stream {
            Stream::Os(socket) => {
                let wanted = bufs.iter().map(|buf| buf.len()).sum();
                read_watched(&mut **socket, self.context, wanted, |mut io| io.read_vectored(bufs))
            }
            Stream::Any(stream) => Pin::new(&mut **stream).poll_read_vectored(self.context, bufs),
        };
        self.have_read(poll)
    }
}

impl Write for Shim<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let poll = match self.stream {
            Stream::Os(socket) => {
                socket.poll_write_io(self.context, &mut |fd| SocketIo::non_blocking(fd).write(buf))
            }
            Stream::Any(stream) => Pin::new(&mut **stream).poll_write(self.context, buf),
        };
        self.have_written(poll)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let poll = match self.stream {
            Stream::Os(socket) => socket.poll_write_io(self.context, &mut |fd| {
                SocketIo::non_blocking(fd).write_vectored(bufs)
            }),
            Stream::Any(stream) => Pin::new(&mut **stream).poll_write_vectored(self.context, bufs),
        };
        self.have_written(poll)
    }

    fn flush(&mut self) -> io::Result<()> {
        let poll = match self.stream {
            Stream::Os(_) => Poll::Ready(Ok(())),
            Stream::Any(stream) => Pin::new(&mut **stream).poll_flush(self.context),
        };
        let (pending, result) = self.settle(poll.map_ok(|()| 0));
        self.write_pending = pending;
        result.map(drop)
    }
}

/// Waits for `work` until `deadline`; `None` when that comes first, and an error where the
/// runtime knows no time.
pub(crate) async fn until<F: Future>(
    runtime: &dyn Runtime,
    deadline: Option<Instant>,
    work: F,
) -> io::Result<Option<F::Output>> {
    let mut timer = deadline.map(|at| runtime.sleep_until(at));
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(Some(done)));
        }
        match &mut timer {
            Some(timer) => timer.as_mut().poll(cx).map_ok(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}
