//! Several connections to one export, for many threads.

mod growth;

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use nbd_proto::{Command, CommandFlags, ContextId, Extent, Negotiated};
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
    /// Locked only by whom the desk gave them to, so nobody waits for these for longer
    /// than giving one back takes. Those that are not there yet will be, or never.
    clients: Box<[OnceLock<Mutex<Client>>]>,
    negotiated: Negotiated,
    desk: Mutex<Desk>,
}

/// Who gets which connection.
#[derive(Debug, Default)]
struct Desk {
    /// Connections nobody uses, the one that has been free for longest first.
    free: VecDeque<usize>,
    /// Calls that wait for one.
    line: VecDeque<Waiting>,
    alive: usize,
    /// Connections that were written to since they were last flushed, dead ones excepted.
    written: Vec<usize>,
    /// How often acknowledged writes may have been lost, and for how many of those a flush
    /// has failed.
    losses: u64,
    told: u64,
    /// Why the connection died that died last.
    end: Option<Error>,
}

#[derive(Debug)]
struct Waiting {
    /// The only one that will do.
    index: Option<usize>,
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
        let first = Client::connect(&options)?;
        let grows = size > 1 && Self::may_join(&first, &first);
        let shared = Shared::new(vec![first], if grows { size } else { 1 });
        let _growth = if grows { Growth::begin(&shared, options) } else { None };
        Ok(Self { shared, _growth })
    }

    /// A pool of connections that are there already, to one export of one server. Only
    /// the first is kept when several are not safe, or when the server describes the
    /// export differently on any of them.
    #[must_use]
    pub fn new(mut clients: Vec<Client>) -> Self {
        if let Some((first, others)) = clients.split_first()
            && !others.iter().all(|client| Self::may_join(first, client))
        {
            clients.truncate(1);
        }
        let capacity = clients.len();
        Self { shared: Shared::new(clients, capacity), _growth: None }
    }

    /// Whether two connections may be used together.
    fn may_join(one: &Client, other: &Client) -> bool {
        // What one connection keeps would be put back over what another has written.
        !one.session().options().keeps_unflushed()
            && !other.session().options().keeps_unflushed()
            && other.negotiated().is_safe_beside(one.negotiated())
    }

    /// What was negotiated, on all connections alike.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.shared.negotiated
    }

    /// Connections that are there and not known to be dead.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.shared.desk().alive
    }

    /// Calls that wait for a connection.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.desk().line.len()
    }

    /// A connection for the caller alone, until the [`Lease`] is dropped. Waits in line
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
    pub fn client(&self) -> Result<Lease<'_>, Error> {
        self.wait(None).ok_or_else(|| self.shared.desk().end.clone().unwrap_or_else(Error::stopped))
    }

    /// A connection for the caller alone, if one is free.
    #[must_use]
    pub fn try_client(&self) -> Option<Lease<'_>> {
        let index = self.shared.desk().free.pop_front()?;
        self.lease(index)
    }

    /// Reads `buf.len()` bytes at `offset`. See [`Client::read_exact_at`].
    ///
    /// # Errors
    /// As [`Client::read_exact_at`].
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.repeatedly(|client| client.read_exact_at(buf, offset))
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
        self.once(|client| client.write_all_at_with(buf, offset, flags))
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
        let (written, told) = {
            let desk = self.shared.desk();
            (desk.written.clone(), desk.told)
        };
        let mut result = Ok(());
        if written.is_empty() {
            // What others have written.
            result = self.repeatedly(Client::flush);
        }
        for index in written {
            let Some(mut client) = self.wait(Some(index)) else { continue };
            if !self.shared.desk().written.contains(&index) {
                // Somebody else's flush has come between.
                continue;
            }
            match client.client.flush() {
                Ok(()) => self.shared.desk().written.retain(|written| *written != index),
                Err(error) => {
                    self.shared.desk().losses += 1;
                    result = result.and(Err(error));
                }
            }
        }
        let mut desk = self.shared.desk();
        if desk.losses > told {
            desk.told = desk.losses;
            result = result.and_then(|()| Err(RecoveryError::UnflushedLost.into()));
        }
        result
    }

    /// Tells the server that the data in a range is no longer needed. See
    /// [`Client::trim`].
    ///
    /// # Errors
    /// As [`Client::trim`].
    pub fn trim(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.once(|client| client.trim(offset, length))
    }

    /// Makes a range read as zeroes. See [`Client::write_zeroes`].
    ///
    /// # Errors
    /// As [`Client::write_zeroes`].
    pub fn write_zeroes(&self, offset: u64, length: u64, flags: CommandFlags) -> Result<(), Error> {
        let command = Command::write_zeroes(offset, length).with(flags);
        self.once(|client| client.submit_and_wait(command))
    }

    /// Tells the server that a range will be read soon. See [`Client::cache`].
    ///
    /// # Errors
    /// As [`Client::cache`].
    pub fn cache(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.repeatedly(|client| client.cache(offset, length))
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
        self.repeatedly(|client| client.block_status(offset, length, flags))
    }

    /// [Pings](Client::ping) the server on each connection that is free, so that it drops
    /// none of them for being idle. Those that fail are not used any more, unless they
    /// are merely late. Returns how many connections are alive.
    pub fn ping(&self) -> usize {
        let mut idle: Vec<_> = std::iter::from_fn(|| self.try_client()).collect();
        for client in &mut idle {
            // What it comes to shows when the connection is given back.
            let _ = client.client.ping();
        }
        drop(idle);
        self.alive()
    }

    /// Ends all sessions. Connections that are dead already are no error, unless they were
    /// written to and no flush has told so.
    ///
    /// # Errors
    /// As [`Client::disconnect`], the first of them.
    pub fn disconnect(self) -> Result<(), Error> {
        let desk = self.shared.desk();
        let mut result = match desk.losses > desk.told {
            true => Err(RecoveryError::UnflushedLost.into()),
            false => Ok(()),
        };
        drop(desk);
        for mut client in std::iter::from_fn(|| self.try_client()) {
            let ended = client.client.end();
            result = result.and(ended);
        }
        result
    }

    /// A call that changes something, and is not repeated.
    fn once(&self, call: impl FnOnce(&mut Client) -> Result<(), Error>) -> Result<(), Error> {
        let mut lease = self.client()?;
        let result = call(&mut lease.client);
        lease.writes = result.is_ok();
        result
    }

    /// A call that does no harm when it is carried out twice. It ends: each connection
    /// dies once.
    fn repeatedly<T>(
        &self,
        mut call: impl FnMut(&mut Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            let mut lease = self.client()?;
            let result = call(&mut lease.client);
            let dead = !is_usable(&lease);
            drop(lease);
            if result.is_ok() || !dead || self.alive() == 0 {
                return result;
            }
        }
    }

    /// A connection once there is one, or `None` when all are dead; or that one, or `None`
    /// when it is dead.
    fn wait(&self, wanted: Option<usize>) -> Option<Lease<'_>> {
        let mut desk = self.shared.desk();
        let place = match wanted {
            Some(index) => desk.free.iter().position(|free| *free == index),
            None => Some(0),
        };
        if let Some(index) = place.and_then(|place| desk.free.remove(place)) {
            return self.lease(index);
        }
        if desk.alive == 0 || wanted.is_some_and(|index| !desk.written.contains(&index)) {
            return None;
        }
        let (turn, wait) = channel();
        desk.line.push_back(Waiting { index: wanted, turn });
        drop(desk);
        // Fails when the last connection dies, or the wanted one.
        self.lease(wait.recv().ok()?)
    }

    fn lease(&self, index: usize) -> Option<Lease<'_>> {
        let client = self.shared.clients.get(index)?.get()?;
        let client = client.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Lease { client, index, writes: false, pool: self })
    }
}

