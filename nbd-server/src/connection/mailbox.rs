//! Where the answers to requests come back that were carried out elsewhere.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::job::Job;

/// Requests that are done, for the connection they came from.
#[derive(Debug)]
pub(crate) struct Mailbox {
    done: Mutex<Vec<Job>>,
    waker: Waker,
}

impl Mailbox {
    /// A mailbox whose owner is woken when there is something in it.
    pub(crate) const fn new(waker: Waker) -> Self {
        Self { done: Mutex::new(Vec::new()), waker }
    }

    /// A request is done. If the connection is gone, nobody will look.
    pub(crate) fn put(&self, job: Job) {
        let mut done = self.done();
        let first = done.is_empty();
        done.push(job);
        drop(done);
        if first {
            self.waker.wake_by_ref();
        }
    }

    /// Takes everything out, in exchange for an empty vector.
    pub(crate) fn take(&self, into: &mut Vec<Job>) {
        std::mem::swap(&mut *self.done(), into);
    }

    fn done(&self) -> MutexGuard<'_, Vec<Job>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
