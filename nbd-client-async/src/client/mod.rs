//! The client: any number of handles on one connection.

mod facts;
mod transfer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_proto::{Command, CommandFlags, ContextId, Disconnect, Extent};
use nbd_session::{Error, Limit, State};

use crate::buffer::Buffer;
use crate::calls::{Exchange, Terms, WhenFull};
use crate::pending::{Handle, Pending};
use crate::state::Shared;

/// A connection to an export, for any number of tasks.
///
/// Clones share the connection. What many tasks ask for at the same time is in flight
/// at the same time and leaves in few system calls. When as much is in flight as
/// [`ConnectOptions::max_in_flight`](nbd_session::ConnectOptions::max_in_flight) allows, calls
/// wait in line, first come first served; see [`fail_when_full`](Self::fail_when_full) for those
/// that must not. Offsets and lengths are in bytes from the start of the export.
///
/// Every future can be dropped at any time: its command is withdrawn, and neither the
/// connection nor another command takes notice. Whether a withdrawn write takes place
/// is unknown.
///
/// When the last clone is dropped, the session ends in good order in the background;
/// [`disconnect`](Self::disconnect) waits for that.
///
/// ```
/// # use nbd_client_async::{Client, Error};
/// async fn first_sectors(client: &Client) -> Result<(), Error> {
///     let (one, two) = (client.clone(), client.clone());
///     let first = async move { one.read(0, 512).await };
///     let second = async move { two.read(512, 512).await };
///     // Spawned on a runtime, or joined, the two run side by side.
///     println!("{:?} {:?}", first.await?, second.await?);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
    /// In place of the connection's own; zero is no limit.
    timeout: Option<Duration>,
    when_full: WhenFull,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let handle = Arc::new(Handle { shared });
        Self { handle, timeout: None, when_full: WhenFull::Wait }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Another handle on the same connection whose calls fail with a
    /// [timeout](Error::is_timeout) when they take longer than this, reconnecting included;
    /// `None`, or zero, lets them take for ever. Without it, the limit is
    /// [`ConnectOptions::request_timeout`](nbd_session::ConnectOptions::request_timeout).
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # use std::time::{Duration, Instant};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let hasty = client.with_timeout(Duration::from_secs(1));
    /// let sector = hasty.read(0, 512).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: impl Into<Option<Duration>>) -> Self {
        Self { timeout: Some(timeout.into().unwrap_or_default()), ..self.clone() }
    }

    /// Another handle on the same connection whose calls do not wait in line: when there is no
    /// room, they fail with an error that [says so](Error::is_full).
    ///
    /// ```
    /// # async fn example(client: &nbd_client_async::Client) {
    /// match client.fail_when_full().read(0, 512).await {
    ///     Err(error) if error.is_full() => println!("busy"),
    ///     result => println!("{result:?}"),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn fail_when_full(&self) -> Self {
        Self { when_full: WhenFull::Fail, ..self.clone() }
    }

    /// Makes everything durable that has been written on this connection, and on every
    /// other one to an export with
    /// [`CAN_MULTI_CONN`](nbd_proto::TransmissionFlags::CAN_MULTI_CONN).
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_all_at(vec![7; 512], 0).await?;
    /// client.flush().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server does not offer it, fails it, the connection fails, or the time is
    /// over.
    #[doc(alias("nbd_flush", "sync_all", "fsync"))]
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
    #[doc(alias("nbd_trim", "discard", "unmap"))]
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
    #[doc(alias = "nbd_zero")]
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
    #[doc(alias = "nbd_cache")]
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
    #[doc(alias = "nbd_block_status")]
    pub async fn block_status(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        let command = Command::block_status(offset, length).with(flags);
        self.ask_status(command, None).await
    }

    /// Asks as [`block_status`](Self::block_status) does, but for some of the meta contexts
    /// only, by the numbers [`context`](Self::context) tells.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// if let Some(context) = client.context("base:allocation") {
    ///     let flags = CommandFlags::empty();
    ///     let extents = client.block_status_filtered(0, 1 << 20, flags, &[context]).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`block_status`](Self::block_status), and when the server does not
    /// [know how to](nbd_proto::ExportInfo::can_block_status_payload).
    #[doc(alias = "nbd_block_status_filter")]
    pub async fn block_status_filtered(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
        contexts: &[ContextId],
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        let command = Command::block_status(offset, length).with(flags);
        self.ask_status(command, Some(contexts)).await
    }

    async fn ask_status(
        &self,
        command: Command,
        contexts: Option<&[ContextId]>,
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        let mut exchange = Exchange::new(command, Buffer::None);
        exchange.contexts = contexts.map(<[_]>::to_vec);
        self.call(&mut exchange).await?;
        Ok(exchange.extents)
    }

    /// Reads the first block of the export, to see whether the server is there. An export of no
    /// bytes is not asked for anything.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.ping().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read). An error of the kind
    /// [`Command`](nbd_session::ErrorKind::Command) comes from a server that is there.
    pub async fn ping(&self) -> Result<(), Error> {
        let block = self.export().minimum_block() as usize;
        if self.size() < block as u64 {
            return Ok(());
        }
        self.read(0, block).await.map(drop)
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
        // What else is wrong with the command than that it needs data is told first.
        Error::check_payload(&command, 0)
            .or_else(|_| self.shared().lock().session.check_payload(&command, 0))?;
        self.call(&mut Exchange::new(command, Buffer::None)).await
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
    /// When it is not certain that everything has been done, and made durable where the server
    /// can, that was acknowledged or under way: the connection died before, or the time is over.
    #[doc(alias("nbd_shutdown", "close"))]
    pub async fn disconnect(self) -> Result<(), Error> {
        let limit = self.limit();
        self.shared().with(|state, now| {
            state.session.disconnect(Disconnect::AfterReplies, limit, now);
        });
        let mut state = self.state();
        while state != State::Closed {
            state = self.state_change(state).await;
        }
        self.shared().lock().session.farewell()
    }

    fn limit(&self) -> Limit {
        self.timeout.map_or(Limit::Default, |timeout| Limit::within(timeout, Instant::now()))
    }

    fn terms(&self) -> Terms {
        Terms { limit: self.limit(), when_full: self.when_full }
    }

    fn call<'a>(&'a self, exchange: &'a mut Exchange) -> Pending<&'a Handle, &'a mut Exchange> {
        Pending::new(&*self.handle, exchange, self.terms())
    }

    /// A call that keeps the connection, to be kept itself.
    pub(crate) fn keep(&self, exchange: Exchange) -> Pending<Arc<Handle>, Exchange> {
        Pending::new(Arc::clone(&self.handle), exchange, self.terms())
    }
}
