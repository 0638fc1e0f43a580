//! Several connections to one export, for many threads.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nbd_proto::{
    Command, CommandFlags, ContextId, Extent, Negotiated, PeerMisbehaved, SubmitError,
};
use nbd_session::OldError as Error;

use crate::client::Client;
use crate::state::State;

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
/// ([`Negotiated::is_safe_beside`]). When a connection dies, the call that was on it
/// fails, but for those that may be repeated, which are tried again on another; all
/// other calls go on. A write is not tried again: the server may still be carrying out
/// the first one, and could finish it after a later write to the same place.
///
/// A timeout of the connections counts from the time when a call has got one.
///
/// ```no_run
/// use nbd_client_blocking::Builder;
///
/// let pool = Builder::new().connect_pool("nbd://localhost/disk", 4)?;
/// std::thread::scope(|scope| {
///     for part in 0..16 {
///         let pool = &pool;
///         scope.spawn(move || pool.write_at(part << 20, &[7; 1 << 20]));
///     }
/// });
/// pool.flush()?;
/// pool.disconnect()?;
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    /// Locked only by whom the desk gave them to, so nobody waits for these for longer
    /// than giving one back takes.
    clients: Box<[Mutex<Client>]>,
    negotiated: Negotiated,
    desk: Mutex<Desk>,
}

/// Who gets which connection.
#[derive(Debug)]
struct Desk {
    /// Connections nobody uses, the one that has been free for longest first.
    free: VecDeque<usize>,
    /// Calls that wait for one. Never any while one is free.
    line: VecDeque<Sender<usize>>,
    alive: usize,
}

impl Pool {
    /// A pool of connections that are there already, to one export of one server. Only
    /// the first is kept when several are not safe, or when the server describes the
    /// export differently on any of them.
    #[must_use]
    pub fn new(mut clients: Vec<Client>) -> Self {
        if !Self::may_grow(&clients) {
            clients.truncate(1);
        }
        let negotiated = clients.first().map(|client| client.negotiated().clone());
        let alive = clients.len();
        let desk = Desk { free: (0..alive).collect(), line: VecDeque::new(), alive };
        Self {
            clients: clients.into_iter().map(Mutex::new).collect(),
            negotiated: negotiated.unwrap_or_default(),
            desk: Mutex::new(desk),
        }
    }

    /// Whether all of them, and more, may be used together.
    pub(crate) fn may_grow(clients: &[Client]) -> bool {
        let Some(first) = clients.first() else {
            return true;
        };
        clients.iter().all(|client| client.negotiated().is_safe_beside(first.negotiated()))
    }

