//! Several connections to one export, in one event loop.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::{Interest, Registry, Token};
use nbd_proto::Command;
use nbd_session::pool::{Call, Members};
use nbd_session::{ConnectOptions, Error, Limit, Rejected, State};

use crate::completion::{Completion, OnDone, Outcome};
use crate::connection::Connection;

/// Several connections to one export, each call on the one that has the least to do.
///
/// It has one connection only when the server does not say that more are safe
/// ([`Negotiated::is_safe_beside`](nbd_proto::Negotiated::is_safe_beside)), and with
/// [`keep_unflushed`](nbd_session::replay::Reconnect::keep_unflushed), which could put an older
/// write over a newer one of another connection. The others are made once the first is ready,
/// as far as the server has room for them.
///
/// A call that fails with its connection is tried on another one where that does no harm: a
/// read, not a write, which the server may still be carrying out. A flush goes to each
/// connection that was written to; when one of those is dead, its writes may be lost, and the
/// flush fails.
///
/// Each of its [connections](Self::connections) is an event source of its own, which the caller
/// polls for, with the pool's token and its number in the pool added to it; the pool drives them.
///
/// ```no_run
/// use mio::{Events, Poll, Token};
/// use nbd_client_mio::proto::Command;
/// use nbd_client_mio::{Connection, Pool, State};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(64));
/// let mut pool = Pool::connect("nbd://localhost/disk", 4, Token(0))?;
/// pool.submit(Command::read(0, 512), Some(vec![0; 512]), |done| println!("{done:?}"));
/// while pool.drive(poll.registry())? != State::Closed {
///     if !pool.connections().iter().any(Connection::needs_drive) {
///         poll.poll(&mut events, None)?;
///         for event in &events {
///             pool.connections()[event.token().0].handle_event(event);
///         }
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Pool<B> {
    options: ConnectOptions,
    members: Members,
    /// Those that have joined, by number, and one more that may be on its way.
    connections: Vec<Connection<B>>,
    token: Token,
    tell: Sender<Done<B>>,
    told: Receiver<Done<B>>,
}

/// What came of a call on one connection.
struct Done<B> {
    call: Call,
    on_done: OnDone<B>,
    outcome: Outcome<B>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + Send + 'static> Pool<B> {
    /// Begins to connect to a pool of up to `size` connections, at least one.
    ///
    /// # Errors
    /// As [`Connection::connect`].
    pub fn connect<O>(to: O, size: usize, token: Token) -> Result<Self, Error>
    where
        O: TryInto<ConnectOptions>,
        Error: From<O::Error>,
    {
        let options = to.try_into()?;
        let connections = vec![Connection::new(options.clone(), None)?];
        let (members, (tell, told)) = (Members::new(size.max(1)), channel());
        Ok(Self { options, members, connections, token, tell, told })
    }

    /// The connections, by number, dead ones and one that is being made included: to pass on
    /// what the poller tells, and to look at.
    pub fn connections(&mut self) -> &mut [Connection<B>] {
        &mut self.connections
    }

    /// How they are doing: how many are [alive](Members::alive), and what the
    /// [end](Members::farewell) came to that was asked for.
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// Begins a call on the connection that has the least to do; the first takes all until it
    /// is ready. `on_done` is called by [`drive`](Self::drive), with what failed as an error. A
    /// flush makes every write durable that was acknowledged, whichever connection it was on.
    pub fn submit(
        &mut self,
        command: Command,
        buffer: Option<B>,
        on_done: impl FnOnce(Result<Completion<B>, Rejected<B>>) + Send + 'static,
    ) {
        let unflushed = |number: usize| self.connections[number].session.has_unflushed();
        let call = self.members.begin_call(command, unflushed);
        self.go_on(call, buffer, Box::new(on_done));
    }

    fn go_on(&mut self, mut call: Call, buffer: Option<B>, on_done: OnDone<B>) {
        let first = self.members.is_empty().then_some(0);
        let Some(number) = self.members.next_member(&mut call, usize::MAX).or(first) else {
            return on_done(Err(Rejected { error: self.members.end(), buffer }));
        };
        let (command, tell) = (call.command(), self.tell.clone());
        // The connection is there: it takes it.
        let _ = self.connections[number].submitter.submit(command, buffer, move |outcome| {
            // A pool that is gone has nobody to tell.
            let _ = tell.send(Done { call, on_done, outcome });
        });
    }

    /// Drives all connections that need it, lets new ones join and ends calls.
    ///
    /// # Errors
    /// When a connection cannot be registered.
    pub fn drive(&mut self, registry: &Registry) -> io::Result<State> {
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            if connection.registration.is_none() {
                registry.register(connection, Token(self.token.0 + number), Interest::READABLE)?;
            }
            if connection.needs_drive() {
                // How it ended is for the members to see.
                let _ = connection.drive(registry);
            }
            // All of them have somewhere else to go.
            while connection.next_completion().is_some() {}
            if !self.members.look(number, &connection.session) {
                self.connections.truncate(number);
            }
        }
        if self.members.wants_more() && self.connections.len() == self.members.len() {
            match Connection::new(self.options.for_member(self.members.len()), None) {
                Ok(another) => self.connections.push(another),
                Err(_) => self.members.no_room(),
            }
        }
        while let Ok(Done { mut call, on_done, outcome }) = self.told.try_recv() {
            let result = match &outcome {
                Ok(done) => done.result.clone(),
                Err(rejected) => Err(rejected.error.clone()),
            };
            let told = self.members.called(&mut call, result);
            if matches!(told, Some(Ok(()))) {
                on_done(outcome);
                continue;
            }
            let (Ok(Completion { buffer, .. }) | Err(Rejected { buffer, .. })) = outcome;
            match told {
                Some(Err(error)) => on_done(Err(Rejected { error, buffer })),
                _ => self.go_on(call, buffer, on_done),
            }
        }
        let mut states = self.connections.iter().map(Connection::state);
        Ok(states.find(|state| *state != State::Closed).unwrap_or(State::Closed))
    }

    /// Ends all sessions in good order: drive until [`State::Closed`]. What it came to is the
    /// members' [farewell](Members::farewell). Connections that were dead before are no error,
    /// unless they had acknowledged writes that were not flushed, and no flush has told so.
    pub fn disconnect(&mut self, limit: Limit) {
        // What was lost is part of the farewell.
        let _ = self.members.leave();
        self.connections.iter_mut().for_each(|connection| connection.disconnect(limit));
    }
}
