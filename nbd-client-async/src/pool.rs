//! Several connections to one export.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use bytes::Bytes;
use nbd_proto::{Command, CommandFlags};
use nbd_session::pool::{Call, Members};
use nbd_session::{Error, Rejected};

use crate::buffer::{ReadBuffer, WriteBuffer};
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
/// Under [`ConnectOptions::reconnect`](nbd_session::ConnectOptions::reconnect) each connection
/// is made again by itself, with all that was on it.
///
/// A flush goes to each connection with acknowledged writes that were not flushed. When one
/// of those is dead, its writes may be lost, and the flush fails.
///
/// Clones share the connections.
///
/// ```
/// # use nbd_client_async::{Connector, Error, Runtime};
/// async fn example(connector: Connector<impl Runtime + Clone>) -> Result<(), Error> {
///     let pool = connector.connect_pool(4).await?;
///     pool.write_all_at(vec![7; 512], 0).await?;
///     pool.flush().await?;
///     pool.disconnect().await
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    members: Members,
    clients: Vec<Client>,
}

impl State {
    fn join(&mut self, client: Client) {
        let facts = client.negotiated();
        let joins = self.members.join(&facts, client.shared().lock().session.options()).is_some();
        self.clients.extend(joins.then_some(client));
    }

    /// Takes those out that are over.
    fn look(&mut self) {
        for (number, client) in self.clients.iter().enumerate() {
            // All of them have joined.
            let _ = self.members.look(number, &client.shared().lock().session);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call, which may have to do with several members; it ends with its future.
struct Calling<'a> {
    shared: &'a Shared,
    call: Call,
}

impl Calling<'_> {
    /// Who is to go on with it.
    fn next(&mut self) -> Result<Client, Error> {
        let mut state = self.shared.lock();
        let State { members, clients } = &mut *state;
        let number = members.next_member(&mut self.call, usize::MAX);
        number.and_then(|number| clients.get(number).cloned()).ok_or_else(|| members.end())
    }

    /// What its caller is to be told, if it ends with that.
    fn told(&mut self, result: Result<(), Error>) -> Option<Result<(), Error>> {
        let mut state = self.shared.lock();
        state.look();
        state.members.called(&mut self.call, result)
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.shared.lock().members.withdraw(&mut self.call);
    }
}

impl Pool {
    /// A pool of connections that are there already, to one export of one server. Those that
    /// are not safe beside the first are not kept, nor are those to which the server describes
    /// the export differently.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Pool};
    /// # fn example(one: Client, two: Client) {
    /// let pool = Pool::new(vec![one, two]);
    /// # }
    /// ```
    #[must_use]
    pub fn new(clients: Vec<Client>) -> Self {
        let mut state = State { members: Members::new(clients.len()), clients: Vec::new() };
        for client in clients {
            state.join(client);
        }
        Self { shared: Arc::new(Shared(Mutex::new(state))) }
    }

