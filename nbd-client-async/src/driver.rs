//! The task that serves a connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::end::End;
use crate::redial::{Dialling, Redial};
use crate::runtime::{Runtime, Sleep};
use crate::state::{Beside, Shared, State};

/// Serves a connection: sends what was submitted, takes in what comes, wakes who waits
/// for it, and watches the time.
///
/// It is ready when the connection is over, or nobody holds it any more and the session
/// has ended in good order. When it is dropped before that, the connection is closed
/// and everybody who waits for it gets [`Error::Stopped`](crate::Error::Stopped).
///
/// ```
/// fn spawn(driver: nbd_client_async::Driver) {
///     // Any executor will do.
///     std::thread::spawn(move || block_on(driver));
/// }
/// # fn block_on(_: nbd_client_async::Driver) {}
/// ```
#[must_use = "a connection does nothing unless its driver is polled"]
pub struct Driver {
    shared: Arc<Shared>,
    runtime: Arc<dyn Runtime>,
    /// The earliest deadline of all, when the state was last looked at.
    deadline: Option<Instant>,
    timer: Option<(Instant, Sleep)>,
    /// The deadline that has passed, or why there is no timer for it.
    due: Option<io::Result<Instant>>,
    /// What is due has waited for one round through the runtime.
    waited: bool,
    redial: Option<Redial>,
    /// Another connection is being made.
    dialling: Option<Dialling>,
    /// Other work, done on the way.
    beside: Vec<Beside>,
    /// Kept for its memory.
    wake: Vec<Waker>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        runtime: Arc<dyn Runtime>,
        redial: Option<Redial>,
    ) -> Self {
        Self {
            shared,
            runtime,
            deadline: None,
            timer: None,
            due: None,
            waited: false,
            redial,
            dialling: None,
            beside: Vec::new(),
            wake: Vec::new(),
        }
    }

    fn turn(&mut self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        state.on_turn(cx.waker());
        match self.due.take() {
            // The timer's word counts, should its clock be another one.
            Some(Ok(at)) => state.expire(Instant::now().max(at)),
            // Nobody is let wait for longer than he said.
            Some(Err(error)) => state.close(End::Io(error.into())),
            None => {}
        }
        // Of several tasks that are woken together, the first to run is the first to
        // submit and to wake this one. Waiting until all have run makes one write of
        // all they submit.
        if !self.waited && state.has_unsent() && state.is_busy() {
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.send(cx);
        // What is left has found no room, and this task is woken when there is some.
        let stuck = state.has_unsent();
        let more = state.receive(cx);
        state.after_replies();
        state.wind_up(cx);
        if state.is_over() {
            return Poll::Ready(());
        }
        // Who is woken by what came runs before this task does again.
        self.waited = more;
        // What came may have set free what is to be sent: calls in line, the farewell.
        if more || (state.has_unsent() && !stuck) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Driver {
    /// Goes on with making another connection, if there is none. Not under the lock: it runs
    /// other people's code.
    fn dial(&mut self, cx: &mut Context<'_>) {
        let Some(redial) = &self.redial else {
            return;
        };
        if self.dialling.is_none() {
            let outage = self.shared.lock().outage();
            self.dialling = outage.map(|(outage, policy)| {
                redial.clone().dial(Arc::clone(&self.runtime), outage, policy)
            });
        }
        let Some(dialling) = &mut self.dialling else {
            return;
        };
        if let Poll::Ready(dialled) = dialling.as_mut().poll(cx) {
            self.dialling = None;
            self.shared.with(|state| match dialled {
                Ok(dialled) => state.resume(dialled),
                Err(end) => state.close(end),
            });
        }
    }

    /// Keeps one timer, for the earliest deadline of all. Not under the lock, as above.
    fn watch_time(&mut self, cx: &mut Context<'_>) {
        let Some(at) = self.deadline else {
            self.timer = None;
            return;
        };
        if self.timer.as_ref().is_none_or(|(set, _)| *set != at) {
            self.timer = Some((at, self.runtime.sleep_until(at)));
        }
        if let Some((_, timer)) = &mut self.timer
            && let Poll::Ready(result) = timer.as_mut().poll(cx)
        {
            self.timer = None;
            self.due = Some(result.map(|()| at));
            cx.waker().wake_by_ref();
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.dial(cx);
        this.beside.retain_mut(|work| work.as_mut().poll(cx).is_pending());
        let shared = Arc::clone(&this.shared);
        let mut state = shared.lock();
        let poll = this.turn(&mut state, cx);
        mem::swap(&mut this.wake, &mut state.wake);
        if !state.beside.is_empty() {
            this.beside.append(&mut state.beside);
            cx.waker().wake_by_ref();
        }
        // What a turn leaves to be done is for the next one.
        this.wake.extend(state.rouse_driver());
        this.deadline = state.next_deadline;
        drop(state);
        for waker in this.wake.drain(..) {
            waker.wake();
        }
        if poll.is_pending() {
            this.watch_time(cx);
        }
        poll
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.with(|state| state.close(End::Stopped));
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("connection", &self.shared).finish_non_exhaustive()
    }
}
