//! One connection: session, socket, and all calls, behind one lock.

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use nbd_proto::Direction;
use nbd_proto::io::Progress;
use nbd_session::{Error, Limit, Outgoing, Received, Session, State as SessionState, Withdrawn};
use nbd_transport::{Endpoint, PeerProcess, SocketIo};
use slab::Slab;

use crate::calls::{Call, Calls, Exchange, Stage, Terms, WhenFull};
use crate::runtime::{Task, Watched};
use crate::stream::WatchedIo;

/// Reads in one turn of the driver, so that one busy connection does not starve the
/// other tasks.
pub(crate) const BUDGET: usize = 16;

/// One of the system's sockets that leads to a server.
pub(crate) struct Wire {
    pub(crate) generation: u64,
    pub(crate) socket: Box<dyn Watched>,
}

/// Who is at the other end of one of the system's sockets.
pub(crate) struct Peer {
    pub(crate) generation: u64,
    /// What the socket is connected to, if that has a name.
    pub(crate) endpoint: Option<Endpoint>,
    /// The process behind it, which ends with the connection.
    pub(crate) process: Option<PeerProcess>,
}

/// What all handles and the driver of a connection share.
pub(crate) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(session: Session) -> Self {
        let told = session.state();
        let state = State {
            session,
            wire: None,
            peer: None,
            calls: Calls::default(),
            driver: None,
            rousing: false,
            roused: false,
            armed: None,
            told,
            watchers: Slab::new(),
            wake: Vec::new(),
            beside: Vec::new(),
        };
        Self { state: Mutex::new(state) }
    }

    /// A panic of somebody's buffer leaves nothing half done that matters: the driver ends
    /// with it, and the connection with the driver.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, hands out what comes of it, and wakes whom that concerns when the
    /// lock is free again: wakers are other people's code.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        self.change(change, State::rouse_driver)
    }

    /// The same for the driver, which need not be woken: it looks again before it waits.
    pub(crate) fn drive<R>(&self, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        self.change(change, |state| {
            state.rousing = false;
            None
        })
    }

    fn change<R>(
        &self,
        change: impl FnOnce(&mut State, Instant) -> R,
        rouse: impl FnOnce(&mut State) -> Option<Waker>,
    ) -> R {
        let now = Instant::now();
        let mut state = self.lock();
        let result = change(&mut state, now);
        state.settle(now);
        let driver = rouse(&mut state);
        let others: Vec<_> = state.wake.drain(..).collect();
        drop(state);
        driver.into_iter().chain(others).for_each(Waker::wake);
        result
    }
}

pub(crate) struct State {
    pub(crate) session: Session,
    pub(crate) wire: Option<Wire>,
    pub(crate) peer: Option<Peer>,
    calls: Calls,
    driver: Option<Waker>,
    /// The driver is to be woken.
    rousing: bool,
    /// The driver has been woken, and its turn is to come.
    roused: bool,
    /// The driver looks at the clock no later than this.
    armed: Option<Instant>,
    /// What those were told who wait for another state.
    told: SessionState,
    watchers: Slab<Option<Waker>>,
    /// Whom to wake when the lock is free.
    pub(crate) wake: Vec<Waker>,
    /// Other work for the driver.
    pub(crate) beside: Vec<Task>,
}

impl State {
    /// Starts a call.
    ///
    /// Where it is the only one, it is sent at once: that spares a round through the
    /// runtime. Where others are under way, so is the driver, and what gathers until
    /// its turn leaves in one write.
    pub(crate) fn start(
        &mut self,
        exchange: &mut Exchange,
        terms: Terms,
        waker: &Waker,
        now: Instant,
    ) -> Result<usize, Error> {
        let Terms { limit, when_full } = terms;
        let submitted = if exchange.is_plain() && !self.session.keeps_payload(&exchange.command) {
            self.session.submit(exchange.command, limit, now)
        } else {
            self.session.submit_request(exchange.request(limit), now)
        };
        match submitted {
            Ok(id) => {
                let key = self.calls.insert(Stage::InFlight(id), exchange, waker.clone());
                self.send_or_rouse(now);
                Ok(key)
            }
            Err(error) if when_full == WhenFull::Wait && self.session.may_wait(&error) => {
                let ticket = self.session.wait_for_room(limit, now);
                Ok(self.calls.insert(Stage::InLine(ticket), exchange, waker.clone()))
            }
            Err(error) => Err(error),
        }
    }

