//! A call from the caller's side: a future.

use std::borrow::BorrowMut;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nbd_session::OldError as Error;

use crate::calls::{Deadline, Matter, Ticket};
use crate::state::{Shared, WhenFull};

/// Keeps the connection. When the last one goes, the session ends.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(crate::state::State::release);
    }
}

/// How a call is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) deadline: Option<Deadline>,
    pub(crate) when_full: WhenFull,
}

/// One command until its result. Dropping it abandons the command; the connection, and
/// the memory the command still needs, do not mind.
///
/// What it is about stays where it is, or is lent to the connection and comes back with
/// the result: it is never passed from hand to hand.
pub(crate) struct Pending<H: Deref<Target = Handle>, M: BorrowMut<Matter>> {
    handle: H,
    pub(crate) matter: M,
    terms: Terms,
    step: Step,
}

enum Step {
    Command,
    Disconnect,
    Waiting(Ticket),
    Over,
}

impl<H: Deref<Target = Handle>, M: BorrowMut<Matter>> Pending<H, M> {
    pub(crate) const fn command(handle: H, matter: M, terms: Terms) -> Self {
        Self { handle, matter, terms, step: Step::Command }
    }
}

impl<H: Deref<Target = Handle>> Pending<H, Matter> {
    /// Asks for the end of the session and waits for it.
    pub(crate) const fn disconnect(handle: H, terms: Terms) -> Self {
        Self { handle, matter: Matter::nothing(), terms, step: Step::Disconnect }
    }
}

// Nothing in it is pinned.
impl<H: Deref<Target = Handle>, M: BorrowMut<Matter>> Unpin for Pending<H, M> {}

impl<H: Deref<Target = Handle>, M: BorrowMut<Matter>> Future for Pending<H, M> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let shared = &this.handle.shared;
        let matter = this.matter.borrow_mut();
        let waker = cx.waker();
        let started = match this.step {
            Step::Command => shared.with(|state| state.start(matter, &this.terms, waker)).map(Some),
            Step::Disconnect => shared.with(|state| state.start_closing(&this.terms, waker)),
            Step::Waiting(ticket) => {
                let (outcome, old) = shared.with(|state| state.poll_call(ticket, matter, waker));
                drop(old);
                let Some(outcome) = outcome else {
                    return Poll::Pending;
                };
                outcome.map(|()| None)
            }
            Step::Over => return Poll::Pending,
        };
        match started {
            Ok(Some(ticket)) => {
                this.step = Step::Waiting(ticket);
                Poll::Pending
            }
            Ok(None) => {
                this.step = Step::Over;
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                this.step = Step::Over;
                Poll::Ready(Err(*error))
            }
        }
    }
}

impl<H: Deref<Target = Handle>, M: BorrowMut<Matter>> Drop for Pending<H, M> {
    fn drop(&mut self) {
        if let Step::Waiting(ticket) = self.step {
            drop(self.handle.shared.with(|state| state.cancel(ticket)));
        }
    }
}