    /// What was negotiated, on all connections alike.
    #[must_use]
    pub const fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Connections that are not known to be dead.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.desk().alive
    }

    /// Calls that wait for a connection.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.desk().line.len()
    }

    /// A connection for the caller alone, until the [`Lease`] is dropped. Waits in line
    /// until one is free.
    ///
    /// A thread that holds one and waits for another may wait for ever.
    ///
    /// ```no_run
    /// # fn example(pool: &nbd_client_blocking::Pool) -> Result<(), nbd_client_blocking::Error> {
    /// let mut client = pool.client()?;
    /// client.read_at(0, &mut [0; 512])?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When all connections are dead.
    pub fn client(&self) -> Result<Lease<'_>, Error> {
        self.wait().ok_or_else(|| PeerMisbehaved::Closed.into()).map_err(Error::Protocol)
    }

    /// A connection for the caller alone, if one is free.
    #[must_use]
    pub fn try_client(&self) -> Option<Lease<'_>> {
        let index = self.desk().free.pop_front()?;
        self.lease(index)
    }

    /// Reads `buf.len()` bytes at `offset`. See [`Client::read_at`].
    ///
    /// # Errors
    /// As [`Client::read_at`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let command = Command::read(offset, u32::try_from(buf.len()).unwrap_or(u32::MAX));
        self.repeatedly(command, |client| client.read_at(offset, buf))
    }

    /// Writes all of `buf` at `offset`. See [`Client::write_at`].
    ///
    /// # Errors
    /// As [`Client::write_at`].
    pub fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error> {
        self.write_at_with(offset, buf, CommandFlags::empty())
    }

    /// Writes with flags. See [`Client::write_at_with`].
    ///
    /// # Errors
    /// As [`Client::write_at_with`].
    pub fn write_at_with(&self, offset: u64, buf: &[u8], flags: CommandFlags) -> Result<(), Error> {
        let command = Command::write(offset, u32::try_from(buf.len()).unwrap_or(u32::MAX));
        self.take(command.with(flags))?.write_at_with(offset, buf, flags)
    }

    /// Makes everything durable whose write has succeeded, whichever connection it was
    /// on: that is what [`CAN_MULTI_CONN`](nbd_proto::TransmissionFlags::CAN_MULTI_CONN)
    /// promises.
    ///
    /// # Errors
    /// As [`Client::flush`].
    pub fn flush(&self) -> Result<(), Error> {
        self.repeatedly(Command::flush(), Client::flush)
    }

    /// Tells the server that the data in a range is no longer needed. See
    /// [`Client::trim`].
    ///
    /// # Errors
    /// As [`Client::trim`].
    pub fn trim(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.take(Command::trim(offset, length))?.trim(offset, length)
    }

    /// Makes a range read as zeroes. See [`Client::write_zeroes`].
    ///
    /// # Errors
    /// As [`Client::write_zeroes`].
    pub fn write_zeroes(&self, offset: u64, length: u64, flags: CommandFlags) -> Result<(), Error> {
        let command = Command::write_zeroes(offset, length).with(flags);
        self.take(command)?.submit_and_wait(command)
    }

    /// Tells the server that a range will be read soon. See [`Client::cache`].
    ///
    /// # Errors
    /// As [`Client::cache`].
    pub fn cache(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.repeatedly(Command::cache(offset, length), |client| client.cache(offset, length))
    }

    /// Asks for the extents of a range. See [`Client::block_status`]; it is not tried
    /// again, as some of the extents may have been passed on.
    ///
    /// # Errors
    /// As [`Client::block_status`].
    pub fn block_status(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
        on_extent: impl FnMut(ContextId, Extent),
    ) -> Result<(), Error> {
        let mut client = self.take(Command::block_status(offset, length).with(flags))?;
        client.block_status(offset, length, flags, on_extent)
    }

    /// [Pings](Client::ping) the server on each connection that is free, so that it drops
    /// none of them for being idle. Those that fail are not used any more, unless they
    /// are merely late. Returns how many connections are alive.
    pub fn ping(&self) -> usize {
        let mut idle: Vec<_> = std::iter::from_fn(|| self.try_client()).collect();
        for client in &mut idle {
            // What it comes to shows when the connection is given back.
            let _ = client.ping();
        }
        drop(idle);
        self.alive()
    }

    /// Ends all sessions. Connections that are dead already are no error.
    ///
    /// # Errors
    /// As [`Client::disconnect`], the first of them.
    pub fn disconnect(self) -> Result<(), Error> {
        let mut result = Ok(());
        for client in self.clients {
            let client = client.into_inner().unwrap_or_else(PoisonError::into_inner);
            let ended = client.disconnect();
            result = result.and(ended);
        }
        result
    }

    /// A call that does no harm when it is carried out twice. It ends: each connection
    /// dies once.
    fn repeatedly(
        &self,
        command: Command,
        mut call: impl FnMut(&mut Client) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let mut client = self.take(command)?;
            let result = call(&mut client);
            let dead = !is_usable(&client);
            drop(client);
            if result.is_ok() || !dead || self.alive() == 0 {
                return result;
            }
        }
    }

    fn take(&self, command: Command) -> Result<Lease<'_>, Error> {
        let error = SubmitError::NotConnected;
        self.wait().ok_or(Error::Submit { command, error })
    }

    /// A connection once there is one, or `None` when all are dead.
    fn wait(&self) -> Option<Lease<'_>> {
        let mut desk = self.desk();
        if let Some(index) = desk.free.pop_front() {
            return self.lease(index);
        }
        if desk.alive == 0 {
            return None;
        }
        let (sender, turn) = channel();
        desk.line.push_back(sender);
        drop(desk);
        // Fails when the last connection dies.
        self.lease(turn.recv().ok()?)
    }

    fn lease(&self, index: usize) -> Option<Lease<'_>> {
        let client = self.clients.get(index)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Lease { client, index, pool: self })
    }

    fn give_back(&self, index: usize, usable: bool) {
        let mut desk = self.desk();
        if !usable {
            desk.alive -= 1;
            if desk.alive == 0 {
                desk.line.clear();
            }
            return;
        }
        match desk.line.pop_front() {
            // Who waits in line does nothing else: it is there to receive.
            Some(turn) => drop(turn.send(index)),
            None => desk.free.push_back(index),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_usable(client: &Client) -> bool {
    match client.state() {
        State::Ready | State::Processing | State::Reconnecting => true,
        State::Connecting
        | State::Negotiating
        | State::Disconnecting
        | State::Closed
        | State::Dead => false,
    }
}

/// A connection of a [`Pool`], for one caller alone. Dropping it gives it back.
///
/// When its thread panics, the connection is closed: it may have been in the middle of
/// something.
#[derive(Debug)]
pub struct Lease<'p> {
    client: MutexGuard<'p, Client>,
    index: usize,
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
        &mut self.client
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.client.kill();
        }
        self.pool.give_back(self.index, is_usable(&self.client));
    }
}
