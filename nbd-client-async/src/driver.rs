//! The task that serves a connection.

use std::future::{Future, poll_fn};
use std::hint;
use std::io::Write;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nbd_proto::io::IoMode;
use nbd_session::{Connect, Error, Session, Step};
use nbd_transport::{Connection, SocketIo};

use crate::client::Client;
use crate::into_stream::{Kind, Stream};
use crate::own::OwnStream;
use crate::runtime::{Held, Runtime, Sleep, Task};
use crate::state::{Peer, Shared, State, Wire};
use crate::way::{Errand, Outcome, Source};

/// Serves a connection: makes it, sends what was submitted, takes in what comes, wakes who
/// waits for it, and watches the time; and makes it again if that is wanted.
pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    runtime: Arc<dyn Runtime>,
    source: Source,
    /// What the session has asked for, and takes its time.
    errand: Option<Errand>,
    /// The stream, if it is none of the system's.
    own: Option<OwnStream>,
    timer: Option<(Instant, Sleep)>,
    /// For how long to look for replies awake.
    busy_poll: Option<Duration>,
    /// What is due has waited for one round through the runtime.
    waited: bool,
    left: Left,
}

/// What a turn leaves to be done when the lock is free.
#[derive(Default)]
struct Left {
    steps: Vec<Step>,
    wake: Vec<Waker>,
    /// Other work, done on the way.
    beside: Vec<Task>,
    /// Some of it was not begun.
    fresh: bool,
}

impl Left {
    fn collect(&mut self, state: &mut State) {
        self.wake.append(&mut state.wake);
        self.fresh |= !state.beside.is_empty();
        self.beside.append(&mut state.beside);
        while let Some(step) = state.session.next_step() {
            self.steps.push(step);
        }
    }

    fn tell(&mut self) {
        self.wake.drain(..).for_each(Waker::wake);
    }
}

impl Driver {
    pub(crate) fn new(session: Session, runtime: Arc<dyn Runtime>, source: Source) -> Self {
        let busy_poll = session.options().busy_poll_time();
        Self {
            shared: Arc::new(Shared::new(session)),
            runtime,
            source,
            errand: None,
            own: None,
            timer: None,
            busy_poll,
            waited: false,
            left: Left::default(),
        }
    }

