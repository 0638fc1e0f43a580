//! Connections on smol.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nbd_client_async::{
    BlockingWork, Client, ConnectOptions, Driver, Error, Runtime, Sleep, Watched,
};

use crate::watched::{self, Descriptor};

/// The runtime of the crate `smol`.
///
/// ```
/// use nbd_client_futures::ConnectOptions;
/// use nbd_client_futures::smol::{Connector, Smol};
///
/// // The same as `Connector::new(…)`.
/// let connector = Connector::on(Smol, ConnectOptions::new());
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

/// Connects as [`ConnectOptions`] say.
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_futures::Error> {
/// use nbd_client_futures::{ConnectOptions, smol::Connector};
///
/// let options: ConnectOptions = "nbd://localhost/disk".parse()?;
/// let options = options.request_timeout(std::time::Duration::from_secs(30));
/// let pool = Connector::new(options).connect_pool(4).await?;
/// # Ok(()) }
/// ```
pub type Connector = nbd_client_async::Connector<Smol>;

/// Connects to a URI, or as other [`ConnectOptions`] say.
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_futures::Error> {
/// let client = nbd_client_futures::smol::connect("nbd://localhost/disk").await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the URI is malformed or forbidden, nobody answers, or the server refuses.
pub async fn connect<O>(options: O) -> Result<Client, Error>
where
    O: TryInto<ConnectOptions>,
    Error: From<O::Error>,
{
    Connector::new(options.try_into()?).connect().await
}
