//! The state's other side: what happens between two connections.
//!
//! ```text
//!   start ─► queue ─► ReplayLog ─► core        lose: all of it back into the journal
//!                        ▲         │
//!                        └─────────┘         resume: another core, another wire
//! ```

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use nbd_proto::{
    Command, CommandError, CommandFailure, Disconnect, Machine, RequestId, SubmitError,
};
use nbd_session::OldError as Error;
use nbd_session::replay::{Place, Reconnect, RecoveryError, ReplayLog};

use super::{State, WhenFull};
use crate::buffer::Buffer;
use crate::calls::{Matter, Stage, Ticket};
use crate::end::End;
use crate::pending::Terms;
use crate::redial::Dialled;

/// Whether there is a connection at the moment.
///
/// ```
/// # use nbd_client_async::{Client, ConnectionState};
/// # fn example(client: &Client) {
/// assert_eq!(client.connection_state(), ConnectionState::Connected);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// There is one, as far as anybody can know.
    Connected,
    /// It was lost; calls wait for another one.
    Reconnecting,
    /// It is over, and there will be none.
    Closed,
}

/// What it takes to survive a lost connection.
pub(crate) struct Recovery {
    journal: ReplayLog<Ticket, Bytes>,
    policy: Reconnect,
    /// When this connection was made.
    connected: Instant,
    /// A command was answered on this connection.
    useful: bool,
    /// When the connection was lost, and what was done about it so far.
    outage: Option<Outage>,
    /// The session is to end.
    pub(super) closing: bool,
    /// Nobody holds the client any more.
    pub(super) unwatched: bool,
}

/// A lost connection.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// When the last useful connection was lost.
    pub(crate) since: Instant,
    /// Why.
    pub(crate) cause: Arc<Error>,
    /// Attempts made since.
    pub(crate) attempts: u32,
}

impl Recovery {
    pub(crate) fn new(policy: Reconnect, core: &nbd_proto::Client) -> Result<Self, RecoveryError> {
        Ok(Self {
            journal: ReplayLog::new(&policy, core.negotiated(), core.capacity())?,
            policy,
            connected: Instant::now(),
            useful: true,
            outage: None,
            closing: false,
            unwatched: false,
        })
    }

    pub(super) fn is_down(&self) -> bool {
        self.journal.is_lost()
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.journal.has_unflushed()
    }
}

impl State {
    /// Starts a call by way of the journal. What is wrong with it the call tells.
    pub(super) fn start_journaled(
        &mut self,
        matter: &mut Matter,
        terms: &Terms,
        waker: &Waker,
    ) -> Result<Ticket, Box<Error>> {
        let command = matter.command;
        let full = self.recovery.as_ref().is_some_and(|recovery| recovery.journal.is_full())
            || self.queue.len() > self.gone;
        if full && terms.when_full == WhenFull::Fail {
            let error = SubmitError::Full;
            return Err(Box::new(Error::Submit { command, error }));
        }
        if self.recovery.as_ref().is_some_and(|recovery| recovery.closing) {
            let error = SubmitError::Disconnecting;
            return Err(Box::new(Error::Submit { command, error }));
        }
        let ticket = self.wait(Stage::Queued, matter, terms, waker);
        self.queue.push_back(ticket);
        self.admit();
        self.send_or_rouse();
        Ok(ticket)
    }

    /// Takes those in line into the journal, and from there what is due to the machine.
    pub(super) fn admit_journaled(&mut self) {
        while let Some(recovery) = self.recovery.as_mut().filter(|one| !one.journal.is_full()) {
            let Some(ticket) = self.queue.pop_front() else {
                self.gone = 0;
                break;
            };
            let call = self.calls.get_mut(ticket);
            let Some(call) = call.filter(|call| matches!(call.stage, Stage::Queued)) else {
                self.gone = self.gone.saturating_sub(1);
                continue;
            };
            let payload = match &call.matter.buffer {
                Buffer::Write(bytes) => Some(bytes.clone()),
                _ => None,
            };
            if let Ok(place) = recovery.journal.submit(ticket, call.matter.command, payload) {
                call.stage = Stage::Journaled(place);
            }
        }
        self.hand_over();
        self.take_failed();
    }

    fn hand_over(&mut self) {
        while !self.core.is_full()
            && let Some(recovery) = &mut self.recovery
            && let Some((place, command)) = recovery.journal.due()
        {
            match self.core.submit(command) {
                Ok(id) => {
                    recovery.journal.sent(place, id);
                    match recovery.journal.caller(id) {
                        Some(ticket) => self.calls.own(id, ticket),
                        None => {
                            let bytes = recovery.journal.payload(id).cloned();
                            self.calls.send_on_behalf(id, bytes.unwrap_or_default());
                        }
                    }
                    self.rousing = true;
                }
                // The connection is ending; that will show.
                Err(SubmitError::Full | SubmitError::Disconnecting | SubmitError::NotConnected) => {
                    return;
                }
                Err(error) => {
                    if let Some(ticket) = recovery.journal.refused(place, error) {
                        self.finish(ticket, Err(Error::Submit { command, error }.into()));
                    }
                }
            }
        }
    }

