//! A call from the caller's side: a future.

use std::borrow::BorrowMut;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nbd_session::Error;

use crate::calls::{Exchange, Terms};
use crate::state::Shared;

/// Keeps the connection. When the last one goes, the session ends.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(|state, now| state.session.release(now));
    }
}

/// One command until its result. Dropping it withdraws the command; the connection, and
/// the memory the command still needs, do not mind.
///
/// What it is about stays where it is, or is lent to the connection and comes back with
/// the result: it is never passed from hand to hand.
pub(crate) struct Pending<H: Deref<Target = Handle>, E: BorrowMut<Exchange>> {
    handle: H,
    pub(crate) exchange: E,
    terms: Terms,
    step: Step,
}

enum Step {
    Start,
    Waiting(usize),
    Over,
}

impl<H: Deref<Target = Handle>, E: BorrowMut<Exchange>> Pending<H, E> {
    pub(crate) const fn new(handle: H, exchange: E, terms: Terms) -> Self {
        Self { handle, exchange, terms, step: Step::Start }
    }
}

// Nothing in it is pinned.
impl<H: Deref<Target = Handle>, E: BorrowMut<Exchange>> Unpin for Pending<H, E> {}

impl<H: Deref<Target = Handle>, E: BorrowMut<Exchange>> Future for Pending<H, E> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (shared, exchange) = (&this.handle.shared, this.exchange.borrow_mut());
        let result = match this.step {
            Step::Start => {
                match shared.with(|state, now| state.start(exchange, this.terms, cx.waker(), now)) {
                    Ok(key) => {
                        this.step = Step::Waiting(key);
                        return Poll::Pending;
                    }
                    Err(error) => Err(error),
                }
            }
            Step::Waiting(key) => {
                let (done, old) = shared.lock().poll_call(key, exchange, cx.waker());
                drop(old);
                match done {
                    Some(result) => result,
                    None => return Poll::Pending,
                }
            }
            Step::Over => return Poll::Pending,
        };
        this.step = Step::Over;
        Poll::Ready(result)
    }
}

impl<H: Deref<Target = Handle>, E: BorrowMut<Exchange>> Drop for Pending<H, E> {
    fn drop(&mut self) {
        if let Step::Waiting(key) = self.step {
            drop(self.handle.shared.with(|state, now| state.cancel(key, now)));
        }
    }
}
