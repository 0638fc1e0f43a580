//! What smol and async-std have in common: the reactor of async-io.

/// Makes the items of a runtime's module: which one it is, how it runs a task, and work that
/// blocks.
macro_rules! runtime {
    ($(#[$docs:meta])* $runtime:ident in $path:literal, $spawn:expr, $spawn_blocking:expr) => {
        $(#[$docs])*
        ///
        /// ```
        /// use nbd_client_futures::ConnectOptions;
        #[doc = concat!("use ", $path, "::{Connector, ", stringify!($runtime), "};")]
        ///
        /// // The same as `Connector::new(…)`.
        #[doc = concat!("let connector = Connector::on(", stringify!($runtime), ", ConnectOptions::new());")]
        /// ```
        #[derive(Clone, Copy, Debug, Default)]
        #[expect(clippy::exhaustive_structs, reason = "a name for a runtime: it holds nothing")]
        pub struct $runtime;

        impl nbd_client_async::Runtime for $runtime {
            fn spawn(&self, task: nbd_client_async::Task) -> std::io::Result<()> {
                $spawn(task);
                Ok(())
            }

            fn sleep_until(&self, at: std::time::Instant) -> nbd_client_async::Sleep {
                crate::watched::sleep_until(at)
            }

            fn spawn_blocking(&self, work: nbd_client_async::BlockingWork) -> std::io::Result<()> {
                $spawn_blocking(work);
                Ok(())
            }

            fn watch(
                &self,
                socket: std::os::fd::OwnedFd,
            ) -> std::io::Result<Box<dyn nbd_client_async::Watched>> {
                Ok(Box::new(crate::watched::Descriptor::new(socket)?))
            }
        }

        nbd_client_async::entry_points!($runtime, $path, "nbd_client_futures");
    };
}

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::{Async, Timer};
use nbd_client_async::{IoCall, Sleep, Watched};

pub(crate) fn sleep_until(at: Instant) -> Sleep {
    Box::pin(async move {
        Timer::at(at).await;
        Ok(())
    })
}

/// A descriptor that async-io watches.
pub(crate) struct Descriptor {
    watched: Async<OwnedFd>,
    /// The last call found that it is not ready, and it has not become so since.
    read_waits: bool,
    write_waits: bool,
}

impl Descriptor {
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let watched = Async::new_nonblocking(descriptor)?;
        Ok(Self { watched, read_waits: false, write_waits: false })
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}

impl Watched for Descriptor {
    fn poll_read_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        loop {
            if self.read_waits {
                ready!(self.watched.poll_readable(cx))?;
                self.read_waits = false;
            }
            match io(self.watched.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.read_waits = true,
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        loop {
            if self.write_waits {
                ready!(self.watched.poll_writable(cx))?;
                self.write_waits = false;
            }
            match io(self.watched.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.write_waits = true,
                result => return Poll::Ready(result),
            }
        }
    }
}

pub(crate) use runtime;
