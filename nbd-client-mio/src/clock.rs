//! Time: a connection says when it is to be looked at, and its loop looks.
//!
//! ```text
//!   next_deadline ──► how long to poll ──► handle_timeout ──► next_completion
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nbd_proto::{Client, Command, Machine, RequestId, RequestStatus};
use nbd_session::{KeepAlive, OldError as Error};

use crate::connection::{Completion, Connection, State};
use crate::rejected::Rejected;
use crate::stage::Stage;

/// What a connection knows about time.
#[derive(Debug)]
pub(crate) struct Clock {
    /// For commands that are submitted from now on, and for what is not a command.
    pub(crate) timeout: Option<Duration>,
    /// When the server, its answer to an option, or the end began to be waited for.
    pub(crate) began: Instant,
    /// Commands, oldest first; finished ones go late.
    submitted: VecDeque<Submitted>,
    /// No command is due before this.
    due: Option<Instant>,
    /// How far apart requests may be.
    idle: Option<Duration>,
    keep_alive: Option<KeepAlive>,
}

#[derive(Clone, Copy, Debug)]
struct Submitted {
    id: RequestId,
    command: Command,
    at: Instant,
    timeout: Option<Duration>,
}

impl Submitted {
    fn due(&self) -> Option<Instant> {
        self.at.checked_add(self.timeout?)
    }

    fn is_in_flight(&self, core: &Client) -> bool {
        core.status(self.id) == RequestStatus::InFlight
    }
}

impl Clock {
    pub(crate) fn new(timeout: Option<Duration>, idle: Option<Duration>) -> Self {
        Self {
            timeout,
            began: Instant::now(),
            submitted: VecDeque::new(),
            due: None,
            idle,
            keep_alive: None,
        }
    }

    /// Commands are accepted from now on.
    pub(crate) fn open(&mut self) {
        self.keep_alive = self.idle.map(|idle| KeepAlive::new(idle, Instant::now()));
    }

    pub(crate) fn submitted(
        &mut self,
        core: &Client,
        id: RequestId,
        command: Command,
        at: Instant,
    ) {
        if self.submitted.len() > 2 * core.in_flight() + 64 {
            self.submitted.retain(|one| one.is_in_flight(core));
        }
        let new = Submitted { id, command, at, timeout: self.timeout };
        self.due = earlier(self.due, new.due());
        self.submitted.push_back(new);
    }

    /// Whether a command is none of the caller's.
    pub(crate) fn is_own(&self, id: RequestId) -> bool {
        self.keep_alive.as_ref().is_some_and(|keeper| keeper.is_own(id))
    }

    /// Takes out what has been in flight for too long.
    fn overdue(&mut self, core: &Client, now: Instant) -> Vec<Submitted> {
        let mut overdue = Vec::new();
        if self.due.is_none_or(|due| now < due) {
            return overdue;
        }
        self.due = None;
        self.submitted.retain(|one| {
            if !one.is_in_flight(core) {
                return false;
            }
            match one.due() {
                Some(due) if due <= now => {
                    overdue.push(*one);
                    false
                }
                due => {
                    self.due = earlier(self.due, due);
                    true
                }
            }
        });
        overdue
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

impl<B> Connection<B> {
    /// Changes how long commands that are submitted from now on may take, and how long
    /// the end may take.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.clock.timeout = timeout;
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing happens before:
    /// poll no longer than until then.
    ///
    /// ```
    /// # use std::time::Instant;
    /// # fn example(disk: &nbd_client_mio::Connection<Vec<u8>>, poll: &mut mio::Poll,
    /// #     events: &mut mio::Events) -> std::io::Result<()> {
    /// let left = disk.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
    /// poll.poll(events, left)?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let Clock { timeout, began, due, keep_alive, .. } = &self.clock;
        let line = self.queue.since();
        let (waited, idle) = match self.state() {
            State::Connecting | State::Negotiating | State::Disconnecting => (Some(*began), None),
            State::Ready => (None, keep_alive.as_ref().map(KeepAlive::next)),
            State::Choosing => (None, None),
            State::Closed => return None,
        };
        let waited = earlier(waited, line).and_then(|since| since.checked_add((*timeout)?));
        earlier(earlier(waited, idle), *due)
    }

    /// Does what is due: each command that has taken too long is finished, with
    /// [`Error::TimedOut`] and without harm to the others; its buffer comes back unless
    /// that is still to be sent from. An idle connection asks the server for something,
    /// if [that is wanted](crate::Builder::keep_alive). Finding nothing to do is
    /// no fault.
    ///
    /// Drive the connection afterwards if it [wants that](Self::wants_again).
    ///
    /// # Errors
    /// When connecting, negotiating or disconnecting has taken too long, or a server did
    /// not answer that was to show that it is there. The connection is [`State::Closed`]
    /// then, and every command in flight has its completion.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if let Some(timeout) = self.clock.timeout {
            let state = match self.state() {
                State::Connecting => Some("connecting"),
                State::Negotiating => Some("negotiating"),
                State::Disconnecting => Some("disconnecting"),
                State::Choosing | State::Ready | State::Closed => None,
            };
            let late = now.saturating_duration_since(self.clock.began) >= timeout;
            if let Some(state) = state.filter(|_| late) {
                let error = Error::TimedOut { state, timeout };
                self.end(Some(&error));
                return Err(error);
            }
            while let Some(late) = self.queue.pop_since(now.checked_sub(timeout)) {
                let error = Error::TimedOut { state: "waiting in line", timeout };
                (late.on_done)(Err(Rejected { error, buffer: late.buffer }));
            }
        }
        let Stage::Open(open) = &mut self.stage else {
            return Ok(());
        };
        let state = open.core.state_name();
        for Submitted { id, command, timeout, .. } in self.clock.overdue(&open.core, now) {
            let on_done = self.remote.remove(id);
            let buffer = self.abandon(id);
            let error = Error::TimedOut { state, timeout: timeout.unwrap_or_default() };
            let extents = Vec::new();
            let completion = Completion { id, command, buffer, extents, result: Err(error) };
            match on_done {
                Some(on_done) => on_done(Ok(completion)),
                None => self.late.push_back(completion),
            }
            self.again = true;
        }
        if let Stage::Open(open) = &mut self.stage
            && let Some(keeper) = &mut self.clock.keep_alive
        {
            if let Err(error) = keeper.look(now, &mut open.core) {
                let error = Error::from(error);
                self.end(Some(&error));
                return Err(error);
            }
            self.again = true;
        }
        Ok(())
    }

    /// When the last byte came from the server, or waiting for it began.
    #[must_use]
    pub const fn last_byte(&self) -> Instant {
        self.last_byte
    }

    /// The command that has been in flight for longest, and when it was submitted.
    #[must_use]
    pub fn oldest(&self) -> Option<(RequestId, Instant)> {
        let core = self.client()?;
        let mut submitted = self.clock.submitted.iter();
        submitted.find(|one| one.is_in_flight(core)).map(|one| (one.id, one.at))
    }

    /// When the server will have been silent for too long, if anything is expected of
    /// it, whatever the single commands' deadlines are.
    #[must_use]
    pub fn deadline(&self, silence: Duration) -> Option<Instant> {
        let since = match self.state() {
            State::Choosing | State::Closed => None,
            State::Ready => self.oldest().map(|(_, at)| at.max(self.last_byte)),
            State::Connecting | State::Negotiating | State::Disconnecting => Some(self.last_byte),
        };
        since?.checked_add(silence)
    }
}
