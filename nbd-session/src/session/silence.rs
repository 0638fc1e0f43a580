//! How long the server has brought nothing.

use std::time::{Duration, Instant};

use nbd_proto::Client;

use super::outflow::Outflow;

/// Measures the server's silence while it owes something that a working server answers soon.
///
/// It may be busy with an operation that takes as long as it likes, but not with one that it
/// does not know of: what is queued here, because nothing leaves, is no reason to wait.
///
/// Of what came in a read that may have waited, it is not known when it came: it counts from
/// the next time that is told.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Option<Duration>,
    /// The time that was told last.
    told: Instant,
    since: Instant,
    /// What [progress](Self::progress) was.
    seen: u64,
    /// Bytes that leave may be a sign of life.
    pub(super) outflow: Outflow,
    /// Reads wait.
    pub(super) waits: bool,
    /// Something came in a read that waited.
    fresh: bool,
    runs: bool,
}

impl Silence {
    pub(super) fn new(
        limit: Option<Duration>,
        asked_after: Option<Duration>,
        now: Instant,
    ) -> Self {
        let outflow = Outflow::new([limit, asked_after].into_iter().flatten().min());
        let (waits, fresh, runs) = (false, false, false);
        Self { limit, told: now, since: now, seen: 0, outflow, waits, fresh, runs }
    }

    /// There is another connection, or none.
    pub(super) const fn restart(&mut self) {
        (self.seen, self.fresh, self.runs) = (0, false, false);
        self.outflow.restart();
    }

    /// It is so late now.
    #[inline]
    pub(super) const fn tell(&mut self, now: Instant) {
        self.told = now;
        if self.fresh {
            self.since = now;
            self.fresh = false;
        }
    }

    /// The time that was told last.
    pub(super) const fn told(&self) -> Instant {
        self.told
    }

    /// Looks at what came, and at what is owed now.
    #[inline]
    pub(super) fn look(&mut self, core: &Client) {
        if self.limit.is_none() {
            return;
        }
        let runs = core.outstanding().transfers > 0 && self.known_operations(core) == 0;
        let progress = self.progress(core);
        if progress != self.seen || runs != self.runs {
            (self.seen, self.runs, self.since) = (progress, runs, self.told);
        }
    }

    /// Grows with each sign of life.
    #[inline]
    pub(super) fn progress(&self, core: &Client) -> u64 {
        core.progress() + self.outflow.signs_of_life()
    }

    /// Operations that the server may be busy with.
    #[inline]
    pub(super) fn known_operations(&self, core: &Client) -> usize {
        core.outstanding().sent_operations().saturating_sub(self.outflow.held_back())
    }

    /// As [`look`](Self::look), after a read.
    #[inline]
    pub(super) fn look_after_read(&mut self, core: &Client) {
        let seen = self.seen;
        self.look(core);
        self.fresh |= self.waits && self.seen != seen;
    }

    /// Whether there is a limit.
    pub(super) const fn is_measured(&self) -> bool {
        self.limit.is_some()
    }

    pub(super) const fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// When the server will have been silent for too long. It may be later in truth.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.runs {
            return None;
        }
        self.limit.and_then(|limit| self.since.checked_add(limit))
    }

    /// For how long it has been silent, if that is too long.
    ///
    /// Whoever looks much too late has stood still: the process was stopped, or the machine
    /// was asleep. What the server has sent meanwhile is not read yet, and its time begins
    /// again.
    pub(super) fn is_over(&mut self, now: Instant) -> Option<Duration> {
        let limit = self.limit?;
        let late = now.checked_duration_since(self.deadline()?)?;
        if late >= limit / 4 {
            self.since = now;
            return None;
        }
        Some(limit)
    }
}
