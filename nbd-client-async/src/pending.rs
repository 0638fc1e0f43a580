//! A call from the caller's side: a future.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use nbd_proto::Command;
use nbd_transport::Error;

use crate::buffer::Buffer;
use crate::calls::{Deadline, Matter, Stage, Ticket};
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
pub(crate) struct Pending<H: Deref<Target = Handle>> {
    handle: H,
    terms: Terms,
    step: Step,
}

enum Step {
    Command(Matter),
    Disconnect,
    Waiting(Ticket),
    Over,
}

impl<H: Deref<Target = Handle>> Pending<H> {
    pub(crate) fn command(handle: H, matter: Matter, terms: Terms) -> Self {
        Self::new(handle, terms, Step::Command(matter))
    }

    /// Asks for the end of the session and waits for it.
    pub(crate) fn disconnect(handle: H, terms: Terms) -> Self {
        Self::new(handle, terms, Step::Disconnect)
    }

    fn new(handle: H, terms: Terms, step: Step) -> Self {
        handle.shared.load.fetch_add(1, Ordering::Relaxed);
        Self { handle, terms, step }
    }
}

// Nothing in it is pinned.
impl<H: Deref<Target = Handle>> Unpin for Pending<H> {}

impl<H: Deref<Target = Handle>> Future for Pending<H> {
    type Output = (Result<(), Error>, Matter);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let shared = &this.handle.shared;
        let Terms { deadline, when_full } = this.terms;
        let waker = cx.waker();
        match std::mem::replace(&mut this.step, Step::Over) {
            Step::Command(matter) => {
                match shared.with(|state| state.start(matter, deadline, when_full, waker)) {
                    Ok(ticket) => this.step = Step::Waiting(ticket),
                    Err(refused) => {
                        let (error, matter) = *refused;
                        return Poll::Ready((Err(error), matter));
                    }
                }
            }
            Step::Disconnect => {
                let nothing = || Matter::new(Command::flush(), Buffer::None);
                match shared.with(|state| state.start_closing(nothing(), deadline, waker)) {
                    Some(ticket) => this.step = Step::Waiting(ticket),
                    None => return Poll::Ready((Ok(()), nothing())),
                }
            }
            Step::Waiting(ticket) => {
                let (call, old) = shared.with(|state| state.poll_call(ticket, waker));
                drop(old);
                if let Some(call) = call
                    && let Stage::Done(result) = call.stage
                {
                    return Poll::Ready((result, call.matter));
                }
                this.step = Step::Waiting(ticket);
            }
            Step::Over => {}
        }
        Poll::Pending
    }
}

impl<H: Deref<Target = Handle>> Drop for Pending<H> {
    fn drop(&mut self) {
        self.handle.shared.load.fetch_sub(1, Ordering::Relaxed);
        if let Step::Waiting(ticket) = self.step {
            drop(self.handle.shared.with(|state| state.cancel(ticket)));
        }
    }
}
