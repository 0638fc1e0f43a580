//! One connection: machine, socket, and all calls, behind one lock.

mod recovery;
mod stream;
mod unflushed;
mod watchers;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use nbd_proto::{
    Command, CommandError, CommandFailure, Disconnect, ExportInfo, Machine, Negotiated,
    PeerMisbehaved, RequestId, SubmitError,
};
use nbd_session::{KeepAlive, Link, OldError as Error};
use nbd_transport::PeerProcess;
use nbd_transport::tls::TlsInfo;

use crate::calls::{Call, Calls, Matter, Outcome, Stage, Ticket};
use crate::end::End;
use crate::pending::Terms;
pub use recovery::ConnectionState;
pub(crate) use recovery::{Outage, Recovery};
pub(crate) use stream::Stream;
use unflushed::Unflushed;
use watchers::Watchers;
pub(crate) use watchers::Watching;

/// How long a connection that is of no more use may take to end in good order.
const LINGER: Duration = Duration::from_secs(5);

/// Reads in one turn of the driver, so that one busy connection does not starve the
/// other tasks.
const BUDGET: usize = 16;

/// The stream to a server, as it comes out of connecting.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    /// The process behind it, which ends with the connection.
    pub(crate) peer: Option<PeerProcess>,
}

/// What to do when the machine's table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Wait,
    Fail,
}

/// What all handles and the driver of a connection share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) negotiated: Negotiated,
    pub(crate) export: ExportInfo,
}

impl Shared {
    pub(crate) fn new(
        core: nbd_proto::Client,
        link: Link,
        wire: Wire,
        keep_alive: Option<Duration>,
        recovery: Option<Recovery>,
    ) -> Self {
        let keep_alive = keep_alive.map(|time| KeepAlive::new(time, Instant::now()));
        let (negotiated, export) = (core.negotiated().clone(), core.export().clone());
        let state = State {
            core,
            link,
            wire: Some(wire),
            calls: Calls::default(),
            queue: VecDeque::new(),
            gone: 0,
            driver: None,
            rousing: false,
            roused: false,
            next_deadline: keep_alive.as_ref().map(KeepAlive::next),
            keep_alive,
            linger: None,
            refused: None,
            unflushed: false,
            leaving: false,
            shut: false,
            acknowledged: Unflushed::default(),
            recovery: recovery.map(Box::new),
            reconnects: 0,
            watchers: Watchers::default(),
            end: None,
            wake: Vec::new(),
            beside: Vec::new(),
        };
        Self { state: Mutex::new(state), negotiated, export }
    }

    /// A panic of somebody's buffer or stream leaves nothing half done that matters:
    /// the driver ends with it, and the connection with the driver.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes whom that concerns, when the lock is free again:
    /// wakers are other people's code.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        let driver = state.rouse_driver();
        if state.wake.is_empty() {
            drop(state);
            if let Some(driver) = driver {
                driver.wake();
            }
            return result;
        }
        // Seldom: its memory is of use to the driver.
        let others = mem::take(&mut state.wake);
        drop(state);
        driver.into_iter().chain(others).for_each(Waker::wake);
        result
    }
}

pub(crate) struct State {
    pub(crate) core: nbd_proto::Client,
    link: Link,
    /// Gone when the connection is over.
    wire: Option<Wire>,
    calls: Calls,
    /// Calls in line for a slot; some may have been dropped meanwhile.
    queue: VecDeque<Ticket>,
    /// How many of those were dropped.
    gone: usize,
    driver: Option<Waker>,
    /// The driver is to be woken.
    rousing: bool,
    /// The driver has been woken, and its turn is to come.
    roused: bool,
    /// No deadline is earlier than this.
    pub(crate) next_deadline: Option<Instant>,
    keep_alive: Option<KeepAlive>,
    /// Nobody holds the connection, or the server takes no more: it is over at this
    /// time at the latest.
    linger: Option<Instant>,
    /// How the stream said that it takes no more bytes.
    refused: Option<Arc<io::Error>>,
    /// Bytes were written that the stream may still hold.
    unflushed: bool,
    /// The end of the session was asked for.
    leaving: bool,
    /// The sending side has been closed.
    shut: bool,
    /// Acknowledged writes, unless the log of what is to be sent again counts them.
    acknowledged: Unflushed,
    /// What it takes to survive a lost connection, if that is wanted.
    recovery: Option<Box<Recovery>>,
    /// Connections made again.
    pub(crate) reconnects: u64,
    /// Who waits for the connection to be lost, back, or over.
    watchers: Watchers,
    end: Option<End>,
    /// Whom to wake when the lock is free.
    pub(crate) wake: Vec<Waker>,
    /// What the driver is to do beside its own work.
    pub(crate) beside: Vec<Beside>,
}

