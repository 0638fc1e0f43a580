//! What is asked of a runtime.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::time::Instant;

use futures_io::{AsyncRead, AsyncWrite};

use crate::driver::Driver;

/// A timer: ready once its time has come, or at once where the runtime has no timers.
pub type Sleep = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A stream to a server, in the terms of futures-io. Every type that fits is one.
///
/// ```
/// fn boxed(stream: impl nbd_client_async::Socket) -> Box<dyn nbd_client_async::Socket> {
///     Box::new(stream)
/// }
/// ```
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// A [`Socket`] that is one of the system's: what it has to read can also be asked of its
/// descriptor. Every type that fits is one.
///
/// ```
/// fn boxed(stream: impl nbd_client_async::OsSocket) -> Box<dyn nbd_client_async::OsSocket> {
///     Box::new(stream)
/// }
/// ```
pub trait OsSocket: Socket + AsFd {}

impl<T: Socket + AsFd> OsSocket for T {}

/// A runtime: it runs a task, tells the time, and says when a socket is ready.
///
/// ```
/// use nbd_client_async::{Driver, OsSocket, Runtime, Sleep};
/// use std::{io, os::fd::OwnedFd, time::Instant};
///
/// #[derive(Clone)]
/// struct Mine;
///
/// impl Runtime for Mine {
///     fn spawn(&self, driver: Driver) -> io::Result<()> {
///         std::thread::spawn(move || block_on(driver));
///         Ok(())
///     }
///     fn sleep_until(&self, at: Instant) -> Sleep {
///         Box::pin(timer(at))
///     }
///     fn adopt(&self, socket: OwnedFd) -> io::Result<Box<dyn OsSocket>> {
///         Err(io::ErrorKind::Unsupported.into())
///     }
/// }
/// # fn block_on(_: Driver) {}
/// # async fn timer(_: Instant) -> io::Result<()> { Ok(()) }
/// ```
pub trait Runtime: Send + Sync + 'static {
    /// Starts a task that runs until it ends by itself. When the runtime drops it
    /// before, everybody who waits for the connection gets an error.
    ///
    /// # Errors
    /// When there is no runtime to run it.
    fn spawn(&self, driver: Driver) -> io::Result<()>;

    /// A timer. It may be late but not early. When it fails, so does whatever has a timeout.
    fn sleep_until(&self, at: Instant) -> Sleep;

    /// Makes a connected socket an asynchronous stream whose vectored reads and writes
    /// are real. The socket may be in blocking mode.
    ///
    /// # Errors
    /// When there is no runtime to watch it, or the system refuses.
    fn adopt(&self, socket: OwnedFd) -> io::Result<Box<dyn OsSocket>>;
}
