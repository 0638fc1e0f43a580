//! A connection: the event source, its commands and their completions.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mio::Waker;
use mio::event::Event;
use nbd_proto::{
    Client, Command, CommandFlags, ContextId, Direction, Disconnect, Extent, Machine, Negotiation,
    PeerMisbehaved, RequestId, SubmitError, Table,
};
use nbd_session::OldError as Error;
use nbd_transport::tls::TlsInfo;

use crate::clock::Clock;
use crate::dial::Dial;
use crate::ports::Ports;
use crate::rejected::Rejected;
use crate::stage::{Open, Stage};
use crate::submitter::{OnDone, Queue, Submitter};
use crate::watch::Watch;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no server yet.
    Connecting,
    /// Waiting for the server's answer to an option.
    Negotiating,
    /// Option mode: [`Connection::negotiation`] chooses what comes next.
    Choosing,
    /// Commands are accepted.
    Ready,
    /// Waiting for the last replies and for the server to close.
    Disconnecting,
    /// Over. Completions can still be taken.
    Closed,
}

/// A command that is finished.
#[derive(Debug)]
pub struct Completion<B> {
    /// The id its submission returned; it is free from now on.
    pub id: RequestId,
    /// What was asked for.
    pub command: Command,
    /// The buffer of a read or write.
    pub buffer: Option<B>,
    /// The extents of a block status.
    pub extents: Vec<(ContextId, Extent)>,
    /// How it went.
    pub result: Result<(), Error>,
}

/// A connection to an export, as an event source. Made by [`Builder`](crate::Builder).
///
/// Register it with any interest: it follows what it waits for by itself, with as few
/// calls to the registry as there are changes. The poller tells of each readiness
/// once; so call [`drive`](Self::drive) after every event, after submitting, and
/// as long as [`wants_again`](Self::wants_again).
///
/// Buffers are given up on submission and come back with the completion: `Vec<u8>`,
/// `Box<[u8]>`, or anything else that is bytes. Offsets and lengths are in bytes.
///
/// Dropping it closes the connection abruptly; [`disconnect`](Self::disconnect) does
/// it in good order.
pub struct Connection<B> {
    pub(crate) stage: Stage,
    pub(crate) ports: Ports<B>,
    /// Commands of other threads that are in flight.
    pub(crate) remote: Table<OnDone<B>>,
    pub(crate) queue: Arc<Queue<B>>,
    pub(crate) clock: Clock,
    /// Commands that took too long.
    pub(crate) late: VecDeque<Completion<B>>,
    pub(crate) watch: Option<Watch>,
    /// What a negotiation waits for.
    pub(crate) blocked: Direction,
    pub(crate) last_byte: Instant,
    pub(crate) peer_is_done: bool,
    pub(crate) again: bool,
}

impl<B> Connection<B> {
    pub(crate) fn new(stage: Stage, clock: Clock) -> Self {
        Self {
            stage,
            ports: Ports::new(),
            remote: Table::new(),
            queue: Arc::new(Queue::new()),
            clock,
            late: VecDeque::new(),
            watch: None,
            blocked: Direction::empty(),
            last_byte: Instant::now(),
            peer_is_done: false,
            again: true,
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.stage.state()
    }

    /// The protocol machine, for questions about the export, its size, the negotiated
    /// contexts and the commands in flight. `None` before [`State::Ready`].
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        self.open().map(|open| &open.core)
    }

