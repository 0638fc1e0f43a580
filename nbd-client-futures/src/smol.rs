//! Connections on smol.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nbd_client_async::{BlockingWork, Client, Driver, Error, Runtime, Sleep, Watched};

use crate::watched::{self, Descriptor};

/// The runtime of the crate `smol`.
///
/// ```
/// use nbd_client_futures::smol::{Builder, Smol};
///
/// // The same as `Builder::new()`.
/// let builder = Builder::on(Smol);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Smol;

impl Runtime for Smol {
    fn spawn(&self, driver: Driver) -> io::Result<()> {
        ::smol::spawn(driver).detach();
        Ok(())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        watched::sleep_until(at)
    }

    fn spawn_blocking(&self, work: BlockingWork) -> io::Result<()> {
        ::smol::unblock(work).detach();
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
/// use nbd_client_futures::smol::Builder;
///
/// let builder = Builder::new().timeout(std::time::Duration::from_secs(30));
/// let client = builder.connect_uri("nbd://localhost/disk").await?;
/// # Ok(()) }
/// ```
pub type Builder = nbd_client_async::Builder<Smol>;

/// Connects to a URI with the defaults of [`Builder`].
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_futures::Error> {
/// let client = nbd_client_futures::smol::connect("nbd://localhost/disk").await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the URI is malformed or forbidden, nobody answers, or the server refuses.
pub async fn connect(uri: &str) -> Result<Client, Error> {
    Builder::new().connect_uri(uri).await
}
