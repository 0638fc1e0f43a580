//! Which sync answers which flush, and what a failed one means for all that come after it.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Syncs of one file, each for all who have asked before it began.
///
/// ```text
///   flush A ──► sync 1 ════════╗            A came before sync 1 began: that one is for A
///   flush B ───────┆ waits     ╚═► sync 2   B and C came while it ran, and it may have looked
///   flush C ───────┆ waits         ┆        past what they vouch for: both have the next one
/// ```
///
/// The kernel tells each failure to write back once, and then takes the pages for clean: the
/// next sync succeeds although data are gone. So there is one sync at a time, and the first
/// failure is the answer to every flush from then on, whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Durability {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Syncs that have begun, which is also the number of the last one.
    begun: u64,
    /// The last one that has succeeded.
    done: u64,
    running: bool,
    failed: Option<Failed>,
}

/// The first failure, to be told again.
#[derive(Clone, Copy, Debug)]
struct Failed {
    number: Option<i32>,
    kind: io::ErrorKind,
}

impl Durability {
    /// Returns when a sync has succeeded that began after this was called: one of the caller's,
    /// or that of somebody else who waited for the same.
    ///
    /// # Errors
    ///
    /// Those of that sync, or of the first that failed.
    pub(super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.reach(self.next(), sync)
    }

    /// The first sync that is sure to see what has been done by now.
    fn next(&self) -> u64 {
        self.state().begun + 1
    }

    /// Returns when this sync has succeeded, or a later one.
    fn reach(&self, wanted: u64, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        loop {
            if state.done >= wanted {
                return Ok(());
            }
            if let Some(failed) = state.failed {
                return Err(failed.into());
            }
            if !state.running {
                break;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running = true;
        state.begun += 1;
        let number = state.begun;
        drop(state);
        // One that panics vouches for nothing.
        let mut running = Running { durability: self, number, failed: Some(Failed::PANICKED) };
        let result = sync();
        running.failed = result.as_ref().err().map(Failed::from);
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sync under way. Whoever waits hears what came of it when this is dropped.
struct Running<'a> {
    durability: &'a Durability,
    number: u64,
    failed: Option<Failed>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.durability.state();
        state.running = false;
        match self.failed {
            None => state.done = self.number,
            failed => state.failed = failed,
        }
        drop(state);
        self.durability.ended.notify_all();
    }
}

impl Failed {
    const PANICKED: Self = Self { number: None, kind: io::ErrorKind::Other };
}

impl From<&io::Error> for Failed {
    fn from(error: &io::Error) -> Self {
        Self { number: error.raw_os_error(), kind: error.kind() }
    }
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        match failed.number {
            Some(number) => Self::from_raw_os_error(number),
            None => failed.kind.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    const EIO: i32 = 5;

    #[test]
    fn the_first_failure_is_the_answer_for_ever() {
        let durability = Durability::default();
        durability.sync(|| Ok(())).unwrap();
        let first = durability.sync(|| Err(io::Error::from_raw_os_error(EIO)));
        assert_eq!(first.unwrap_err().raw_os_error(), Some(EIO));
        for _ in 0..2 {
            let again = durability.sync(|| panic!("it was asked again"));
            assert_eq!(again.unwrap_err().raw_os_error(), Some(EIO));
        }
    }

    #[test]
    fn a_sync_that_panics_keeps_nobody_waiting_and_vouches_for_nothing() {
        let durability = Durability::default();
        let panics = || durability.sync(|| panic!("as it was told"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert!(durability.sync(|| Ok(())).is_err());
    }

    /// What becomes of a flush that came before a sync, and of many that come while it runs, when
    /// the next one comes to this. Tells how many syncs there were, too.
    fn flushes(next: io::Result<()>) -> (io::Result<()>, Vec<io::Result<()>>, u64) {
        const MANY: usize = 16;
        let (durability, syncs) = (Durability::default(), AtomicU64::new(0));
        let next = Mutex::new(Some(next));
        let (begin, begun) = channel();
        let (end, ended) = channel();
        let (first, others) = thread::scope(|scope| {
            let (durability, syncs, next) = (&durability, &syncs, &next);
            let first = scope.spawn(move || {
                durability.sync(|| {
                    syncs.fetch_add(1, Ordering::SeqCst);
                    begin.send(()).unwrap();
                    ended.recv().unwrap();
                    Ok(())
                })
            });
            begun.recv().unwrap();
            // All of them have come before it ends.
            let wanted: Vec<_> = (0..MANY).map(|_| durability.next()).collect();
            let others: Vec<_> = wanted
                .into_iter()
                .map(|wanted| {
                    scope.spawn(move || {
                        durability.reach(wanted, || {
                            syncs.fetch_add(1, Ordering::SeqCst);
                            next.lock().unwrap().take().expect("there is one for all")
                        })
                    })
                })
                .collect();
            end.send(()).unwrap();
            let others = others.into_iter().map(|other| other.join().unwrap()).collect();
            (first.join().unwrap(), others)
        });
        (first, others, syncs.into_inner())
    }

    #[test]
    fn one_sync_serves_all_who_came_before_it_and_none_who_came_later() {
        let (first, others, syncs) = flushes(Ok(()));
        assert!(first.is_ok() && others.iter().all(Result::is_ok));
        assert_eq!(syncs, 2);
    }

    #[test]
    fn a_sync_that_fails_fails_for_all_whom_it_served_and_nobody_else() {
        let (first, others, syncs) = flushes(Err(io::Error::from_raw_os_error(EIO)));
        assert!(first.is_ok());
        for other in others {
            assert_eq!(other.unwrap_err().raw_os_error(), Some(EIO));
        }
        assert_eq!(syncs, 2);
    }

    /// No flush returns before a sync has seen what was written before it.
    #[test]
    fn no_flush_lies() {
        const WRITERS: usize = 4;
        let durability = Durability::default();
        let written: [AtomicU64; WRITERS] = Default::default();
        let stored: [AtomicU64; WRITERS] = Default::default();
        let sync = || {
            let seen: Vec<_> = written.iter().map(|it| it.load(Ordering::SeqCst)).collect();
            // Others write meanwhile.
            thread::yield_now();
            for (stored, seen) in stored.iter().zip(seen) {
                stored.store(seen, Ordering::SeqCst);
            }
            Ok(())
        };
        thread::scope(|scope| {
            for (written, stored) in written.iter().zip(&stored) {
                let (durability, sync) = (&durability, &sync);
                scope.spawn(move || {
                    for n in 1..2000 {
                        written.store(n, Ordering::SeqCst);
                        durability.sync(sync).unwrap();
                        assert!(stored.load(Ordering::SeqCst) >= n, "{n} is not safe");
                    }
                });
            }
        });
    }
}
