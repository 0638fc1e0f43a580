//! Memory for payload, counted for the whole server.
//!
//! ```text
//!   Budget ── used of total ──┬── Account of a connection ── held ── Grant, Grant
//!                             └── Account of another ...
//! ```
//!
//! Whoever asks for more than there is waits. Room is made: the connection whose client has
//! kept memory longest without using it, half a write or replies that it does not take, is cut.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

/// What a connection may hold whatever the others hold, in bytes: so a client with small
/// requests is served however many hold much.
pub(crate) const FLOOR: usize = 128 << 10;

/// How long a client may keep memory that others wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of payload that all connections of a server hold.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    used: AtomicUsize,
    epoch: Instant,
    accounts: Mutex<Vec<Weak<Account>>>,
    /// Whether somebody waits, so that nobody looks who needs not.
    awaited: AtomicBool,
}

/// What one connection holds.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Arc<Budget>,
    held: AtomicUsize,
    /// Since when its client keeps the memory that it has kept longest, in milliseconds from
    /// the epoch; [`NEVER`] when it keeps none.
    kept_since: AtomicU64,
    waits: AtomicBool,
    /// It gets what it asks for, so that those who all wait for each other go on.
    favoured: AtomicBool,
    cut: AtomicBool,
    waker: Waker,
}

const NEVER: u64 = u64::MAX;

/// Some bytes, held until this is dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    account: Arc<Account>,
    bytes: usize,
}