    /// The result of a call, if there is one; otherwise its waker is kept. Also returns
    /// what is to be dropped when the lock is free.
    pub(crate) fn poll_call(
        &mut self,
        key: usize,
        exchange: &mut Exchange,
        waker: &Waker,
    ) -> (Option<Result<(), Error>>, Option<Waker>) {
        if let Some(result) = self.calls.take_done(key, exchange) {
            return (Some(result), None);
        }
        match self.calls.get_mut(key) {
            Some(call) if !call.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) => {
                (None, call.waker.replace(waker.clone()))
            }
            Some(_) | None => (None, None),
        }
    }

    /// Nobody waits for a call any more. Returns what is to be dropped when the lock is
    /// free.
    pub(crate) fn cancel(&mut self, key: usize, now: Instant) -> Option<Call> {
        let call = self.calls.remove(key)?;
        match call.stage {
            Stage::InLine(ticket) => self.session.stop_waiting(ticket, now),
            Stage::InFlight(id) => {
                if self.session.withdraw(id, now) == Withdrawn::HalfSent {
                    self.session.copy_held(id, call.exchange.data());
                }
            }
            Stage::Done(_) => {}
        }
        Some(call)
    }

    /// Calls that have begun and whose results were not taken.
    pub(crate) fn load(&self) -> usize {
        self.calls.len()
    }

    /// Hands out whatever the session has for somebody.
    pub(crate) fn settle(&mut self, now: Instant) {
        while let Some(done) = self.session.next_completion() {
            let (id, held) = (done.id, done.held);
            let Some(call) = self.calls.finished(done) else { continue };
            if held {
                self.session.copy_held(id, call.exchange.data());
            }
            self.wake.extend(call.waker.take());
        }
        while let Some(ticket) = self.session.next_admission() {
            // Who does not wait any more has left the line as well.
            let Some(key) = self.calls.admitted(ticket) else { continue };
            let Some(call) = self.calls.get_mut(key) else { continue };
            let request = call.exchange.request(Limit::Default).ticket(ticket);
            match self.session.submit_request(request, now) {
                Ok(id) => {
                    call.stage = Stage::InFlight(id);
                    self.calls.submitted(id, key);
                    self.rousing = true;
                }
                Err(error) => {
                    call.stage = Stage::Done(Err(error));
                    self.wake.extend(call.waker.take());
                }
            }
        }
        let state = self.session.state();
        if state != self.told {
            self.told = state;
            self.wake.extend(self.watchers.iter_mut().filter_map(|(_, waker)| waker.take()));
        }
        self.rousing |= self.has_unsent() || self.session.needs_drive() || self.is_hasty();
    }

    /// Whether something is due before the driver looks at the clock.
    fn is_hasty(&self) -> bool {
        let next = self.session.next_deadline();
        next.is_some_and(|at| self.armed.is_none_or(|armed| at < armed))
    }

    /// Has the driver do something beside its own work.
    pub(crate) fn do_beside(&mut self, work: Task) {
        // Nobody would do it any more.
        if !self.session.is_over() {
            self.beside.push(work);
            self.rousing = true;
        }
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.session.direction().contains(Direction::WRITE)
    }

    fn send_or_rouse(&mut self, now: Instant) {
        // Before its first turn the driver cannot be told to go on with the rest.
        if self.session.in_flight() > 1 || self.wire.is_none() {
            self.rousing = true;
        } else if let Some(waker) = self.driver.clone() {
            self.send(&mut Context::from_waker(&waker), now);
            self.rousing |= self.has_unsent();
        }
    }

    /// The driver's waker, if it is to be woken and has not been.
    fn rouse_driver(&mut self) -> Option<Waker> {
        if !mem::take(&mut self.rousing) || mem::replace(&mut self.roused, true) {
            return None;
        }
        self.driver.clone()
    }

    /// The driver goes to another task, and is polled there first of all.
    pub(crate) fn forget_driver(&mut self) -> Option<Waker> {
        self.driver.take()
    }

    /// Sends what is due, as far as there is room. The context is the driver's, whoever
    /// calls: it is the driver that goes on when there is room again.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) {
        while self.session.direction().contains(Direction::WRITE) {
            let Some(wire) = &mut self.wire else { return };
            let mut io = WatchedIo::new(&mut *wire.socket, cx);
            let progress = self.session.write(&mut io, &mut self.calls, now);
            if progress == Progress::Closed || io.write_pending {
                return;
            }
        }
    }

    /// Takes in what has come. Returns whether there may be more at once; if not, the
    /// context's task is woken when there is.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..BUDGET {
            if !self.wants_bytes() {
                return false;
            }
            let Some(wire) = &mut self.wire else { return false };
            let mut io = WatchedIo::new(&mut *wire.socket, cx);
            let progress = self.session.read(&mut io, &mut self.calls, now);
            if progress == Progress::Closed || (io.read_pending && !self.session.needs_drive()) {
                return false;
            }
            // Handed out before the rest is taken in, so that the next commands are on
            // their way and the server works meanwhile.
            if self.session.has_completed() {
                return true;
            }
        }
        true
    }

    /// One turn of the driver, whose context this is. Returns whether there is more to do at
    /// once.
    pub(crate) fn turn(&mut self, cx: &mut Context<'_>, waited: &mut bool, now: Instant) -> bool {
        (self.rousing, self.roused) = (false, false);
        if !self.driver.as_ref().is_some_and(|kept| kept.will_wake(cx.waker())) {
            self.wake.extend(self.driver.replace(cx.waker().clone()));
        }
        if self.session.next_deadline().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        // Of several tasks that are woken together, the first to run is the first to
        // submit and to wake the driver. Waiting until all have run makes one write of
        // all they submit.
        let gathers = !*waited && self.has_unsent() && self.session.in_flight() > 1;
        let mut again = gathers;
        if gathers {
            *waited = true;
            self.settle(now);
        } else {
            self.send(cx, now);
            // What is left has found no room, and the driver is woken when there is some.
            let stuck = self.has_unsent();
            let more = self.receive(cx, now);
            self.settle(now);
            // Who is woken by what came runs before the driver does again.
            *waited = more;
            again |= more || (self.has_unsent() && !stuck);
        }
        self.rousing = false;
        again
    }

    /// When the driver has to look at the clock again, if that is before `armed`.
    pub(crate) fn rearm(&mut self, armed: Option<Instant>) -> Option<Instant> {
        self.armed = armed;
        let next = self.session.next_deadline();
        let sooner = next.filter(|at| armed.is_none_or(|armed| *at < armed));
        self.armed = sooner.or(armed);
        sooner
    }

    /// Whether bytes from the server are of use, now.
    pub(crate) fn wants_bytes(&self) -> bool {
        self.session.direction().contains(Direction::READ)
    }

    /// Puts what is due into a buffer.
    pub(crate) fn fill(&mut self, output: &mut Outgoing, now: Instant) {
        self.session.fill(output, &mut self.calls, now);
    }

    /// Takes in bytes that have been received. Returns how many of them.
    pub(crate) fn take_in(&mut self, bytes: &[u8], now: Instant) -> usize {
        let mut received = Received::new(bytes);
        loop {
            let left = received.rest().len();
            let progress = self.session.read(&mut received, &mut self.calls, now);
            let moved = received.rest().len() < left || progress == Progress::More;
            if progress == Progress::Closed || !moved {
                return bytes.len() - received.rest().len();
            }
        }
    }

    /// The stream is at its end.
    pub(crate) fn take_end(&mut self, now: Instant) {
        self.session.read(&mut io::empty(), &mut self.calls, now);
    }

    /// Reads without asking the runtime whether there is anything to read. Returns whether
    /// there was.
    pub(crate) fn read_awake(&mut self, now: Instant) -> bool {
        let Some(wire) = self.wire.as_ref().filter(|_| self.wants_bytes()) else { return false };
        let mut io = SocketIo::non_blocking(wire.socket.as_fd());
        self.session.read(&mut io, &mut self.calls, now);
        !io.starved()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().session.fmt(f)
    }
}

/// Somebody who waits for the session to be in another state.
pub(crate) struct Watching<'a> {
    shared: &'a Shared,
    key: Option<usize>,
}

impl<'a> Watching<'a> {
    pub(crate) const fn new(shared: &'a Shared) -> Self {
        Self { shared, key: None }
    }

    /// The state, and a wake when it is another one.
    pub(crate) fn poll(&mut self, waker: &Waker) -> SessionState {
        let mut state = self.shared.lock();
        let State { session, watchers, .. } = &mut *state;
        let now = session.state();
        let key = *self.key.get_or_insert_with(|| watchers.insert(None));
        let old = match watchers.get_mut(key) {
            Some(Some(kept)) if kept.will_wake(waker) => None,
            Some(kept) => kept.replace(waker.clone()),
            None => None,
        };
        drop(state);
        // A waker is other people's code.
        drop(old);
        now
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let old = self.shared.lock().watchers.try_remove(key);
        drop(old);
    }
}
