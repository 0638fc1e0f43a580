//! A socket whose operations own their buffers, as a stream.
//!
//! ```text
//!              empty buffers                            full ones
//!            ┌──────────────► task ── read ──┐        ┌───────────► task ── write ──────┐
//!   poll_read│                         kernel│  poll_write                        kernel│
//!            └─◄───────────── full ones ◄────┘        └─◄────────── empty ones ◄────────┘
//! ```
//!
//! compio's operations stay with their thread, and the stream may go anywhere. So each direction
//! has a task, which ends with the stream and takes its operation with it; its buffer stays with
//! the runtime until the kernel is done with it.
//!
//! A write counts when the kernel has taken it, and only for what it took: whoever writes learns
//! from that whether the other end lives. Until then the same bytes are to be offered again.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use compio::BufResult;
use compio::io::{AsyncRead as _, AsyncWrite as _};
use compio::net::UnixStream;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_channel::oneshot;
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::StreamExt;
use futures_util::future::{Either, select};

use crate::thread::spawn;

/// As many bytes are under way in one operation.
const ROOM: usize = 64 << 10;

/// A buffer on its way back from the kernel, and how many bytes of it were moved.
type Outcome = io::Result<(usize, Vec<u8>)>;

/// What its owner has of a direction.
struct Lane {
    /// Buffers that are to be read into, or written.
    begin: UnboundedSender<Vec<u8>>,
    done: UnboundedReceiver<Outcome>,
    /// An operation is under way.
    busy: bool,
    /// Both tasks end when this is dropped.
    _alive: oneshot::Sender<()>,
}

/// What its task has of it.
struct Work {
    begin: UnboundedReceiver<Vec<u8>>,
    done: UnboundedSender<Outcome>,
    ended: oneshot::Receiver<()>,
}

/// A connected socket. One operation is under way in each direction at most, so that the
/// channels hold no more than one buffer.
pub(crate) struct Stream {
    reads: Lane,
    /// Bytes that have come, and how many of them were taken.
    came: Vec<u8>,
    taken: usize,
    writes: Lane,
    /// For what is to be sent next.
    spare: Vec<u8>,
}

impl Stream {
    /// Takes over a socket, of whatever family: nothing but its descriptor is used.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        let ends = socket.try_clone()?;
        let stream = Rc::new(UnixStream::from_std(socket)?);
        let (reads, work) = Lane::new();
        spawn(work.read(Rc::clone(&stream)))?;
        let (writes, work) = Lane::new();
        spawn(work.write(stream, ends))?;
        let (came, spare) = (Vec::new(), Vec::new());
        Ok(Self { reads, came, taken: 0, writes, spare })
    }
}

impl Lane {
    fn new() -> (Self, Work) {
        let (begin, begun) = unbounded();
        let (done, told) = unbounded();
        let (alive, ended) = oneshot::channel();
        let work = Work { begin: begun, done, ended };
        (Self { begin, done: told, busy: false, _alive: alive }, work)
    }

    fn begin(&mut self, buffer: Vec<u8>) -> io::Result<()> {
        self.busy = true;
        self.begin.unbounded_send(buffer).map_err(|_| io::Error::from(ErrorKind::BrokenPipe))
    }

    /// The buffer of the operation under way, when that is complete.
    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let done = ready!(self.done.poll_next_unpin(cx));
        self.busy = false;
        // The runtime has ended.
        Poll::Ready(done.unwrap_or_else(|| Err(ErrorKind::BrokenPipe.into())))
    }
}

impl Work {
    async fn read(mut self, stream: Rc<UnixStream>) {
        while let Some(buffer) = self.begin.next().await {
            let read = Box::pin(async { (&*stream).read(buffer).await });
            let Either::Left((BufResult(result, buffer), _)) = select(read, &mut self.ended).await
            else {
                return;
            };
            // Its owner may have gone meanwhile.
            let _ = self.done.unbounded_send(result.map(|count| (count, buffer)));
        }
    }

    async fn write(mut self, stream: Rc<UnixStream>, ends: Socket) {
        while let Some(buffer) = self.begin.next().await {
            let write = Box::pin(async { (&*stream).write(buffer).await });
            let Either::Left((BufResult(result, buffer), _)) = select(write, &mut self.ended).await
            else {
                return;
            };
            let _ = self.done.unbounded_send(result.map(|count| (count, buffer)));
        }
        // A peer that is gone already is no loss.
        let _ = ends.shutdown(Shutdown::Write);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.taken == this.came.len() {
            if !this.reads.busy {
                let mut buffer = std::mem::take(&mut this.came);
                buffer.clear();
                buffer.reserve(ROOM);
                this.taken = 0;
                this.reads.begin(buffer)?;
            }
            (_, this.came) = ready!(this.reads.poll_done(cx))?;
        }
        let rest = this.came.get(this.taken..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        this.taken += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.writes.busy {
            let mut buffer = std::mem::take(&mut self.spare);
            buffer.clear();
            buffer.extend_from_slice(buf.get(..ROOM).unwrap_or(buf));
            self.writes.begin(buffer)?;
        }
        let (count, buffer) = ready!(self.writes.poll_done(cx))?;
        self.spare = buffer;
        Poll::Ready(Ok(count))
    }

    /// Nothing is kept back: what was not taken was not written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.begin.close_channel();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use compio::driver::{DriverType, ProactorBuilder};
    use compio::runtime::Runtime;

    use super::*;

    /// What came of a write, if the runtime gets so far without waiting.
    async fn write(stream: &mut Stream, bytes: &[u8]) -> Option<usize> {
        for _ in 0..50 {
            let poll = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, bytes)));
            if let Poll::Ready(result) = poll.await {
                return Some(result.expect("the other end is there"));
            }
            compio::runtime::spawn(async {}).await.expect("it does not panic");
        }
        None
    }

    #[test]
    fn a_write_counts_when_the_kernel_has_taken_it() {
        let mut polling = ProactorBuilder::new();
        polling.driver_type(DriverType::Poll);
        let polling = Runtime::builder().with_proactor(polling).build();
        for runtime in [Runtime::new(), polling] {
            runtime.expect("a runtime").block_on(async {
                let (near, far) = Socket::pair().expect("a pair of sockets");
                let mut stream = Stream::new(near.into()).expect("there is a runtime");
                let mut taken = 0;
                while let Some(count) = write(&mut stream, &[7; ROOM]).await {
                    taken += count as u64;
                }
                assert!(taken > ROOM as u64, "{taken}");
                assert_eq!(rustix::io::ioctl_fionread(&far), Ok(taken));
            });
        }
    }
}