impl Budget {
    /// A budget of `total` bytes.
    pub(crate) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            total,
            used: AtomicUsize::new(0),
            epoch: Instant::now(),
            accounts: Mutex::default(),
            awaited: AtomicBool::new(false),
        })
    }

    /// An account for a connection, which is woken when it may go on.
    pub(crate) fn account(self: &Arc<Self>, waker: Waker) -> Arc<Account> {
        let account = Arc::new(Account {
            budget: Arc::clone(self),
            held: AtomicUsize::new(0),
            kept_since: AtomicU64::new(NEVER),
            waits: AtomicBool::new(false),
            favoured: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            waker,
        });
        let mut accounts = self.accounts();
        accounts.retain(|account| account.strong_count() > 0);
        accounts.push(Arc::downgrade(&account));
        account
    }

    fn accounts(&self) -> MutexGuard<'_, Vec<Weak<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who wait.
    fn wake(&self) {
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::AcqRel) {
            for account in self.accounts().iter().filter_map(Weak::upgrade) {
                if account.waits.load(Ordering::Acquire) {
                    account.waker.wake_by_ref();
                }
            }
        }
    }

    /// Cuts the connection whose client has kept memory longest without using it, if that is too
    /// long. When all who hold some wait for more, one of them gets it.
    fn relieve(&self, now: Instant) {
        let now = self.millis(now);
        let accounts = self.accounts();
        let all = || accounts.iter().filter_map(Weak::upgrade);
        let since = |account: &Arc<Account>| account.kept_since.load(Ordering::Relaxed);
        let holder = all()
            .filter(|account| account.held() > FLOOR && !account.is_cut())
            .filter(|account| !account.waits.load(Ordering::Acquire))
            .min_by_key(since);
        match holder {
            Some(holder) => {
                let patience = PATIENCE.as_millis() as u64;
                if since(&holder).saturating_add(patience) <= now {
                    holder.cut.store(true, Ordering::Release);
                    holder.waker.wake_by_ref();
                }
            }
            None if all().any(|account| account.favoured.load(Ordering::Acquire)) => {}
            None => {
                let waiting = all().filter(|account| account.waits.load(Ordering::Acquire));
                if let Some(next) = waiting.min_by_key(since) {
                    next.favoured.store(true, Ordering::Release);
                    next.waker.wake_by_ref();
                }
            }
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

impl Account {
    /// Takes `bytes`, if they can be had.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Grant> {
        (!self.lacks(bytes)).then(|| self.overdraw(bytes))
    }

    fn lacks(&self, bytes: usize) -> bool {
        let used = self.budget.used.load(Ordering::Acquire);
        self.held().saturating_add(bytes) > FLOOR
            && used.saturating_add(bytes) > self.budget.total
            && !self.favoured.load(Ordering::Acquire)
    }

    /// Takes `bytes` whether they can be had or not: what has been received has to go
    /// somewhere. Afterwards [`is_overdrawn`](Self::is_overdrawn) may hold, and no more is received.
    pub(crate) fn overdraw(self: &Arc<Self>, bytes: usize) -> Grant {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        Grant { account: Arc::clone(self), bytes }
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more cannot be had at the moment. If so, it is woken when that may have
    /// changed, and should ask again after [`PATIENCE`] at the latest.
    pub(crate) fn must_wait(&self, bytes: usize, now: Instant) -> bool {
        if self.lacks(bytes) {
            self.waits.store(true, Ordering::Release);
            self.budget.awaited.store(true, Ordering::Release);
            self.budget.relieve(now);
        }
        // Asked again: what was given back meanwhile would wake nobody.
        let waits = self.lacks(bytes);
        if self.waits.swap(waits, Ordering::AcqRel) && !waits {
            // What it could not go on with was not its client's fault.
            self.kept_since.fetch_max(self.budget.millis(now), Ordering::Relaxed);
        }
        waits
    }

    /// Says since when the client keeps memory without using it.
    pub(crate) fn keeps_since(&self, since: Option<Instant>) {
        let millis = since.map_or(NEVER, |since| self.budget.millis(since));
        self.kept_since.store(millis, Ordering::Relaxed);
        if since.is_none() {
            self.favoured.store(false, Ordering::Release);
        }
    }

    /// Whether others need what this connection holds, and its client does not use it.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }
}

impl Grant {
    /// The bytes that are held.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes two of the same account one.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.account.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.budget.used.fetch_sub(self.bytes, Ordering::Release);
        self.account.budget.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const MEGABYTE: usize = 1 << 20;

    fn account(budget: &Arc<Budget>) -> (Arc<Account>, Arc<Woken>) {
        let woken = Arc::new(Woken::default());
        (budget.account(Waker::from(Arc::clone(&woken))), woken)
    }

    #[test]
    fn what_is_given_back_wakes_who_waits() {
        let budget = Budget::new(MEGABYTE);
        let (first, _) = account(&budget);
        let (second, woken) = account(&budget);
        let grant = first.take(MEGABYTE).unwrap();
        assert!(second.take(MEGABYTE).is_none());
        let now = Instant::now();
        assert!(second.must_wait(MEGABYTE, now));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        drop(grant);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(!second.must_wait(MEGABYTE, now));
        assert_eq!(first.held(), 0);
    }

    #[test]
    fn a_little_can_always_be_had() {
        let budget = Budget::new(MEGABYTE);
        let (first, _) = account(&budget);
        let _all = first.take(MEGABYTE).unwrap();
        let (second, _) = account(&budget);
        let _little = second.take(FLOOR).unwrap();
        assert!(second.take(1).is_none());
    }

    #[test]
    fn who_keeps_memory_longest_is_cut_and_nobody_before_time() {
        let budget = Budget::new(MEGABYTE);
        let now = Instant::now();
        let (idle, _) = account(&budget);
        let (long, woken) = account(&budget);
        let (short, _) = account(&budget);
        let _grants = [&idle, &long, &short].map(|account| account.overdraw(MEGABYTE));
        long.keeps_since(Some(now));
        short.keeps_since(Some(now + PATIENCE / 2));
        let (waiting, _) = account(&budget);
        assert!(waiting.must_wait(MEGABYTE, now + PATIENCE / 2));
        assert!(!long.is_cut());
        assert!(waiting.must_wait(MEGABYTE, now + PATIENCE));
        assert_eq!([&idle, &long, &short].map(|account| account.is_cut()), [false, true, false]);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn of_those_who_wait_for_each_other_one_goes_on() {
        let budget = Budget::new(MEGABYTE);
        let now = Instant::now();
        let (first, woken) = account(&budget);
        let (second, _) = account(&budget);
        let _grants = [&first, &second].map(|account| account.overdraw(MEGABYTE));
        first.keeps_since(Some(now));
        second.keeps_since(Some(now + PATIENCE / 4));
        // The other one may still go on by itself.
        assert!(first.must_wait(MEGABYTE, now + PATIENCE / 2));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        assert!(second.must_wait(MEGABYTE, now + PATIENCE / 2));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(!first.must_wait(MEGABYTE, now + PATIENCE));
        first.keeps_since(Some(now + PATIENCE));
        assert!(second.must_wait(MEGABYTE, now + PATIENCE));
        // When it has what it needs, it is as good as any.
        first.keeps_since(None);
        assert!(first.must_wait(MEGABYTE, now + PATIENCE));
        assert!(![first, second].iter().any(|account| account.is_cut()));
    }
}
