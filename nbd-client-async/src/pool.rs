//! Several connections to one export.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use nbd_proto::{Command, CommandFlags, SubmitError};
use nbd_session::OldError as Error;

use crate::client::Client;

/// Several connections to one export, each call on the one that has the least to do.
///
/// It has one connection only when the server does not say that more are safe
/// ([`Negotiated::is_safe_beside`](nbd_proto::Negotiated::is_safe_beside)). When a connection dies, the
/// calls that were on it fail, but for reads and flushes, which are tried again on
/// another; all other calls go on. A write is not tried again: the server may still be
/// carrying out the first one, and could finish it after a later write to the same
/// place.
///
/// Under [`Builder::reconnect`](crate::Builder::reconnect) each connection is made again by
/// itself, with all that was on it, and a flush goes to every one of them. With
/// [`keep_unflushed`](nbd_session::replay::Reconnect::keep_unflushed) there is one connection
/// only: it could put an older write back over one made by another.
///
/// Clones share the connections.
///
/// ```
/// # use nbd_client_async::{Builder, Error, Runtime};
/// async fn example(builder: Builder<impl Runtime + Clone>) -> Result<(), Error> {
///     let pool = builder.connect_pool("nbd://localhost/disk", 4).await?;
///     pool.write_at(0, vec![7; 512]).await?;
///     pool.flush().await?;
///     pool.disconnect().await
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    clients: Arc<[Client]>,
}

impl Pool {
    /// A pool of connections that are there already, to one export of one server. Only
    /// the first is kept when several are not safe, or when the server describes the
    /// export differently on any of them.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Pool};
    /// # fn example(one: Client, two: Client) {
    /// let pool = Pool::new(vec![one, two]);
    /// # }
    /// ```
    #[must_use]
    pub fn new(mut clients: Vec<Client>) -> Self {
        if !Self::may_grow(&clients) {
            clients.truncate(1);
        }
        Self { clients: clients.into() }
    }

    /// Whether all of them, and more, may be used together.
    pub(crate) fn may_grow(clients: &[Client]) -> bool {
        let Some(first) = clients.first() else {
            return true;
        };
        // What one connection keeps would be put back over what another has written.
        let keeps = clients.iter().any(Client::keeps_unflushed);
        !keeps
            && clients.iter().all(|client| client.negotiated().is_safe_beside(first.negotiated()))
    }

    /// The connections, dead ones included.
    ///
    /// ```
    /// # fn example(pool: &nbd_client_async::Pool) {
    /// let alive = pool.clients().iter().filter(|client| !client.is_closed()).count();
    /// # }
    /// ```
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The living connection with the least to do, for any call; a dead one when all are
    /// dead, `None` in a pool of none.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// if let Some(client) = pool.client() {
    ///     client.trim(0, 1 << 20).await?;
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        self.clients.iter().min_by_key(|client| (client.is_closed(), client.in_flight()))
    }

    /// Reads `length` bytes at `offset`. See [`Client::read_at`].
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// let sector = pool.read_at(0, 512).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::read_at`].
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<BytesMut, Error> {
        loop {
            let client = self.pick(Command::read(offset, u32::MAX))?;
            let result = client.read_at(offset, length).await;
            if result.is_ok() || !self.is_worth_another(client) {
                return result;
            }
        }
    }

    /// Reads into the whole of a buffer, which is given back. See [`Client::read_into`].
    ///
    /// ```
    /// # async fn example(pool: &nbd_client_async::Pool) {
    /// let (result, buffer) = pool.read_into(0, vec![0; 512]).await;
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::read_into`].
    pub async fn read_into<B>(&self, offset: u64, mut buffer: B) -> (Result<(), Error>, B)
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        loop {
            let client = match self.pick(Command::read(offset, u32::MAX)) {
                Ok(client) => client,
                Err(error) => return (Err(error), buffer),
            };
            let result;
            (result, buffer) = client.read_into(offset, buffer).await;
            if result.is_ok() || !self.is_worth_another(client) {
                return (result, buffer);
            }
        }
    }

    /// Writes all of `data` at `offset`. See [`Client::write_at`].
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// pool.write_at(0, vec![7; 512]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::write_at`].
    pub async fn write_at(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), Error> {
        self.write_at_with(offset, data, CommandFlags::empty()).await
    }

    /// Writes with flags. See [`Client::write_at_with`].
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool, proto::CommandFlags};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// pool.write_at_with(0, vec![7; 512], CommandFlags::FUA).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::write_at_with`].
    pub async fn write_at_with(
        &self,
        offset: u64,
        data: impl Into<Bytes>,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        let client = self.pick(Command::write(offset, u32::MAX))?;
        client.write_at_with(offset, data, flags).await
    }

    /// Makes everything durable whose write has succeeded, whichever connection it was
    /// on: that is what [`CAN_MULTI_CONN`](nbd_proto::TransmissionFlags::CAN_MULTI_CONN)
    /// promises.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// pool.flush().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::flush`].
    pub async fn flush(&self) -> Result<(), Error> {
        if self.clients.iter().any(Client::survives) {
            // Each tells by its own flush whether something on it may be lost; one that has
            // given up cannot tell that all is well.
            let mut result = Ok(());
            for client in self.clients.iter() {
                result = result.and(client.flush().await);
            }
            return result;
        }
        loop {
            let client = self.pick(Command::flush())?;
            let result = client.flush().await;
            if result.is_ok() || !self.is_worth_another(client) {
                return result;
            }
        }
    }

    /// Ends all sessions. Connections that are dead already are no error.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// pool.disconnect().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::disconnect`], the first of them.
    pub async fn disconnect(self) -> Result<(), Error> {
        let mut result = Ok(());
        for client in self.clients.iter() {
            result = result.and(client.clone().disconnect().await);
        }
        result
    }

    fn pick(&self, command: Command) -> Result<&Client, Error> {
        let error = SubmitError::NotConnected;
        self.client().ok_or(Error::Submit { command, error })
    }

    /// Whether a call that failed may succeed on another connection. It ends: each
    /// connection dies once.
    fn is_worth_another(&self, failed: &Client) -> bool {
        failed.is_closed() && self.clients.iter().any(|client| !client.is_closed())
    }
}