impl Shared {
    fn new(clients: Vec<Client>, capacity: usize) -> Arc<Self> {
        let negotiated = clients.first().map(|client| client.negotiated().clone());
        let mut places: Vec<_> = clients.into_iter().map(|one| Mutex::new(one).into()).collect();
        let alive = places.len();
        places.resize_with(capacity, OnceLock::new);
        Arc::new(Self {
            clients: places.into(),
            negotiated: negotiated.unwrap_or_default(),
            desk: Mutex::new(Desk { free: (0..alive).collect(), alive, ..Desk::default() }),
        })
    }

    /// One connection more, at a place where there is none yet. Returns whether it fits.
    fn add(&self, index: usize, client: Client) -> bool {
        let safe = client.negotiated().is_safe_beside(&self.negotiated);
        let place = self.clients.get(index).filter(|_| safe);
        let added = place.is_some_and(|place| place.set(Mutex::new(client)).is_ok());
        if added {
            self.desk().alive += 1;
            self.give_back(index, None, false);
        }
        added
    }

    fn give_back(&self, index: usize, end: Option<Error>, writes: bool) {
        let mut desk = self.desk();
        if writes && !desk.written.contains(&index) {
            desk.written.push(index);
        }
        if end.is_some() {
            desk.end = end;
            let before = desk.written.len();
            desk.written.retain(|written| *written != index);
            desk.losses += (before - desk.written.len()) as u64;
            desk.alive -= 1;
            if desk.alive == 0 {
                desk.line.clear();
            }
            desk.line.retain(|waiting| waiting.index != Some(index));
            return;
        }
        let next = desk.line.iter().position(|one| one.index.is_none_or(|one| one == index));
        match next.and_then(|next| desk.line.remove(next)) {
            // Who waits in line does nothing else: it is there to receive.
            Some(waiting) => drop(waiting.turn.send(index)),
            None => desk.free.push_back(index),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
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
pub struct Lease<'p> {
    client: MutexGuard<'p, Client>,
    index: usize,
    /// Something may have been written.
    writes: bool,
    pool: &'p Pool,
}

impl Deref for Lease<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        self.writes = true;
        &mut self.client
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.client.driver.fail(Error::stopped());
        }
        let end = match is_usable(&self.client) {
            true => None,
            false => Some(self.client.driver.end()),
        };
        self.pool.shared.give_back(self.index, end, self.writes);
    }
}