    /// A pool of one that grows beside the work to `size`, as far as the server lets it.
    pub(crate) fn growing<F>(
        first: Client,
        size: usize,
        connect: impl Fn(usize) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Client, Error>> + Send,
    {
        let mut state = State { members: Members::new(size), clients: Vec::new() };
        state.join(first.clone());
        let grows = state.members.wants_more();
        let pool = Self { shared: Arc::new(Shared(Mutex::new(state))) };
        if grows {
            let shared = Arc::downgrade(&pool.shared);
            let wanted = Weak::clone(&shared);
            let mut work = Box::pin(async move {
                let next = || {
                    let shared = shared.upgrade()?;
                    let members = &shared.lock().members;
                    members.wants_more().then(|| members.len())
                };
                while let Some(number) = next() {
                    let made = connect(number).await;
                    let Some(shared) = shared.upgrade() else { return };
                    let mut state = shared.lock();
                    match made {
                        Ok(client) => state.join(client),
                        // A server that has no room for this one has none for the next.
                        Err(_) => state.members.no_room(),
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
        self.shared.lock().clients.clone()
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
        let mut calling = self.begin(Command::read(0, 0));
        calling.next().ok().or_else(|| self.shared.lock().clients.first().cloned())
    }

    /// Reads `length` bytes at `offset`. See [`Client::read`].
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// let sector = pool.read(0, 512).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let read = |client: Client, _| async move {
            let result = client.read(offset, length).await;
            (result.as_ref().map(drop).map_err(Error::clone), result.unwrap_or_default())
        };
        let (result, bytes) = self.call(Command::read(offset, 0), Bytes::new(), read).await;
        result.map(|()| bytes)
    }

    /// Reads into the whole of a buffer, which is given back. See [`Client::read_exact_at`].
    ///
    /// ```
    /// # async fn example(pool: &nbd_client_async::Pool) {
    /// let (result, buffer) = pool.read_exact_at(vec![0; 512], 0).await;
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::read_exact_at`].
    pub async fn read_exact_at<B: ReadBuffer>(
        &self,
        buffer: B,
        offset: u64,
    ) -> (Result<(), Error>, B) {
        let read =
            |client: Client, buffer| async move { client.read_exact_at(buffer, offset).await };
        self.call(Command::read(offset, 0), buffer, read).await
    }

    /// Writes all of `data` at `offset`. See [`Client::write_all_at`].
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// pool.write_all_at(vec![7; 512], 0).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::write_all_at`].
    pub async fn write_all_at(
        &self,
        data: impl WriteBuffer,
        offset: u64,
    ) -> Result<(), Rejected<Bytes>> {
        self.write_all_at_with(data, offset, CommandFlags::empty()).await
    }

    /// Writes with flags. See [`Client::write_all_at_with`].
    ///
    /// ```
    /// # use nbd_client_async::{Error, Pool, proto::CommandFlags};
    /// # async fn example(pool: &Pool) -> Result<(), Error> {
    /// pool.write_all_at_with(vec![7; 512], 0, CommandFlags::FUA).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::write_all_at_with`].
    pub async fn write_all_at_with(
        &self,
        data: impl WriteBuffer,
        offset: u64,
        flags: CommandFlags,
    ) -> Result<(), Rejected<Bytes>> {
        let write = |client: Client, data| async move {
            match client.write_all_at_with(data, offset, flags).await {
                Ok(()) => (Ok(()), Bytes::new()),
                Err(Rejected { error, buffer }) => (Err(error), buffer.unwrap_or_default()),
            }
        };
        let call = self.call(Command::write(offset, 0), data.into_bytes(), write);
        let (result, data) = call.await;
        result.map_err(|error| Rejected { error, buffer: Some(data) })
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
    /// As [`Client::flush`]; of the kind [`Recovery`](nbd_session::ErrorKind::Recovery) when
    /// another flush that was under way has found that writes may be lost.
    pub async fn flush(&self) -> Result<(), Error> {
        let flush = |client: Client, ()| async move { (client.flush().await, ()) };
        self.call(Command::flush(), (), flush).await.0
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
        let (mut result, clients) = {
            let mut state = self.shared.lock();
            state.look();
            (state.members.leave(), state.clients.clone())
        };
        for client in clients {
            if !client.is_closed() {
                let ended = client.disconnect().await;
                result = result.and(ended);
            }
        }
        result
    }

    fn begin(&self, command: Command) -> Calling<'_> {
        let mut state = self.shared.lock();
        state.look();
        let unflushed = |client: &Client| client.shared().lock().session.has_unflushed();
        let call = state
            .members
            .begin_call(command, |number| state.clients.get(number).is_some_and(unflushed));
        Calling { shared: &self.shared, call }
    }

    /// Carries a call out, with what it needs: on another member where that helps, or on all that
    /// have something to flush.
    async fn call<T, F>(
        &self,
        command: Command,
        mut needs: T,
        mut one: impl FnMut(Client, T) -> F,
    ) -> (Result<(), Error>, T)
    where
        F: Future<Output = (Result<(), Error>, T)>,
    {
        let mut calling = self.begin(command);
        loop {
            let client = match calling.next() {
                Ok(client) => client,
                Err(error) => return (Err(error), needs),
            };
            let result;
            (result, needs) = one(client, needs).await;
            if let Some(told) = calling.told(result) {
                return (told, needs);
            }
        }
    }
}
