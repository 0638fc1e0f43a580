//! Several connections to one export, for many threads.

mod growth;

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use nbd_proto::{Command, CommandFlags, ContextId, Extent, Negotiated};
use nbd_session::pool::Members;
#[cfg(doc)]
use nbd_session::replay::RecoveryError;
use nbd_session::{ConnectOptions, Error, State};

use crate::client::Client;
use growth::Growth;

/// Several connections to one export, shared by any number of threads.
///
/// Each call takes a connection for itself, the one that has been free for longest, and
/// gives it back. When none is free, calls wait in line, first come first served. So the
/// number of connections is the number of calls that are carried out at the same time;
/// for more on each of them, [take](Self::client) one and use its
/// [pipeline](Client::pipeline).
///
/// ```text
///   thread ──┐                    ┌── Client
///   thread ──┤  take      give    ├── Client
///   thread ──┼──────► line ◄──────┼── Client
///   thread ──┘                    └── Client (dead: never taken again)
/// ```
///
/// It has one connection only when the server does not say that more are safe
/// ([`Negotiated::is_safe_beside`]), and with
/// [`keep_unflushed`](nbd_session::replay::Reconnect::keep_unflushed), which could put an
/// older write back over one made by another connection. Those beyond the first are made
/// beside the work, by a thread that ends when they are there, when one of them cannot be
/// made, or when the pool is dropped; a server that has no room for them is no error.
///
/// When a connection dies, the call that was on it fails, but for those that may be
/// repeated, which are tried again on another; all other calls go on. A write is not tried
/// again: the server may still be carrying out the first one, and could finish it after a
/// later write to the same place.
///
/// A flush goes to each connection that was written to since the last one. When one of
/// those is dead, its writes may be lost, and the flush fails. What is written on one that
/// was [taken](Self::client) counts once it is given back.
///
/// A timeout of the connections counts from the time when a call has got one.
///
/// ```no_run
/// use nbd_client_blocking::Pool;
///
/// let pool = Pool::connect("nbd://localhost/disk", 4)?;
/// std::thread::scope(|scope| {
///     for part in 0..16 {
///         let pool = &pool;
///         scope.spawn(move || pool.write_all_at(&[7; 1 << 20], part << 20));
///     }
/// });
/// pool.flush()?;
/// pool.disconnect()?;
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// Connections are still being made.
    _growth: Option<Growth>,
}

#[derive(Debug)]
struct Shared {
    /// Locked only by whom `PoolState` gave them to, so nobody waits for these for longer
    /// than giving one back takes. Those that are not there yet will be, or never.
    clients: Box<[OnceLock<Mutex<Client>>]>,
    negotiated: Negotiated,
    state: Mutex<PoolState>,
}

/// Who gets which connection.
#[derive(Debug)]
struct PoolState {
    members: Members,
    /// Calls that wait for a connection.
    line: VecDeque<Waiting>,
    /// By number: whether it had something to flush when it was last given back.
    unflushed: Vec<bool>,
    /// Why the connection died that died last.
    end: Option<Error>,
}

#[derive(Debug)]
struct Waiting {
    /// The only one that will do.
    number: Option<usize>,
    turn: Sender<usize>,
}

impl Pool {
    /// A pool of up to `size` connections, at least one: as many as the server says are safe,
    /// which is one or any number. The first is there when this returns; the others are made
    /// beside the work, as far as the server has room for them.
    ///
    /// # Errors
    /// As [`Client::connect`], for the first.
    pub fn connect<O>(to: O, size: usize) -> Result<Self, Error>
    where
        O: TryInto<ConnectOptions, Error: Into<Error>>,
    {
        let options = to.try_into().map_err(Into::into)?;
        let shared = Shared::new(vec![Client::connect(&options)?], size.max(1));
        let grows = shared.state().members.wants_more();
        let _growth = if grows { Growth::begin(&shared, options) } else { None };
        Ok(Self { shared, _growth })
    }

    /// A pool of connections that are there already, to one export of one server. Those that
    /// are not safe beside the first are not kept, nor are those to which the server describes
    /// the export differently.
    #[must_use]
    pub fn new(clients: Vec<Client>) -> Self {
        let size = clients.len();
        Self { shared: Shared::new(clients, size), _growth: None }
    }

