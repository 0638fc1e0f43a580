//! The client: any number of handles on one connection.

mod facts;
mod transfer;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nbd_proto::{Command, CommandFlags, ContextId, Extent, SubmitError};
use nbd_session::OldError as Error;

use crate::buffer::Buffer;
use crate::calls::{Deadline, Matter};
use crate::extents::Extents;
use crate::pending::{Handle, Pending, Terms};
use crate::state::{Shared, WhenFull};

/// A connection to an export, for any number of tasks.
///
/// Clones share the connection. What many tasks ask for at the same time is in flight
/// at the same time and leaves in few system calls. When as much is in flight as
/// [`Limits`](nbd_proto::Limits) allow, calls wait in line, first come first served;
/// those whose name begins with `try_` fail with [`SubmitError::Full`](nbd_proto::SubmitError::Full) instead. Offsets
/// and lengths are in bytes from the start of the export.
///
/// Every future can be dropped at any time: its command is abandoned, and neither the
/// connection nor another command takes notice. Whether an abandoned write takes place
/// is unknown.
///
/// When the last clone is dropped, the session ends in good order in the background;
/// [`disconnect`](Self::disconnect) waits for that.
///
/// ```
/// # use nbd_client_async::{Client, Error};
/// async fn first_sectors(client: &Client) -> Result<(), Error> {
///     let (one, two) = (client.clone(), client.clone());
///     let first = async move { one.read_at(0, 512).await };
///     let second = async move { two.read_at(512, 512).await };
///     // Spawned on a runtime, or joined, the two run side by side.
///     println!("{:?} {:?}", first.await?, second.await?);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
    timeout: Option<Duration>,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>, timeout: Option<Duration>) -> Self {
        let handle = Arc::new(Handle { shared });
        Self { handle, timeout }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Another handle on the same connection whose calls fail with [`Error::TimedOut`]
    /// when they take longer than this; `None` lets them take for ever.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # use std::time::Duration;
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let hasty = client.with_timeout(Some(Duration::from_secs(1)));
    /// let sector = hasty.read_at(0, 512).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Self {
        Self { handle: Arc::clone(&self.handle), timeout }
    }

    /// Makes everything durable that has been written on this connection, and on every
    /// other one to an export with
    /// [`CAN_MULTI_CONN`](nbd_proto::TransmissionFlags::CAN_MULTI_CONN).
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_at(0, vec![7; 512]).await?;
    /// client.flush().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server does not offer it, fails it, the connection fails, or the time is
    /// over.
    pub async fn flush(&self) -> Result<(), Error> {
        self.run(Command::flush()).await
    }

    /// Tells the server that the data in a range is no longer needed.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.trim(0, client.size()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn trim(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.run(Command::trim(offset, length)).await
    }

    /// Makes a range read as zeroes, with flags such as [`CommandFlags::NO_HOLE`].
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_zeroes(0, 1 << 20, CommandFlags::NO_HOLE).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        let command = Command::write_zeroes(offset, length);
        self.run(command.with(flags)).await
    }

    /// Tells the server that a range will be read soon.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.cache(0, 1 << 20).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn cache(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.run(Command::cache(offset, length)).await
    }

    /// Asks for the extents of a range, for each meta context that was granted, in order
    /// for each context. The server may report less than was asked for, but at least one
    /// extent. See [`extents`](Self::extents) for the whole.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// for (context, extent) in client.block_status(0, 1 << 20, CommandFlags::empty()).await? {
    ///     println!("{context:?}: {} bytes, status {}", extent.length, extent.status);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush); when no meta context was granted, or the server sends
    /// extents that cannot be true.
    pub async fn block_status(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        let command = Command::block_status(offset, length).with(flags);
        let mut matter = Matter::new(command, Buffer::None);
        self.call(&mut matter, WhenFull::Wait).await?;
        Ok(matter.account().extents)
    }

    /// All extents of a range for one meta context, in order, neighbours of equal status
    /// merged, asked for as far as they are taken.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let mut extents = client.extents("base:allocation", 0..client.size())?;
    /// while let Some(placed) = extents.next().await {
    ///     let placed = placed?;
    ///     println!("{} bytes at {}", placed.extent.length, placed.offset);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the context was not granted.
    pub fn extents(&self, context: &str, range: Range<u64>) -> Result<Extents, Error> {
        Extents::new(self, context, range)
    }

    /// Sends one command without payload and waits for its end.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::{Command, CommandFlags}};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.run(Command::trim(0, 1 << 20).with(CommandFlags::FUA)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When it cannot be sent, the server fails it, the connection fails, or the time is
    /// over.
    pub async fn run(&self, command: Command) -> Result<(), Error> {
        self.check_data(command)?;
        self.call(&mut Matter::new(command, Buffer::None), WhenFull::Wait).await
    }

    /// Sends a command as [`run`](Self::run), but does not wait in line.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::Command};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.try_run(Command::flush()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`SubmitError::Full`](nbd_proto::SubmitError::Full).
    pub async fn try_run(&self, command: Command) -> Result<(), Error> {
        self.check_data(command)?;
        self.call(&mut Matter::new(command, Buffer::None), WhenFull::Fail).await
    }

    /// Ends the session for all handles: waits for the replies that are due, asks the
    /// server to end, and waits until it has closed the connection.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// client.disconnect().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the connection fails before that or has failed already, which is told with the
    /// cause; when the time is over. For a client that
    /// [reconnects](crate::Builder::reconnect) and is without a connection,
    /// [`RecoveryError::UnflushedLost`](nbd_session::replay::RecoveryError::UnflushedLost)
    /// when a flush would tell so.
    pub async fn disconnect(self) -> Result<(), Error> {
        let terms = self.terms(WhenFull::Wait);
        Pending::disconnect(&*self.handle, terms).await
    }

    /// Whether a command needs no data. What else is wrong with it is told first.
    fn check_data(&self, command: Command) -> Result<(), Error> {
        Error::check_buffer(&command, 0).map_err(|error| {
            let state = self.shared().lock();
            match state.core.check(command) {
                Ok(()) => error,
                // There is to be another connection.
                Err(SubmitError::NotConnected) if state.survives() => error,
                Err(worse) => Error::Submit { command, error: worse },
            }
        })
    }

    fn terms(&self, when_full: WhenFull) -> Terms {
        Terms { deadline: self.timeout.and_then(Deadline::after), when_full }
    }

    fn call<'a>(
        &'a self,
        matter: &'a mut Matter,
        when_full: WhenFull,
    ) -> Pending<&'a Handle, &'a mut Matter> {
        Pending::command(&*self.handle, matter, self.terms(when_full))
    }

    /// A call that keeps the connection, to be kept itself.
    pub(crate) fn keep(&self, matter: Matter) -> Pending<Arc<Handle>, Matter> {
        let handle = Arc::clone(&self.handle);
        Pending::command(handle, matter, self.terms(WhenFull::Wait))
    }
}