    /// Serves the connection until the session has something to tell, or is over.
    pub(crate) async fn until<T>(
        &mut self,
        mut told: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, Error> {
        poll_fn(|cx| {
            let over = Pin::new(&mut *self).poll(cx).is_ready();
            let session = &mut self.shared.lock().session;
            match told(session) {
                Some(told) => Poll::Ready(Ok(told)),
                None if over => {
                    Poll::Ready(Err(session.end().cloned().unwrap_or_else(Error::stopped)))
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Leaves the connection to the runtime.
    pub(crate) fn into_client(self) -> Result<Client, Error> {
        let shared = Arc::clone(&self.shared);
        let runtime = Arc::clone(&self.runtime);
        // It is another task's from now on, which begins with a turn.
        let mut state = shared.lock();
        let old = state.forget_driver();
        drop(state);
        drop(old);
        runtime.spawn(Box::pin(self))?;
        Ok(Client::new(shared))
    }

    /// Looks whether a deadline has passed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        let (at, sleep) = self.timer.as_mut()?;
        let Poll::Ready(slept) = sleep.as_mut().poll(cx) else { return None };
        let at = *at;
        self.timer = None;
        match slept {
            // Nobody is let wait for longer than he said.
            Err(error) => {
                self.stop(error);
                None
            }
            Ok(()) => Some(at),
        }
    }

    /// Goes on with what takes its time. It runs other people's code, and so does the timer:
    /// neither is done under the lock.
    fn poll_errand(&mut self, cx: &mut Context<'_>) {
        let Some(errand) = &mut self.errand else { return };
        let Poll::Ready(outcome) = errand.poll(cx) else { return };
        self.errand = None;
        match outcome {
            Outcome::Credentials(outcome) => {
                self.shared.with(|state, now| state.session.credentials(outcome, now));
            }
            Outcome::Connected(connect, outcome) => {
                let outcome = outcome.and_then(|stream| self.take_over(&connect, stream));
                self.shared.with(|state, now| {
                    state.session.connected(connect.generation, outcome, now);
                });
            }
            Outcome::Stopped => self.stop(Error::stopped()),
        }
    }

    fn take_over(&mut self, connect: &Connect, stream: Stream) -> Result<IoMode, Error> {
        let generation = connect.generation;
        let (held, peer) = match stream.0 {
            Kind::Own(stream) => (Held::Stream(stream), None),
            Kind::Os(connection) => {
                let Connection { stream, peer: process, .. } = connect.prepare(connection)?;
                let endpoint = stream.peer();
                let held = self.runtime.adopt(stream.into())?.0;
                (held, Some(Peer { generation, endpoint, process }))
            }
        };
        let mut state = self.shared.lock();
        state.peer = peer;
        match held {
            Held::Watched(socket) => {
                state.wire = Some(Wire { generation, socket });
                Ok(IoMode::Vectored)
            }
            Held::Stream(stream) => {
                self.own = Some(OwnStream::new(generation, stream));
                Ok(IoMode::Single)
            }
        }
    }

    /// Ends it all.
    fn stop(&self, cause: impl Into<Error>) {
        self.shared.with(|state, now| state.session.stop(cause, now));
    }

    /// Does what the session has asked for. Returns whether there was anything.
    fn take_steps(&mut self) -> bool {
        let any = !self.left.steps.is_empty();
        for step in mem::take(&mut self.left.steps) {
            match step {
                Step::Credentials(config) => match Errand::credentials(&*self.runtime, config) {
                    Ok(errand) => self.errand = Some(errand),
                    Err(error) => self.stop(error),
                },
                Step::Connect(connect) => {
                    self.errand = Some(Errand::connect(&self.runtime, connect, &mut self.source));
                }
                Step::Shutdown { generation } => self.shut_down(generation),
                Step::Close { generation, last_word } => self.close(generation, &last_word),
                _ => {}
            }
        }
        any
    }

    /// Nothing more is sent.
    fn shut_down(&mut self, generation: u64) {
        if let Some(own) = self.own.as_mut().filter(|own| own.generation == generation) {
            own.closing = true;
        }
        let state = self.shared.lock();
        if let Some(wire) = state.wire.as_ref().filter(|wire| wire.generation == generation) {
            SocketIo::non_blocking(wire.socket.as_fd()).shut_down();
        }
    }

    /// What belongs to a connection, or an older one, is of no use any more.
    fn close(&mut self, generation: u64, last_word: &[u8]) {
        self.errand.take_if(|errand| errand.is_of(generation));
        if let Some(own) = self.own.take_if(|own| own.generation <= generation)
            && !last_word.is_empty()
        {
            own.close(last_word);
        }
        let mut state = self.shared.lock();
        let wire = state.wire.take_if(|wire| wire.generation <= generation);
        let peer = state.peer.take_if(|peer| peer.generation <= generation);
        drop(state);
        if let Some(wire) = wire {
            // Whether it arrives changes nothing.
            let _ = SocketIo::non_blocking(wire.socket.as_fd()).write(last_word);
        }
        // It is told by the end of its socket, and waited for after that.
        drop(peer);
    }

    /// Takes in what has come, sends what is due, and wakes whom that concerns.
    fn turn(&mut self, cx: &mut Context<'_>, due: Option<Instant>) -> bool {
        let now = Instant::now();
        // The timer's word counts, should its clock be another one.
        let now = due.map_or(now, |due| now.max(due));
        let mut state = self.shared.lock();
        let again = state.turn(cx, &mut self.waited, now);
        self.left.collect(&mut state);
        drop(state);
        self.left.tell();
        again
    }

    /// Looks for replies without asking the runtime, which may wait for them, for a while.
    /// Callers find the lock free between two looks. Returns whether something came.
    fn poll_awake(&mut self) -> bool {
        let Some(time) = self.busy_poll else { return false };
        let begin = Instant::now();
        loop {
            let mut state = self.shared.lock();
            if state.session.in_flight() == 0 || state.wire.is_none() {
                return false;
            }
            let now = Instant::now();
            if state.read_awake(now) {
                state.settle(now);
                self.left.collect(&mut state);
                drop(state);
                self.left.tell();
                return true;
            }
            drop(state);
            if now.saturating_duration_since(begin) >= time {
                return false;
            }
            hint::spin_loop();
        }
    }

    /// Has a timer for the next deadline. Returns whether there is another one than before.
    fn rearm(&mut self) -> bool {
        let armed = self.timer.as_ref().map(|(at, _)| *at);
        let Some(at) = self.shared.lock().rearm(armed) else { return false };
        self.timer = Some((at, self.runtime.sleep_until(at)));
        true
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let due = this.poll_timer(cx);
            this.poll_errand(cx);
            this.left.beside.retain_mut(|work| work.as_mut().poll(cx).is_pending());
            let mut again = this.turn(cx, due);
            if let Some(mut own) = this.own.take() {
                again |= own.pump(&this.shared, cx);
                this.own = Some(own);
                this.left.collect(&mut this.shared.lock());
            }
            // Whatever was begun has to be polled once.
            if mem::take(&mut this.left.fresh) | this.take_steps() | this.rearm() {
                continue;
            }
            if this.shared.lock().session.is_over() {
                return Poll::Ready(());
            }
            if again || this.poll_awake() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop(Error::stopped());
        let mut state = self.shared.lock();
        let (wire, peer) = (state.wire.take(), state.peer.take());
        drop(state);
        drop((wire, peer));
    }
}