    /// What was negotiated, on all connections alike.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.shared.negotiated
    }

    /// Connections that are there and not known to be dead.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.shared.state().members.alive()
    }

    /// Calls that wait for a connection.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.state().line.len()
    }

    /// A connection for the caller alone, until the [`PooledClient`] is dropped. Waits in line
    /// until one is free.
    ///
    /// A thread that holds one and waits for another may wait for ever.
    ///
    /// ```no_run
    /// # fn example(pool: &nbd_client_blocking::Pool) -> Result<(), nbd_client_blocking::Error> {
    /// let mut client = pool.client()?;
    /// client.read_exact_at(&mut [0; 512], 0)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When all connections are dead.
    pub fn client(&self) -> Result<PooledClient<'_>, Error> {
        self.wait(None).ok_or_else(|| self.shared.state().dead())
    }

    /// A connection for the caller alone, if one is free.
    #[must_use]
    pub fn try_client(&self) -> Option<PooledClient<'_>> {
        let number = self.shared.state().members.pick(1)?;
        self.pooled(number)
    }

    /// Reads `buf.len()` bytes at `offset`. See [`Client::read_exact_at`].
    ///
    /// # Errors
    /// As [`Client::read_exact_at`].
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.call(Command::read(offset, 0), |client| client.read_exact_at(buf, offset))
    }

    /// Writes all of `buf` at `offset`. See [`Client::write_all_at`].
    ///
    /// # Errors
    /// As [`Client::write_all_at`].
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.write_all_at_with(buf, offset, CommandFlags::empty())
    }

    /// Writes with flags. See [`Client::write_all_at_with`].
    ///
    /// # Errors
    /// As [`Client::write_all_at_with`].
    pub fn write_all_at_with(
        &self,
        buf: &[u8],
        offset: u64,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        self.call(Command::write(offset, 0), |client| client.write_all_at_with(buf, offset, flags))
    }

    /// Makes everything durable whose write has succeeded, whichever connection it was
    /// on. Waits for each that was written to, so whoever holds one of them gives it back
    /// first.
    ///
    /// # Errors
    /// As [`Client::flush`]; [`RecoveryError::UnflushedLost`] when a connection has died
    /// that was written to: told to all flushes that were under way by then, or else to the
    /// next one.
    pub fn flush(&self) -> Result<(), Error> {
        let mut flush = {
            let state = self.shared.state();
            state.members.begin_flush(|number| state.unflushed.get(number) == Some(&true))
        };
        let mut flushed = 0;
        while let Some(number) = flush.members().get(flushed).copied() {
            flushed += 1;
            let result = match self.wait(Some(number)) {
                Some(mut pooled) => pooled.client.flush(),
                None => Err(self.shared.state().dead()),
            };
            self.shared.state().members.flushed(&mut flush, result);
        }
        let mut state = self.shared.state();
        state.members.end_flush(flush)?;
        if flushed == 0 { Err(state.dead()) } else { Ok(()) }
    }

    /// Tells the server that the data in a range is no longer needed. See
    /// [`Client::trim`].
    ///
    /// # Errors
    /// As [`Client::trim`].
    pub fn trim(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.call(Command::trim(offset, length), |client| client.trim(offset, length))
    }

    /// Makes a range read as zeroes. See [`Client::write_zeroes`].
    ///
    /// # Errors
    /// As [`Client::write_zeroes`].
    pub fn write_zeroes(&self, offset: u64, length: u64, flags: CommandFlags) -> Result<(), Error> {
        let command = Command::write_zeroes(offset, length).with(flags);
        self.call(command, |client| client.submit_and_wait(command))
    }

    /// Tells the server that a range will be read soon. See [`Client::cache`].
    ///
    /// # Errors
    /// As [`Client::cache`].
    pub fn cache(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.call(Command::cache(offset, length), |client| client.cache(offset, length))
    }

    /// Asks for the extents of a range. See [`Client::block_status`].
    ///
    /// # Errors
    /// As [`Client::block_status`].
    pub fn block_status(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        let command = Command::block_status(offset, length);
        self.call(command, |client| client.block_status(offset, length, flags))
    }

    /// [Pings](Client::ping) the server on each connection that is free, so that it drops
    /// none of them for being idle. Those that fail are not used any more, unless they
    /// are merely late. Returns how many connections are alive.
    pub fn ping(&self) -> usize {
        let members = self.shared.state().members.len();
        for number in 0..members {
            // One after the other: who has to wait for one of them need not wait for all.
            let free = self.shared.state().pick(Some(number));
            if let Some(mut pooled) = free.and_then(|picked| self.pooled(picked)) {
                // What it comes to shows when the connection is given back.
                let _ = pooled.client.ping();
            }
        }
        self.alive()
    }

    /// Ends all sessions. Connections that are dead already are no error, unless they were
    /// written to and no flush has told so.
    ///
    /// # Errors
    /// As [`Client::disconnect`], the first of them.
    pub fn disconnect(self) -> Result<(), Error> {
        let mut result = self.shared.state().members.leave();
        for mut pooled in std::iter::from_fn(|| self.try_client()) {
            let ended = pooled.client.end();
            result = result.and(ended);
        }
        result
    }

    /// A call on any connection; on another one if that may help, and does no harm. It ends:
    /// each connection dies once.
    fn call<T>(
        &self,
        command: Command,
        mut call: impl FnMut(&mut Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            let mut pooled = self.client()?;
            let result = call(&mut pooled.client);
            let dead = !is_usable(&pooled);
            drop(pooled);
            let again = || self.shared.state().members.is_worth_another(&command);
            if result.is_ok() || !dead || !again() {
                return result;
            }
        }
    }

    /// A connection once there is one, or `None` when all are dead; or that one, or `None`
    /// when it is dead.
    fn wait(&self, number: Option<usize>) -> Option<PooledClient<'_>> {
        let mut state = self.shared.state();
        if let Some(picked) = state.pick(number) {
            return self.pooled(picked);
        }
        let hopeless = match number {
            Some(number) => !state.members.is_alive(number),
            None => state.members.alive() == 0,
        };
        if hopeless {
            return None;
        }
        let (turn, wait) = channel();
        state.line.push_back(Waiting { number, turn });
        drop(state);
        // Fails when the last connection dies, or the wanted one.
        self.pooled(wait.recv().ok()?)
    }

    fn pooled(&self, number: usize) -> Option<PooledClient<'_>> {
        let client = self.shared.clients.get(number)?.get()?;
        let client = client.lock().unwrap_or_else(PoisonError::into_inner);
        Some(PooledClient { client, number, pool: self })
    }
}

