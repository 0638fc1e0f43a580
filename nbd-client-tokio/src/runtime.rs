//! What tokio does for a connection.

use std::any::Any;
use std::future::{self, Future};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use nbd_client_async::{BlockingWork, IoCall, Runtime, Sleep, Task, Watched};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

/// The tokio runtime in whose context a connection is made.
///
/// ```
/// use nbd_client_tokio::{ConnectOptions, Connector, Tokio};
///
/// // The same as `Connector::new(…)`.
/// let connector = Connector::on(Tokio, ConnectOptions::new());
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a name for a runtime: it holds nothing")]
pub struct Tokio;

impl Runtime for Tokio {
    fn spawn(&self, task: Task) -> io::Result<()> {
        Handle::try_current().map_err(io::Error::other)?.spawn(task);
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

    fn spawn_blocking(&self, work: BlockingWork) -> io::Result<()> {
        Handle::try_current().map_err(io::Error::other)?.spawn_blocking(work);
        Ok(())
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let socket = std::os::unix::net::UnixStream::from(socket);
        // Tokio demands it; no call here would wait.
        socket.set_nonblocking(true)?;
        let reading = register(&runtime, socket.into(), Interest::READABLE)?;
        Ok(Box::new(Descriptor { runtime, reading, writing: None }))
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

/// A socket that tokio watches: for something to read, always; for room, only from when there was
/// none until there is some. Whoever watches for that, too, is woken by a server that takes in a
/// request, as well as by its reply.
struct Descriptor {
    runtime: Handle,
    reading: AsyncFd<OwnedFd>,
    /// The same socket under another number: under one, it is watched once.
    writing: Option<AsyncFd<OwnedFd>>,
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for those that are no owners of their descriptor"
)]
fn register(runtime: &Handle, fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let _context = runtime.enter();
    catch_unwind(|| AsyncFd::with_interest(fd, interest)).map_err(|panic| told(&*panic))?
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reading.as_fd()
    }
}

impl Watched for Descriptor {
    fn poll_read_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.reading.poll_read_ready(cx))?;
            if let Ok(result) = ready.try_io(|fd| io(fd.as_fd())) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_write_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        loop {
            if let Some(writing) = &self.writing {
                let mut ready = ready!(writing.poll_write_ready(cx))?;
                if let Ok(result) = ready.try_io(|fd| io(fd.as_fd())) {
                    self.writing = None;
                    return Poll::Ready(result);
                }
                continue;
            }
            match io(self.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let fd = self.as_fd().try_clone_to_owned()?;
                    self.writing = Some(register(&self.runtime, fd, Interest::WRITABLE)?);
                }
                result => return Poll::Ready(result),
            }
        }
    }
}
