//! How the connections to a server are made and ended.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nbd_client_mio::PooledBuffer;
use nbd_client_mio::proto::{Command, ExportInfo, TransmissionFlags};
use nbd_client_mio::{ConnectOptions, Connection, Error, Limit, State};

use super::Connections;

/// How long the server has for the last replies and the last flush.
const FAREWELL: Duration = Duration::from_secs(30);

/// A connection that is ready, over a poll of its own.
fn connect(
    options: ConnectOptions,
    poll: &mut Poll,
    token: Token,
) -> Result<Connection<PooledBuffer>, Error> {
    let mut connection = Connection::connect(options)?;
    poll.registry().register(&mut connection, token, mio::Interest::READABLE)?;
    let mut events = Events::with_capacity(16);
    loop {
        match connection.drive(poll.registry())? {
            State::Ready => return Ok(connection),
            State::Closed => return Err(io::Error::from(io::ErrorKind::NotConnected).into()),
            _ => {}
        }
        if connection.needs_drive() {
            continue;
        }
        let left =
            connection.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        wait(poll, &mut events, left)?;
        events.iter().filter(|event| event.token() == token).for_each(|event| {
            connection.handle_event(event);
        });
        if connection.next_deadline().is_some_and(|at| at <= Instant::now()) {
            connection.handle_timeout(Instant::now());
        }
    }
}

/// Polls; a signal is no event.
pub(crate) fn wait(poll: &mut Poll, events: &mut Events, left: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, left) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        polled => polled,
    }
}

impl<O> Connections<O> {
    /// Connects to the server, with as many connections as it takes, `most` at most. The first
    /// is registered with token 0, and each of the others with one more than the last.
    ///
    /// # Errors
    /// When there is not even one.
    pub(crate) fn connect(
        options: &ConnectOptions,
        most: usize,
        poll: &mut Poll,
    ) -> Result<Self, Error> {
        let first = connect(options.clone(), poll, Token(0))?;
        let mut connections = Self::new(first, most, options.clone());
        while connections.wants_more() {
            let number = connections.iter().count();
            let options = options.for_member(number);
            let Ok(another) = connect(options, poll, Token(number)) else { break };
            if !connections.join(another) {
                break;
            }
        }
        Ok(connections)
    }

    /// Why there are not as many connections as the user wants.
    pub(crate) fn why_fewer(&self, is_command: bool) -> &'static str {
        let read_only = self.export().is_some_and(ExportInfo::is_read_only);
        let keeps = self.options.keeps_unflushed() && !read_only;
        let could_part = self.options.endpoints().len() > 1 && !self.options.is_spread();
        match (is_command, keeps, could_part, self.iter().count()) {
            (true, ..) => "since each would be one to another server",
            (_, true, ..) => {
                "since what is written is kept until it is flushed; --keep-unflushed=0 allows more"
            }
            (_, _, true, _) => {
                "since others could come to be to another server; --spread allows that"
            }
            (.., 1) => "since it does not say that several are safe, or takes no more",
            _ => "since it takes no more",
        }
    }

    /// Takes leave of the server, when all that was acknowledged is safe there. Nobody is told of
    /// requests that are under way.
    ///
    /// # Errors
    /// When it is not certain that everything which was acknowledged is safe.
    pub(crate) fn leave(&mut self, poll: &mut Poll, events: &mut Events) -> Result<(), Error> {
        let limit = Instant::now() + FAREWELL;
        let unflushed = self.iter().any(|one| one.session().has_unflushed());
        if !unflushed && self.iter().all(|one| one.state() == State::Reconnecting) {
            // Nothing is to be made safe: a server that is away is not waited for.
            return Ok(());
        }
        let mut waiting = self
            .export()
            .is_some_and(|export| export.flags.contains(TransmissionFlags::SEND_FLUSH));
        if waiting {
            self.submit(None, Command::flush(), None);
        }
        let mut flushed = Ok(());
        let mut leaving = false;
        loop {
            let alive = self.drive(poll.registry());
            while let Some(done) = self.next_done() {
                if done.owner.is_none() {
                    waiting = false;
                    flushed = done.result;
                }
            }
            if !alive {
                return flushed.and_then(|()| self.farewell());
            }
            if !leaving && (!waiting || Instant::now() >= limit) {
                leaving = true;
                self.disconnect(Limit::Until(limit));
                continue;
            }
            let until = self.next_deadline().map_or(limit, |at| at.min(limit));
            let left = match self.needs_drive() {
                true => Duration::ZERO,
                false => until.saturating_duration_since(Instant::now()),
            };
            wait(poll, events, Some(left))?;
            events.iter().for_each(|event| self.handle_event(event));
            self.handle_timeout(Instant::now());
        }
    }
}
