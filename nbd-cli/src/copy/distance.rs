//! Whether the source is far away, which workers wait for that are of use only then.

use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Distance {
    far: Mutex<Option<bool>>,
    known: Condvar,
}

impl Distance {
    /// The source is far away.
    pub(super) fn is_far(&self) {
        self.settle(true);
    }

    /// Nobody needs to know any more.
    pub(super) fn close(&self) {
        self.settle(false);
    }

    /// Waits until it is known.
    pub(super) fn wait(&self) -> bool {
        let mut far = self.far.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *far {
                Some(far) => return far,
                None => far = self.known.wait(far).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// What is known first, counts.
    fn settle(&self, far: bool) {
        self.far.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(far);
        self.known.notify_all();
    }
}
