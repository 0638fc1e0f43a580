//! Asking a server for something when it has not been asked for long.

use std::time::{Duration, Instant};

use nbd_proto::{Client, Command, Machine, RequestId, RequestStatus};

/// Reads the first block of the export, which no server minds, when no request has been sent
/// for nearly so long.
///
/// ```text
///   a request       look: something       look: nothing since;    look: answered
///      │            was sent; fine        a read is submitted         │
///   ───┴────────────────┴─────────────────────┴───────────────────────┴────►
///                       ├── half the time ────┤
/// ```
///
/// A server that does not answer that is given as much time, where its
/// [silence](super::quiet::Quiet) is not measured anyway.
#[derive(Debug)]
pub(super) struct Probe {
    time: Duration,
    next: Instant,
    /// Bytes that had been sent at the last look.
    sent: u64,
    asked: Option<RequestId>,
    /// When, or when something last came.
    since: Instant,
    /// What the core's count of progress was.
    seen: u64,
    pub(super) count: u64,
}

impl Probe {
    pub(super) fn new(time: Duration, now: Instant) -> Self {
        let mut probe =
            Self { time, next: now, sent: 0, asked: None, since: now, seen: 0, count: 0 };
        probe.adjourn(now);
        probe
    }

    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Whether a command is the one that was last submitted here, and its completion nobody's
    /// business.
    pub(super) fn owns(&self, id: RequestId) -> bool {
        self.asked == Some(id)
    }

    /// Its completion was taken.
    pub(super) const fn answered(&mut self) {
        self.asked = None;
    }

    /// Whether its completion is there and was not taken.
    pub(super) fn is_answered(&self, core: &Client) -> bool {
        self.asked.is_some_and(|id| core.status(id) == RequestStatus::Completed)
    }

    pub(super) const fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Looks whether it is time to ask, and submits a read if it is.
    pub(super) fn look(&mut self, now: Instant, core: &mut Client) {
        if now < self.next {
            return;
        }
        self.adjourn(now);
        if let Some(id) = self.asked {
            match core.status(id) {
                RequestStatus::InFlight => {
                    if core.progress() != self.seen {
                        (self.seen, self.since) = (core.progress(), now);
                    }
                    return;
                }
                // Nobody has come past it meanwhile.
                RequestStatus::Completed => drop(core.take(id)),
                RequestStatus::Retired | RequestStatus::Unknown => {}
            }
            self.asked = None;
        }
        let sent = core.stats().bytes_sent;
        // Those that nobody waits for do not keep a connection alive.
        let idle = core.owed().wanted() == 0 && sent == self.sent;
        self.sent = sent;
        let block = core.export().minimum_block();
        if idle
            && core.export().size >= u64::from(block)
            // Refused only when the end has been asked for, or there is no room.
            && let Ok(id) = core.submit(Command::read(0, block))
        {
            self.asked = Some(id);
            (self.seen, self.since) = (core.progress(), now);
            self.count += 1;
        }
    }

    /// For how long the server has owed the answer and brought nothing, if that is too long.
    /// To be asked before [looking](Self::look).
    ///
    /// Whoever looks much too late has stood still, and what has come is not read yet.
    pub(super) fn is_over(&mut self, now: Instant, core: &Client) -> Option<Duration> {
        let id = self.asked.filter(|_| now >= self.next)?;
        if core.status(id) != RequestStatus::InFlight || core.progress() != self.seen {
            return None;
        }
        if now.saturating_duration_since(self.next) >= self.time / 4 {
            self.since = now;
            return None;
        }
        (now.saturating_duration_since(self.since) >= self.time).then_some(self.time)
    }

    /// There is another connection, or none: nothing is owed.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.sent, self.asked) = (0, None);
        self.adjourn(now);
    }

    fn adjourn(&mut self, now: Instant) {
        let soon = (self.time / 2).max(Duration::from_millis(1));
        // Beyond the end of time it is looked at again in a year.
        let later = now + Duration::from_secs(365 * 24 * 3600);
        self.next = now.checked_add(soon).unwrap_or(later);
    }
}
