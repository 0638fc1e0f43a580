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
use tokio::net::UnixStream;
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
        Handle::try_current().map_err(io::Error::other)?;
        let socket = std::os::unix::net::UnixStream::from(socket);
        // Tokio demands it; no call here would wait.
        socket.set_nonblocking(true)?;
        let watched = catch_unwind(|| UnixStream::from_std(socket));
        Ok(Box::new(Descriptor(watched.map_err(|panic| told(&*panic))??)))
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

/// A socket that tokio watches, of whatever family: only its readiness and its descriptor are
/// used, and those all families have.
struct Descriptor(UnixStream);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watched for Descriptor {
    fn poll_read_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        loop {
            let result = self.0.try_io(Interest::READABLE, || io(self.0.as_fd()));
            if !would_block(&result) {
                return Poll::Ready(result);
            }
            ready!(self.0.poll_read_ready(cx))?;
        }
    }

    fn poll_write_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        loop {
            let result = self.0.try_io(Interest::WRITABLE, || io(self.0.as_fd()));
            if !would_block(&result) {
                return Poll::Ready(result);
            }
            ready!(self.0.poll_write_ready(cx))?;
        }
    }
}

fn would_block(result: &io::Result<usize>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
