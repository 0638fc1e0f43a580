//! What is asked of a runtime.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use futures_channel::oneshot;
use futures_io::{AsyncRead, AsyncWrite};

use crate::into_stream::Duplex;

/// What serves a connection, until that is over.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A timer: ready once its time has come, or at once where the runtime has no timers.
pub type Sleep = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Something that may take its time.
pub type BlockingWork = Box<dyn FnOnce() + Send>;

/// One call to the system on a descriptor, which does not wait.
pub type IoCall<'a> = &'a mut dyn FnMut(BorrowedFd<'_>) -> io::Result<usize>;

/// A descriptor of the system's, and a runtime that tells when it is ready.
///
/// Both methods call `io` whenever the descriptor may be ready, until the outcome is anything
/// but [`WouldBlock`](io::ErrorKind::WouldBlock), which they return. When it would block, and
/// the runtime knows of nothing that has happened since the call began, they return
/// [`Poll::Pending`], and the task of `cx` is woken once it is worth another try.
///
/// ```
/// use nbd_client_async::{IoCall, Watched};
/// use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
/// use std::{io, task::{Context, Poll, ready}};
///
/// struct Mine(OwnedFd);
///
/// impl AsFd for Mine {
///     fn as_fd(&self) -> BorrowedFd<'_> {
///         self.0.as_fd()
///     }
/// }
///
/// impl Watched for Mine {
///     fn poll_read_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
///         loop {
///             match io(self.0.as_fd()) {
///                 Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
///                 result => return Poll::Ready(result),
///             }
///             ready!(readable(&self.0, cx))?;
///         }
///     }
///     fn poll_write_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
///         # let _ = (cx, io);
///         // The same with `writable`.
///         # Poll::Pending
///     }
/// }
/// # fn readable(_: &OwnedFd, _: &mut Context<'_>) -> Poll<io::Result<()>> { Poll::Pending }
/// ```
pub trait Watched: AsFd + Send + 'static {
    /// Calls `io` while the descriptor may be ready to be read.
    fn poll_read_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>>;

    /// Calls `io` while the descriptor may be ready to be written to. A socket that is being
    /// connected is so when that has come to an end.
    fn poll_write_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>>;
}

/// A runtime: it runs a task, tells the time, and says when a descriptor is ready.
///
/// ```
/// use nbd_client_async::{Runtime, Sleep, Task, Watched};
/// use std::{io, os::fd::OwnedFd, time::Instant};
///
/// #[derive(Clone)]
/// struct Mine;
///
/// impl Runtime for Mine {
///     fn spawn(&self, task: Task) -> io::Result<()> {
///         std::thread::spawn(move || block_on(task));
///         Ok(())
///     }
///     fn sleep_until(&self, at: Instant) -> Sleep {
///         Box::pin(timer(at))
///     }
///     fn watch(&self, descriptor: OwnedFd) -> io::Result<Box<dyn Watched>> {
///         Err(io::ErrorKind::Unsupported.into())
///     }
/// }
/// # fn block_on(_: Task) {}
/// # async fn timer(_: Instant) -> io::Result<()> { Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "connections cannot be served on `{Self}`",
    note = "`connect` of nbd-client-tokio, and those of the modules of nbd-client-futures, bring \
            theirs along; for another one implement `Runtime`"
)]
pub trait Runtime: Send + Sync + 'static {
    /// Starts a task that runs until it ends by itself: when the connection is over, or nobody
    /// holds it any more and the session has ended in good order. When the runtime drops it
    /// before, the connection is closed, and everybody who waits for it gets an error of the kind
    /// [`Stopped`](nbd_session::ErrorKind::Stopped).
    ///
    /// # Errors
    /// When there is no runtime to run it.
    fn spawn(&self, task: Task) -> io::Result<()>;

    /// Runs what may block, such as looking up a name or reading credentials, where that keeps
    /// no task waiting (default: in a thread of its own). What is dropped without having run
    /// is an error to whoever waits for it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    fn spawn_blocking(&self, work: BlockingWork) -> io::Result<()> {
        thread::Builder::new().name("nbd-blocking".to_owned()).spawn(work).map(drop)
    }

    /// A timer. It may be late but not early. When it fails, so does whatever has a timeout.
    fn sleep_until(&self, at: Instant) -> Sleep;

    /// Begins to watch a socket, which is in non-blocking mode or being connected. It is closed
    /// when what is returned is dropped.
    ///
    /// # Errors
    /// When there is no runtime to watch it, or the system refuses.
    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>>;

    /// Takes over a socket that is connected: how bytes are moved from now on (default: it is
    /// [watched](Self::watch)). It is closed when what is returned is dropped.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    fn adopt(&self, socket: OwnedFd) -> io::Result<Adopted> {
        self.watch(socket).map(Adopted::watched)
    }
}

/// A socket in the hands of a [`Runtime`]: see [`Runtime::adopt`].
pub struct Adopted(pub(crate) Held);

pub(crate) enum Held {
    Watched(Box<dyn Watched>),
    Stream(Box<dyn Duplex>),
}

impl Adopted {
    /// The runtime tells when it is ready; it is read from and written to without waiting.
    #[must_use]
    pub fn watched(socket: Box<dyn Watched>) -> Self {
        Self(Held::Watched(socket))
    }

    /// The runtime reads and writes by itself, as those do whose operations own their buffers
    /// until they are complete.
    #[must_use]
    pub fn stream(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Held::Stream(Box::new(stream)))
    }
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopted").finish_non_exhaustive()
    }
}

/// What comes of work that may block.
pub(crate) type Unblocked<T> = oneshot::Receiver<T>;

/// Has the runtime do what may block. The result is an error when it was not done: the runtime
/// has ended, or the work panicked.
pub(crate) fn unblock<T: Send + 'static>(
    runtime: &dyn Runtime,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Unblocked<T>> {
    let (tell, told) = oneshot::channel();
    runtime.spawn_blocking(Box::new(move || {
        // Nobody may be waiting any more.
        let _ = tell.send(work());
    }))?;
    Ok(told)
}
