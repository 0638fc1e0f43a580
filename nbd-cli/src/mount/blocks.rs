//! Who may write while whole blocks are read and written back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Held for itself by whoever reads a block and writes it back, and shared by all others who
/// write. Unlike a lock of the standard library, it can be let go of in another thread.
#[derive(Debug, Default)]
pub(super) struct WholeBlocks {
    holders: Mutex<Holders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Holders {
    shared: usize,
    alone: bool,
}

/// A share, given back when dropped.
#[derive(Debug)]
pub(super) struct Sharing(Arc<WholeBlocks>);

/// All of it, given back when dropped.
#[derive(Debug)]
pub(super) struct Alone<'a>(&'a WholeBlocks);

impl WholeBlocks {
    /// Waits until nobody has it alone.
    pub(super) fn share(self: &Arc<Self>) -> Sharing {
        let waited = self.changed.wait_while(self.holders(), |holders| holders.alone);
        waited.unwrap_or_else(PoisonError::into_inner).shared += 1;
        Sharing(Arc::clone(self))
    }

    /// Waits until nobody has it. Those who come later wait as well.
    pub(super) fn alone(&self) -> Alone<'_> {
        let waited = self.changed.wait_while(self.holders(), |holders| holders.alone);
        let mut holders = waited.unwrap_or_else(PoisonError::into_inner);
        holders.alone = true;
        drop(self.changed.wait_while(holders, |holders| holders.shared > 0));
        Alone(self)
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.0.holders().shared -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.holders().alone = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn one_alone_waits_for_all_who_share_and_keeps_others_out() {
        let blocks = Arc::new(WholeBlocks::default());
        let (tell, told) = channel();
        let shares = [(); 2].map(|()| blocks.share());
        let (alone, told_alone) = (Arc::clone(&blocks), tell.clone());
        let alone = thread::spawn(move || {
            let held = alone.alone();
            told_alone.send("alone").unwrap();
            drop(held);
        });
        while !blocks.holders().alone {
            thread::yield_now();
        }
        let other = Arc::clone(&blocks);
        let other = thread::spawn(move || {
            let _shared = other.share();
            tell.send("shared").unwrap();
        });
        assert!(told.try_recv().is_err());
        // Given back elsewhere.
        thread::spawn(move || drop(shares)).join().unwrap();
        assert_eq!([told.recv(), told.recv()], [Ok("alone"), Ok("shared")]);
        alone.join().unwrap();
        other.join().unwrap();
    }
}
