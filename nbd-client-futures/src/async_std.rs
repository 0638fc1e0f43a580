//! Connections on async-std.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nbd_client_async::{BlockingWork, Client, Driver, Error, Runtime, Sleep, Watched};

use crate::watched::{self, Descriptor};

/// The runtime of the crate `async-std`.
///
/// ```
/// use nbd_client_futures::async_std::{Builder, AsyncStd};
///
/// // The same as `Builder::new()`.
/// let builder = Builder::on(AsyncStd);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AsyncStd;

impl Runtime for AsyncStd {
    fn spawn(&self, driver: Driver) -> io::Result<()> {
        ::async_std::task::spawn(driver);
        Ok(())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        watched::sleep_until(at)
    }

    fn spawn_blocking(&self, work: BlockingWork) -> io::Result<()> {
        ::async_std::task::spawn_blocking(work);
        Ok(())
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        Ok(Box::new(Descriptor::new(socket)?))
    }
}

/// Settings of a connection, then the connection itself.
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_futures::Error> {
/// use nbd_client_futures::async_std::Builder;
///
/// let builder = Builder::new().timeout(std::time::Duration::from_secs(30));
/// let client = builder.connect_uri("nbd://localhost/disk").await?;
/// # Ok(()) }
/// ```
pub type Builder = nbd_client_async::Builder<AsyncStd>;

/// Connects to a URI with the defaults of [`Builder`].
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_futures::Error> {
/// let client = nbd_client_futures::async_std::connect("nbd://localhost/disk").await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the URI is malformed or forbidden, nobody answers, or the server refuses.
pub async fn connect(uri: &str) -> Result<Client, Error> {
    Builder::new().connect_uri(uri).await
}