    /// What was agreed on for TLS, and who the server is, once its handshake is done; `None` in
    /// clear.
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        match &self.stage {
            Stage::Negotiating { handshake, .. } => handshake.tls_info(),
            Stage::Open(open) => open.link.tls_info(),
            Stage::Dialing { .. } | Stage::Over(_) => None,
        }
    }

    /// The negotiation, in [`State::Choosing`]: ask for an option, drive, and take its
    /// events.
    pub fn negotiation(&mut self) -> Option<&mut Negotiation> {
        match &mut self.stage {
            Stage::Negotiating { handshake, .. } => {
                self.last_byte = Instant::now();
                self.clock.began = self.last_byte;
                self.again = true;
                Some(handshake.negotiation())
            }
            _ => None,
        }
    }

    /// Notes what the poller told. A call to [`drive`](Self::drive) is to follow.
    pub fn note(&mut self, event: &Event) {
        // A helper closes its bell, which says nothing of the peer.
        let is_peer = !matches!(self.stage, Stage::Dialing { dial: Dial::Helper { .. }, .. });
        self.peer_is_done |= is_peer && (event.is_read_closed() || event.is_error());
        self.again = true;
        if let Some(watch) = &mut self.watch {
            watch.noted();
        }
    }

    /// Whether there is something to do right now: an event was noted, something was
    /// submitted, the last drive ended with its budget, other threads have commands in
    /// line, or replies have come so fast that the poller was left out. Drive it before polling again, or poll with no timeout.
    #[must_use]
    pub fn wants_again(&self) -> bool {
        self.again || (self.takes_more() && !self.queue.is_empty())
    }

    /// Whether commands in line can be sent, or told that they never will be.
    pub(crate) fn takes_more(&self) -> bool {
        match self.state() {
            State::Ready => self.open().is_some_and(|open| !open.core.is_full()),
            State::Disconnecting | State::Closed => true,
            State::Connecting | State::Negotiating | State::Choosing => false,
        }
    }

    /// A handle to submit commands from other threads. `waker` is that of the poll this
    /// connection is registered with; after its event, drive every connection that
    /// [wants it](Self::wants_again).
    #[must_use]
    pub fn submitter(&self, waker: Arc<Waker>) -> Submitter<B> {
        Submitter::new(Arc::clone(&self.queue), waker)
    }

    /// Why the connection ended, once it is [`State::Closed`]; `None` for one that has ended
    /// in good order. Writes that were acknowledged and not flushed may be lost then, and
    /// what was under way has failed.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        match &self.stage {
            Stage::Open(open) if open.core.is_closed() => {
                let unasked = (!open.leaving).then(|| PeerMisbehaved::Closed.into());
                let fault = || open.core.error().cloned().or(unasked).map(Error::Protocol);
                open.lost.as_ref().and_then(Error::again).or_else(fault)
            }
            Stage::Over(lost) => lost.as_ref().and_then(Error::again),
            Stage::Open(_) | Stage::Dialing { .. } | Stage::Negotiating { .. } => None,
        }
    }

    /// Stops waiting for a command: there will be no completion. Returns its buffer
    /// unless that is still to be sent from; then it is kept until the slot's next use.
    pub fn abandon(&mut self, id: RequestId) -> Option<B> {
        let Stage::Open(open) = &mut self.stage else {
            return None;
        };
        let gone = open.core.abandon(id);
        let sending = open.core.get_direction().contains(Direction::WRITE);
        self.remote.remove(id);
        if gone || !sending { self.ports.buffers.remove(id) } else { None }
    }

    /// Ends the session in good order: no command is accepted from now on, and once
    /// the last reply has come the server is asked to close. Drive until
    /// [`State::Closed`]; [`error`](Self::error) tells whether it went well.
    pub fn disconnect(&mut self) {
        self.last_byte = Instant::now();
        self.clock.began = self.last_byte;
        self.again = true;
        let polite = match &mut self.stage {
            Stage::Open(open) => {
                open.leaving = true;
                open.core.disconnect(Disconnect::AfterReplies);
                true
            }
            Stage::Negotiating { handshake, .. } => handshake.negotiation().abort().is_ok(),
            Stage::Dialing { .. } | Stage::Over(_) => false,
        };
        if !polite {
            self.close();
        }
    }

    /// Ends the connection on the spot. What is in flight fails.
    pub fn close(&mut self) {
        if let Stage::Open(open) = &mut self.stage {
            open.leaving = true;
        }
        self.end(None);
    }

    /// The same, for a reason that is told to every command in flight.
    pub(crate) fn end(&mut self, cause: Option<&Error>) {
        match &mut self.stage {
            Stage::Open(open) => open.kill(cause),
            Stage::Over(lost) => *lost = lost.take().or_else(|| cause.and_then(Error::again)),
            stage @ (Stage::Dialing { .. } | Stage::Negotiating { .. }) => {
                *stage = Stage::Over(cause.and_then(Error::again));
            }
        }
    }

    /// The next command that is finished. Those of other threads are passed on to them
    /// on the way.
    #[must_use]
    pub fn next_completion(&mut self) -> Option<Completion<B>> {
        if let Some(late) = self.late.pop_front() {
            return Some(late);
        }
        loop {
            let Stage::Open(open) = &mut self.stage else {
                return None;
            };
            let nbd_proto::Event::Completed { id, command, result } = open.core.poll_event()?
            else {
                // Anomalies are counted in the statistics, and the end of the connection
                // shows in its state and on each command.
                continue;
            };
            let remark = self.ports.remarks.remove(id);
            if self.clock.is_own(id) {
                continue;
            }
            let Open { core, lost, .. } = &**open;
            let failed = |error| Error::failed(core, lost.as_ref(), command, error, remark);
            let completion = Completion {
                id,
                command,
                buffer: self.ports.buffers.remove(id),
                extents: self.ports.extents.remove(id).unwrap_or_default(),
                result: result.map_err(failed),
            };
            match self.remote.remove(id) {
                Some(on_done) => on_done(Ok(completion)),
                None => return Some(completion),
            }
        }
    }

    /// Passes every finished command to a handler, which may submit more.
    pub fn for_each_completion(&mut self, mut handler: impl FnMut(&mut Self, Completion<B>)) {
        while let Some(completion) = self.next_completion() {
            handler(self, completion);
        }
    }

    fn open(&self) -> Option<&Open> {
        match &self.stage {
            Stage::Open(open) => Some(open),
            _ => None,
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Reads into the whole buffer.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer comes back.
    pub fn read(&mut self, offset: u64, buffer: B) -> Result<RequestId, Rejected<B>> {
        // A length beyond 32 bits does not match the buffer's, which is refused.
        let length = buffer.as_ref().len() as u32;
        self.submit(Command::read(offset, length), Some(buffer))
    }

    /// Writes the whole buffer, with flags such as [`CommandFlags::FUA`] or none.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer comes back.
    pub fn write(
        &mut self,
        offset: u64,
        buffer: B,
        flags: CommandFlags,
    ) -> Result<RequestId, Rejected<B>> {
        let length = buffer.as_ref().len() as u32;
        self.submit(Command::write(offset, length).with(flags), Some(buffer))
    }

    /// Submits any command; a read or write takes a buffer as long as it says.
    ///
    /// # Errors
    /// When the command cannot be sent, [`SubmitError::Full`] among the reasons;
    /// [`SubmitError::NotConnected`] outside [`State::Ready`]; and
    /// [`Error::BufferLength`]. The buffer comes back.
    pub fn submit(
        &mut self,
        command: Command,
        buffer: Option<B>,
    ) -> Result<RequestId, Rejected<B>> {
        self.submit_since(Instant::now(), command, buffer)
    }

    /// Submits a command that has been waited for since some time.
    pub(crate) fn submit_since(
        &mut self,
        since: Instant,
        command: Command,
        buffer: Option<B>,
    ) -> Result<RequestId, Rejected<B>> {
        match self.try_submit(since, command, buffer.as_ref()) {
            Ok(id) => {
                if let Some(buffer) = buffer {
                    self.ports.buffers.insert(id, buffer);
                }
                Ok(id)
            }
            Err(error) => Err(Rejected { error, buffer }),
        }
    }

    fn try_submit(
        &mut self,
        since: Instant,
        command: Command,
        buffer: Option<&B>,
    ) -> Result<RequestId, Error> {
        let length = buffer.map_or(0, |buffer| buffer.as_ref().len());
        Error::check_buffer(&command, length)?;
        let error = SubmitError::NotConnected;
        let Open { core, lost, .. } = match &mut self.stage {
            Stage::Open(open) => &mut **open,
            Stage::Over(lost) => {
                let told = lost.as_ref().and_then(Error::again);
                return Err(told.unwrap_or(Error::Submit { command, error }));
            }
            Stage::Dialing { .. } | Stage::Negotiating { .. } => {
                return Err(Error::Submit { command, error });
            }
        };
        let submitted = core.submit(command);
        let id = submitted.map_err(|error| Error::not_sent(core, lost.as_ref(), command, error))?;
        self.clock.submitted(core, id, command, since);
        self.again = true;
        Ok(id)
    }
}

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("stage", &self.stage)
            .field("queue", &self.queue)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}