impl PoolState {
    /// One that nobody uses: any, or that one.
    fn pick(&mut self, number: Option<usize>) -> Option<usize> {
        match number {
            Some(number) => self.members.pick_one(number, 1).then_some(number),
            None => self.members.pick(1),
        }
    }

    /// Why there is nobody to call.
    fn dead(&self) -> Error {
        self.end.clone().unwrap_or_else(Error::stopped)
    }

    /// Gives what is free to those who wait.
    fn serve(&mut self) {
        let mut at = 0;
        while let Some(number) = self.line.get(at).map(|waiting| waiting.number) {
            match self.pick(number) {
                // Who waits in line does nothing else: it is there to receive.
                Some(picked) => drop(self.line.remove(at).map(|one| one.turn.send(picked))),
                None => at += 1,
            }
        }
    }
}

impl Shared {
    fn new(clients: Vec<Client>, size: usize) -> Arc<Self> {
        let negotiated = clients.first().map(|client| client.negotiated().clone());
        let members = Members::new(size);
        let state = PoolState { members, line: VecDeque::new(), unflushed: Vec::new(), end: None };
        let mut places = Vec::new();
        places.resize_with(size, OnceLock::new);
        let shared = Arc::new(Self {
            clients: places.into(),
            negotiated: negotiated.unwrap_or_default(),
            state: Mutex::new(state),
        });
        for client in clients {
            shared.add(client);
        }
        shared
    }

    /// One connection more, if it may join. Returns whether another one is wanted.
    fn add(&self, client: Client) -> bool {
        let mut state = self.state();
        let options = client.session().options();
        let Some(number) = state.members.join(client.negotiated(), options) else { return false };
        state.unflushed.push(client.session().has_unflushed());
        let added = self.clients.get(number).is_some_and(|place| place.set(client.into()).is_ok());
        state.serve();
        added && state.members.wants_more()
    }

    fn give_back(&self, number: usize, client: &Client) {
        let mut state = self.state();
        let unflushed = client.session().has_unflushed();
        if let Some(known) = state.unflushed.get_mut(number) {
            *known = unflushed;
        }
        state.members.finished(number);
        if !is_usable(client) {
            state.end = Some(client.driver.end());
            state.members.died(number, unflushed);
            let none = state.members.alive() == 0;
            state.line.retain(|waiting| !none && waiting.number != Some(number));
        }
        state.serve();
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_usable(client: &Client) -> bool {
    matches!(client.state(), State::Ready | State::Reconnecting)
}

/// A connection of a [`Pool`], for one caller alone. Dropping it gives it back.
///
/// When its thread panics, the connection is closed: it may have been in the middle of
/// something.
#[derive(Debug)]
pub struct PooledClient<'p> {
    client: MutexGuard<'p, Client>,
    number: usize,
    pool: &'p Pool,
}

impl Deref for PooledClient<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for PooledClient<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for PooledClient<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.client.driver.fail(Error::stopped());
        }
        self.pool.shared.give_back(self.number, &self.client);
    }
}