/// Work that goes on as long as a connection does, if need be.
pub(crate) type Beside = Pin<Box<dyn Future<Output = ()> + Send>>;

impl State {
    /// Starts a call.
    ///
    /// Where it is the only one, it is sent at once: that spares a round through the
    /// runtime. Where others are under way, so is the driver, and what gathers until
    /// its turn leaves in one write.
    pub(crate) fn start(
        &mut self,
        matter: &mut Matter,
        terms: &Terms,
        waker: &Waker,
    ) -> Result<Ticket, Box<Error>> {
        let command = matter.command;
        if let Some(end) = &self.end {
            return Err(Box::new(end.not_sent(command)));
        }
        if self.recovery.is_some() {
            return self.start_journaled(matter, terms, waker);
        }
        if self.core.is_full() || self.queue.len() > self.gone {
            if terms.when_full == WhenFull::Fail {
                let error = SubmitError::Full;
                return Err(Box::new(Error::Submit { command, error }));
            }
            let ticket = self.wait(Stage::Queued, matter, terms, waker);
            self.queue.push_back(ticket);
            return Ok(ticket);
        }
        match self.core.submit(command) {
            Ok(id) => {
                self.acknowledged.submitted(id, &command);
                let ticket = self.wait(Stage::InFlight(id), matter, terms, waker);
                self.calls.own(id, ticket);
                self.send_or_rouse();
                Ok(ticket)
            }
            Err(error) => Err(Box::new(self.not_submitted(command, error))),
        }
    }

    /// Asks for the end of the session and waits for it. One that has ended already, but
    /// not in good order, is a failure.
    pub(crate) fn start_closing(
        &mut self,
        terms: &Terms,
        waker: &Waker,
    ) -> Result<Option<Ticket>, Box<Error>> {
        if let Some(end) = &self.end {
            let unasked = || Error::Protocol(PeerMisbehaved::Closed.into());
            let cause = end.failure().or_else(|| (!self.leaving).then(unasked));
            return cause.map_or(Ok(None), |error| Err(Box::new(error)));
        }
        let ticket = self.wait(Stage::Closing, &mut Matter::nothing(), terms, waker);
        self.disconnect();
        Ok(Some(ticket))
    }

    /// Ends the session when the replies are in.
    fn disconnect(&mut self) {
        (self.rousing, self.leaving) = (true, true);
        match &mut self.recovery {
            None => self.core.disconnect(Disconnect::AfterReplies),
            Some(recovery) => {
                recovery.closing = true;
                self.close_when_idle();
            }
        }
    }

    fn wait(&mut self, stage: Stage, matter: &mut Matter, terms: &Terms, waker: &Waker) -> Ticket {
        if let Some(deadline) = terms.deadline {
            self.remind(deadline.at);
        }
        self.calls.insert(stage, matter, terms.deadline, waker.clone())
    }

    /// The driver is to look at the calls at this time.
    fn remind(&mut self, at: Instant) {
        if self.next_deadline.is_none_or(|next| at < next) {
            self.next_deadline = Some(at);
            self.rousing = true;
        }
    }

