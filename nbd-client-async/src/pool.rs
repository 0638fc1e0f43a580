//! Several connections to one export.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use nbd_proto::{Command, CommandFlags, SubmitError};
use nbd_session::OldError as Error;
use nbd_session::replay::RecoveryError;

use crate::client::Client;

/// Several connections to one export, each call on the one that has the least to do.
///
/// It has one connection only when the server does not say that more are safe
/// ([`Negotiated::is_safe_beside`](nbd_proto::Negotiated::is_safe_beside)), and with
/// [`keep_unflushed`](nbd_session::replay::Reconnect::keep_unflushed), which could put an
/// older write back over one made by another connection. Those beyond the first are made
/// beside the work; a server that has no room for them is no error.
///
/// When a connection dies, the calls that were on it fail, but for reads, which are tried
/// again on another; all other calls go on. A write is not tried again: the server may still
/// be carrying out the first one, and could finish it after a later write to the same place.
/// Under [`Builder::reconnect`](crate::Builder::reconnect) each connection is made again by
/// itself, with all that was on it.
///
/// A flush goes to each connection with acknowledged writes that were not flushed. When one
/// of those is dead, its writes may be lost, and the flush fails.
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clients: RwLock<Vec<Client>>,
    /// How often acknowledged writes may have been lost, and for how many of those a flush
    /// has failed.
    losses: AtomicU64,
    told: AtomicU64,
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
        if let Some((first, others)) = clients.split_first()
            && !others.iter().all(|client| may_join(first, client))
        {
            clients.truncate(1);
        }
        let (losses, told) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { clients: RwLock::new(clients), losses, told }) }
    }

    /// A pool of one connection, and of more that `connect` makes beside it, until one
    /// cannot be made.
    pub(crate) fn growing<F>(
        first: Client,
        size: usize,
        connect: impl Fn() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Client, Error>> + Send,
    {
        let grows = size > 1 && may_join(&first, &first);
        let pool = Self::new(vec![first.clone()]);
        if grows {
            let shared = Arc::downgrade(&pool.shared);
            let wanted = Weak::clone(&shared);
            let mut work = Box::pin(async move {
                for _ in 1..size {
                    // A server that has no room for this one has none for the next.
                    let Ok(client) = connect().await else { return };
                    if !shared.upgrade().is_some_and(|shared| shared.add(client)) {
                        return;
                    }
                }
            });
            first.do_beside(poll_fn(move |cx| match wanted.strong_count() {
                0 => Poll::Ready(()),
                _ => work.as_mut().poll(cx),
            }));
        }
        pool
    }

    /// The connections that are there, dead ones included.
    ///
    /// ```
    /// # fn example(pool: &nbd_client_async::Pool) {
    /// let alive = pool.clients().iter().filter(|client| !client.is_closed()).count();
    /// # }
    /// ```
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.shared.clients.read().unwrap_or_else(PoisonError::into_inner).clone()
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
    pub fn client(&self) -> Option<Client> {
        let clients = self.shared.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.iter().min_by_key(|client| (client.is_closed(), client.in_flight())).cloned()
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
            if result.is_ok() || !self.is_worth_another(&client) {
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
            if result.is_ok() || !self.is_worth_another(&client) {
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
    /// on.
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// pool.flush().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::flush`]; [`RecoveryError::UnflushedLost`] when another flush that was
    /// under way has found that writes may be lost.
    pub async fn flush(&self) -> Result<(), Error> {
        let told = self.shared.told.load(Ordering::SeqCst);
        let clients = self.clients();
        let mut result = Ok(());
        let mut any = false;
        for client in clients.iter().filter(|client| client.is_unflushed()) {
            any = true;
            if let Err(error) = client.flush().await {
                self.shared.losses.fetch_add(1, Ordering::SeqCst);
                if client.is_closed() {
                    // Told by this one, and by those that are under way.
                    client.settle();
                }
                result = result.and(Err(error));
            }
        }
        if !any {
            // What others have written.
            result = self.flush_any().await;
        }
        let losses = self.shared.losses.load(Ordering::SeqCst);
        if losses > told {
            self.shared.told.fetch_max(losses, Ordering::SeqCst);
            result = result.and_then(|()| Err(RecoveryError::UnflushedLost.into()));
        }
        result
    }

    async fn flush_any(&self) -> Result<(), Error> {
        loop {
            let client = self.pick(Command::flush())?;
            let result = client.flush().await;
            if result.is_ok() || !self.is_worth_another(&client) {
                return result;
            }
        }
    }

    /// Ends all sessions. Connections that are dead already are no error, unless they have
    /// acknowledged writes that were not flushed.
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
        for client in self.clients() {
            if !client.is_closed() || client.is_unflushed() {
                let ended = client.disconnect().await;
                result = result.and(ended);
            }
        }
        result
    }

    fn pick(&self, command: Command) -> Result<Client, Error> {
        let error = SubmitError::NotConnected;
        self.client().ok_or(Error::Submit { command, error })
    }

    /// Whether a call that failed may succeed on another connection. It ends: each
    /// connection dies once.
    fn is_worth_another(&self, failed: &Client) -> bool {
        failed.is_closed() && self.client().is_some_and(|client| !client.is_closed())
    }
}

/// Whether two connections may be used together.
fn may_join(one: &Client, other: &Client) -> bool {
    // What one connection keeps would be put back over what another has written.
    !one.keeps_unflushed()
        && !other.keeps_unflushed()
        && other.negotiated().is_safe_beside(one.negotiated())
}

impl Shared {
    /// One connection more. Returns whether it fits.
    fn add(&self, client: Client) -> bool {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        let fits = clients.first().is_some_and(|first| may_join(first, &client));
        clients.extend(fits.then_some(client));
        fits
    }
}
