//! Who waits for the connection to be lost, back, or over.

use std::task::{Context, Poll, Waker};

use super::{ConnectionState, Shared};

/// Their wakers, each under a number of its own.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    last: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Watchers {
    /// Takes all of them out, to be woken.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.wakers).into_iter().map(|(_, waker)| waker)
    }

    /// Returns the waker that was kept before, to be dropped when the lock is free.
    fn keep(&mut self, number: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        let known = number.and_then(|number| {
            self.wakers.iter_mut().find_map(|(one, kept)| (*one == number).then_some(kept))
        });
        match known {
            Some(kept) if kept.will_wake(waker) => None,
            Some(kept) => Some(std::mem::replace(kept, waker.clone())),
            None => {
                self.last += 1;
                self.wakers.push((self.last, waker.clone()));
                *number = Some(self.last);
                None
            }
        }
    }

    fn forget(&mut self, number: u64) -> Option<Waker> {
        let place = self.wakers.iter().position(|(one, _)| *one == number)?;
        Some(self.wakers.swap_remove(place).1)
    }
}

/// One who waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watching<'a> {
    shared: &'a Shared,
    number: Option<u64>,
}

impl<'a> Watching<'a> {
    pub(crate) const fn new(shared: &'a Shared) -> Self {
        Self { shared, number: None }
    }

    /// Another state of the connection than this.
    pub(crate) fn poll_change(
        &mut self,
        known: ConnectionState,
        cx: &Context<'_>,
    ) -> Poll<ConnectionState> {
        let mut state = self.shared.lock();
        let now = state.connection();
        if now != known {
            return Poll::Ready(now);
        }
        let old = state.watchers.keep(&mut self.number, cx.waker());
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        // Dropped when the lock is free.
        let _waker = self.shared.lock().watchers.forget(number);
    }
}