    /// The result of a call, if there is one; otherwise its waker is kept. Also returns
    /// what is to be dropped when the lock is free.
    pub(crate) fn poll_call(
        &mut self,
        ticket: Ticket,
        matter: &mut Matter,
        waker: &Waker,
    ) -> (Option<Outcome>, Option<Waker>) {
        if let Some(outcome) = self.calls.take_done(ticket, matter) {
            return (Some(outcome), None);
        }
        match self.calls.get_mut(ticket) {
            Some(call) if !call.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) => {
                (None, call.waker.replace(waker.clone()))
            }
            Some(_) | None => (None, None),
        }
    }

    /// Has the driver do something beside its own work. Returns it when the connection is over.
    pub(crate) fn do_beside(&mut self, work: Beside) -> Option<Beside> {
        if self.end.is_some() {
            return Some(work);
        }
        self.beside.push(work);
        self.rousing = true;
        None
    }

    /// Calls that have begun and whose results were not taken.
    pub(crate) fn load(&self) -> usize {
        self.calls.len()
    }

    /// Nobody waits for a call any more. Returns what is to be dropped when the lock is
    /// free.
    pub(crate) fn cancel(&mut self, ticket: Ticket) -> Option<Call> {
        match self.calls.get_mut(ticket)?.stage {
            Stage::Queued => self.lose_place(),
            Stage::InFlight(id) => self.abandon(id),
            Stage::Journaled(place) => self.withdraw(place),
            Stage::Closing | Stage::Done(_) => {}
        }
        let call = self.calls.remove(ticket);
        self.admit();
        call
    }

    /// One of those in line is there no more. The line does not grow with those.
    fn lose_place(&mut self) {
        self.gone += 1;
        if self.gone > 64 && self.gone > self.queue.len() / 2 {
            let calls = &mut self.calls;
            self.queue.retain(|ticket| {
                calls.get_mut(*ticket).is_some_and(|call| matches!(call.stage, Stage::Queued))
            });
            // The one that is leaving now may still be counted among them.
            self.gone = 1;
        }
    }

    /// A request's reply is of no interest any more; its data may still be.
    fn abandon(&mut self, id: RequestId) {
        if self.core.abandon(id) {
            self.calls.disown(id);
        } else {
            self.calls.leave(id);
        }
        if !self.has_unsent() {
            self.calls.all_sent();
        }
    }

    /// Submits those in line, first come first served, as far as there is room.
    pub(crate) fn admit(&mut self) {
        if self.recovery.is_some() {
            return self.admit_journaled();
        }
        while !self.core.is_full() && self.end.is_none() {
            let Some(ticket) = self.queue.pop_front() else {
                self.gone = 0;
                return;
            };
            let Some(call) = self.calls.get_mut(ticket) else {
                self.gone = self.gone.saturating_sub(1);
                continue;
            };
            if !matches!(call.stage, Stage::Queued) {
                self.gone = self.gone.saturating_sub(1);
                continue;
            }
            let command = call.matter.command;
            match self.core.submit(command) {
                Ok(id) => {
                    call.stage = Stage::InFlight(id);
                    self.acknowledged.submitted(id, &command);
                    self.calls.own(id, ticket);
                    self.rousing = true;
                }
                Err(error) => {
                    self.finish(ticket, Err(Box::new(self.not_submitted(command, error))));
                }
            }
        }
    }

    fn finish(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(call) = self.calls.get_mut(ticket) {
            call.stage = Stage::Done(outcome);
            if let Some(waker) = call.waker.take() {
                self.wake.push(waker);
            }
        }
    }

    /// Fails every call whose time is over, and finds out when to look again.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.linger.is_some_and(|at| at <= now) {
            if let Some(error) = self.refused.take() {
                return self.close(End::Io(error));
            }
            self.recovery = None;
            return self.close(End::Closed);
        }
        let mut next = self.linger;
        if let Some(keeper) = &mut self.keep_alive {
            if self.wire.is_none() {
                // Nobody is there to be asked.
                keeper.restart(now);
            } else if let Err(error) = keeper.look(now, &mut self.core) {
                return self.close(End::Io(error.into()));
            }
            next = next.into_iter().chain([keeper.next()]).min();
        }
        for ticket in self.calls.tickets() {
            let Some(call) = self.calls.get_mut(ticket) else {
                continue;
            };
            let (Some(deadline), false) = (call.deadline, matches!(call.stage, Stage::Done(_)))
            else {
                continue;
            };
            if deadline.at > now {
                next = Some(next.map_or(deadline.at, |next| next.min(deadline.at)));
                continue;
            }
            let state = match &self.recovery {
                Some(recovery) if recovery.is_down() => "reconnecting",
                _ => self.core.state_name(),
            };
            match call.stage {
                Stage::InFlight(id) => self.abandon(id),
                Stage::Queued => self.lose_place(),
                Stage::Journaled(place) => self.withdraw(place),
                Stage::Closing | Stage::Done(_) => {}
            }
            let timeout = deadline.timeout;
            self.finish(ticket, Err(Error::TimedOut { state, timeout }.into()));
        }
        self.next_deadline = next;
        self.admit();
    }

    /// The last handle is gone: the session ends when the replies are in.
    pub(crate) fn release(&mut self) {
        if self.end.is_some() {
            return;
        }
        match &mut self.recovery {
            // What was acknowledged is put back first, however long that takes.
            Some(recovery) => recovery.unwatched = true,
            None => self.linger(),
        }
        self.disconnect();
    }

    /// The connection is over: unless it is to be made again, every call under way fails,
    /// and nothing more is sent.
    pub(crate) fn close(&mut self, end: End) {
        let end = match (end, self.refused.take()) {
            // The server has closed because it could not be told more.
            (End::Closed, Some(error)) => End::Io(error),
            (end, _) => end,
        };
        if self.end.is_some() || self.lose(&end) {
            return;
        }
        self.end = Some(end.clone());
        let answered = self.core.in_flight() == 0 && self.queue.len() == self.gone;
        // The machine is told what the peer will see; it fails what is in flight.
        let _ = self.core.eof();
        self.deliver();
        for ticket in self.calls.tickets() {
            let Some(call) = self.calls.get_mut(ticket) else {
                continue;
            };
            let result = match (&call.stage, end.failure()) {
                (Stage::Done(_), _) => continue,
                // The end is what was wanted; how abrupt it is does not matter.
                (Stage::Closing, None) => Ok(()),
                (Stage::Closing, Some(Error::Io(_))) if answered => Ok(()),
                (_, Some(error)) => Err(error),
                (_, None) => Err(end.not_sent(call.matter.command)),
            };
            self.finish(ticket, result.map_err(Box::new));
        }
        self.queue.clear();
        self.gone = 0;
        self.calls.all_sent();
        self.next_deadline = None;
        self.wire = None;
        if self.recovery.take().is_some_and(|recovery| recovery.is_unflushed()) {
            self.acknowledged.lose();
        }
        self.wake.extend(self.watchers.take());
        // Not dropped here, where the lock is held.
        self.wake.extend(self.driver.take());
    }

    /// Whether acknowledged writes have not been flushed, so that they may be lost with the
    /// server.
    pub(crate) fn is_unflushed(&self) -> bool {
        match &self.recovery {
            Some(recovery) => recovery.is_unflushed(),
            None => self.acknowledged.any(),
        }
    }

    /// Somebody was told that what was not flushed may be lost.
    pub(crate) const fn settle(&mut self) {
        self.acknowledged.settle();
    }

    /// Hands out the results the machine has.
    pub(crate) fn deliver(&mut self) {
        // Anomalies are counted in the statistics; the end of the connection shows on each
        // call.
        while let Some((id, command, result)) = self.core.take_next() {
            let owner = self.calls.disown(id);
            if self.recovery.is_some() {
                self.deliver_journaled(id, command, result);
                continue;
            }
            self.acknowledged.finished(id, &command, result.is_ok());
            let Some(ticket) = owner else {
                continue;
            };
            let outcome = result.map_err(|error| self.failure(ticket, command, error));
            self.finish(ticket, outcome);
        }
    }

    #[cold]
    fn failure(&mut self, ticket: Ticket, command: Command, error: CommandError) -> Box<Error> {
        let cause = self.end.as_ref().and_then(End::failure);
        Box::new(match (error, cause) {
            // What ended the connection says more than that it is gone.
            (CommandError::ConnectionLost, Some(cause)) => cause,
            (error, _) => {
                let call = self.calls.get_mut(ticket);
                let remark = call.and_then(|call| call.matter.take_remark());
                CommandFailure::new(command, error, remark).into()
            }
        })
    }

    pub(crate) fn tls_info(&self) -> Option<&TlsInfo> {
        self.link.tls_info()
    }

    pub(crate) fn peer_pid(&self) -> Option<u32> {
        Some(self.wire.as_ref()?.peer.as_ref()?.pid())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Connection")
            .field("core", &state.core)
            .field("queued", &(state.queue.len() - state.gone))
            .field("end", &state.end)
            .finish_non_exhaustive()
    }
}