    fn take_failed(&mut self) {
        while let Some((ticket, error)) =
            self.recovery.as_mut().and_then(|recovery| recovery.journal.poll_failed())
        {
            self.finish(ticket, Err(Box::new(error.into())));
        }
        let fault = self.recovery.as_ref().and_then(|recovery| recovery.journal.fault()).cloned();
        match fault {
            Some(fault) => self.close(End::Recovery(fault)),
            None => self.close_when_idle(),
        }
    }

    /// A request is finished, perhaps only on this connection.
    pub(super) fn deliver_journaled(
        &mut self,
        id: RequestId,
        command: Command,
        result: Result<(), CommandError>,
    ) {
        let Some(recovery) = &mut self.recovery else {
            return;
        };
        recovery.useful |= result != Err(CommandError::ConnectionLost);
        let Some((ticket, result)) = recovery.journal.completed(id, result) else {
            return;
        };
        let Some(call) = self.calls.get_mut(ticket) else {
            return;
        };
        call.matter.renumber(|context| recovery.journal.context(context));
        let outcome = result.map_err(|error| {
            let remark = call.matter.take_remark();
            Box::new(CommandFailure::new(command, error, remark).into())
        });
        self.finish(ticket, outcome);
    }

    /// What is to be done after replies have been handed out.
    pub(crate) fn after_replies(&mut self) {
        let Some(recovery) = &self.recovery else {
            return;
        };
        if recovery.journal.is_drained() {
            // The server said that it is shutting down, and has nothing more to say.
            self.close(End::Closed);
        }
    }

    /// Nobody waits for a command any more.
    pub(super) fn withdraw(&mut self, place: Place) {
        let request = self.recovery.as_ref().and_then(|recovery| recovery.journal.request(place));
        if let Some(id) = request {
            self.abandon(id);
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.journal.cancel(place);
        }
    }

    /// Ends the session, if that was asked for and everything is done.
    pub(super) fn close_when_idle(&mut self) {
        let Some(recovery) = &self.recovery else {
            return;
        };
        let idle = recovery.journal.is_idle() && self.queue.len() == self.gone;
        if !recovery.closing || !idle {
            return;
        }
        let (down, unwatched) = (recovery.is_down(), recovery.unwatched);
        if down && recovery.journal.has_unflushed() {
            return self.close(End::Recovery(RecoveryError::UnflushedLost));
        }
        if down {
            return self.close(End::Closed);
        }
        self.core.disconnect(Disconnect::AfterReplies);
        if unwatched {
            self.linger();
        }
    }

    /// The connection is gone, and is to be made again. Returns whether that is so.
    pub(super) fn lose(&mut self, end: &End) -> bool {
        let Some(cause) = end.loss() else {
            return false;
        };
        let Some(recovery) = &self.recovery else {
            return false;
        };
        let idle = recovery.journal.is_idle() && self.queue.len() == self.gone;
        if recovery.is_down() || recovery.closing && idle {
            return false;
        }
        let _ = self.core.eof();
        self.deliver();
        self.calls.restart();
        self.wire = None;
        (self.linger, self.refused) = (None, None);
        (self.unflushed, self.shut) = (false, false);
        if let Some(recovery) = &mut self.recovery {
            recovery.journal.lost();
            let lasted = recovery.connected.elapsed() > recovery.policy.longest_wait();
            let cause = Arc::new(cause);
            match &mut recovery.outage {
                Some(outage) if !recovery.useful && !lasted => outage.cause = cause,
                outage => *outage = Some(Outage { since: Instant::now(), cause, attempts: 0 }),
            }
        }
        self.wake.extend(self.watchers.take());
        self.rousing = true;
        self.take_failed();
        true
    }

    /// What is to be done about, while there is no connection.
    pub(crate) fn outage(&self) -> Option<(Outage, Reconnect)> {
        let recovery = self.recovery.as_ref().filter(|recovery| recovery.is_down())?;
        recovery.outage.clone().map(|outage| (outage, recovery.policy))
    }

    /// There is another connection.
    pub(crate) fn resume(&mut self, dialled: Dialled) {
        let Dialled { core, link, wire, attempts } = dialled;
        let Some(recovery) = &mut self.recovery else {
            return;
        };
        if let Err(changed) = recovery.journal.resume(core.negotiated()) {
            return self.close(End::Recovery(changed.into()));
        }
        self.reconnects += 1;
        recovery.connected = Instant::now();
        recovery.useful = false;
        if let Some(outage) = &mut recovery.outage {
            outage.attempts = attempts;
        }
        (self.core, self.link, self.wire) = (core, link, Some(wire));
        if let Some(keeper) = &mut self.keep_alive {
            keeper.restart(Instant::now());
        }
        self.wake.extend(self.watchers.take());
        self.admit();
    }

    pub(crate) fn connection(&self) -> ConnectionState {
        match &self.recovery {
            _ if self.end.is_some() => ConnectionState::Closed,
            Some(recovery) if recovery.is_down() => ConnectionState::Reconnecting,
            Some(_) | None => ConnectionState::Connected,
        }
    }

    /// Whether a lost connection is made again.
    pub(crate) fn survives(&self) -> bool {
        self.recovery.is_some()
    }

    /// Whether acknowledged writes are kept, so that nobody else may write.
    pub(crate) fn keeps_unflushed(&self) -> bool {
        self.recovery.as_ref().is_some_and(|one| one.policy.kept_bytes().is_some())
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery")
            .field("journal", &self.journal)
            .field("outage", &self.outage)
            .finish_non_exhaustive()
    }
}
