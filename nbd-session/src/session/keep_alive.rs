//! Asking a server whether it is still there.

use std::time::{Duration, Instant};

use nbd_proto::{Client, Command, Machine, RequestId, RequestStatus};

use super::silence::Silence;

/// Reads the first block of the export, which no server minds, when nothing has been asked of
/// it for nearly so long, or nothing has come of what was asked.
///
/// ```text
///   a request       look: something       look: nothing since;    look: answered
///      │            was sent; fine        a read is submitted         │
///   ───┴────────────────┴─────────────────────┴───────────────────────┴────►
///                       ├── half the time ────┤
/// ```
///
/// A server that brings nothing for the [silence](super::silence::Silence) it may keep, or for as
/// long as this where that has no limit, is gone. While it works on a flush, trim, write of
/// zeroes or cache that says something only of one that is known to
/// [overtake](nbd_proto::Outstanding::overtaken) as many of them; of another, the network alone can tell.
#[derive(Debug)]
pub(super) struct KeepAlive {
    time: Duration,
    next: Instant,
    /// Bytes that had been sent at the last look.
    sent: u64,
    probe: Probe,
    /// When it was asked, or when something last came.
    since: Instant,
    /// What the count of progress was at the last look.
    seen: u64,
    pub(super) count: u64,
}

/// What the server's silence is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    None,
    /// A read that nobody else knows of.
    Own(RequestId),
    /// What callers have asked: nothing else can be.
    Callers,
}

impl KeepAlive {
    pub(super) fn new(time: Duration, now: Instant) -> Self {
        let probe = Probe::None;
        let mut alive = Self { time, next: now, sent: 0, probe, since: now, seen: 0, count: 0 };
        alive.adjourn(now);
        alive
    }

    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Whether a command is the one that was last submitted here, and its completion nobody's
    /// business.
    pub(super) fn owns(&self, id: RequestId) -> bool {
        self.probe == Probe::Own(id)
    }

    /// Its completion was taken.
    pub(super) const fn answered(&mut self) {
        self.probe = Probe::None;
    }

    /// Whether its completion is there and was not taken.
    pub(super) fn is_answered(&self, core: &Client) -> bool {
        match self.probe {
            Probe::Own(id) => core.status(id) == RequestStatus::Completed,
            Probe::None | Probe::Callers => false,
        }
    }

    /// Whether a command of its own is in the core.
    pub(super) const fn is_asking(&self) -> bool {
        matches!(self.probe, Probe::Own(_))
    }

    /// Looks whether it is time to ask, and submits a read if it is.
    pub(super) fn look(&mut self, now: Instant, core: &mut Client, silence: &Silence) {
        if now < self.next {
            return;
        }
        self.adjourn(now);
        let (sent, progress) = (core.stats().bytes_sent, silence.progress(core));
        let was_idle = sent == std::mem::replace(&mut self.sent, sent);
        let nothing_came = progress == std::mem::replace(&mut self.seen, progress);
        if !nothing_came {
            self.since = now;
        }
        match self.probe {
            Probe::Own(id) => match core.status(id) {
                RequestStatus::InFlight => return,
                // Nobody has come past it meanwhile.
                RequestStatus::Completed => drop(core.take(id)),
                RequestStatus::Retired | RequestStatus::Unknown => {}
            },
            Probe::Callers if nothing_came => return,
            Probe::Callers | Probe::None => {}
        }
        self.probe = Probe::None;
        let wanted = if core.in_flight() > 0 { nothing_came } else { was_idle };
        let block = core.export().minimum_block();
        if !wanted || core.export().size < u64::from(block) {
            return;
        }
        match core.submit(Command::read(0, block)) {
            Ok(id) => {
                self.probe = Probe::Own(id);
                self.count += 1;
            }
            // There is no room, or the end has been asked for.
            Err(_) if core.in_flight() > 0 => self.probe = Probe::Callers,
            Err(_) => return,
        }
        self.since = now;
    }

    /// For how long the server has owed an answer and brought nothing, if that is too long. To be
    /// asked before [looking](Self::look).
    ///
    /// Whoever looks much too late has stood still, and what has come is not read yet.
    pub(super) fn is_over(
        &mut self,
        now: Instant,
        core: &Client,
        silence: &Silence,
    ) -> Option<Duration> {
        let known_operations = silence.known_operations(core);
        if now < self.next
            || self.probe == Probe::None
            || silence.progress(core) != self.seen
            || self.is_answered(core)
            || known_operations > core.outstanding().overtaken
            // Whoever measures that will say.
            || known_operations == 0 && silence.is_measured()
        {
            return None;
        }
        if now.saturating_duration_since(self.next) >= self.time / 4 {
            self.since = now;
            return None;
        }
        let limit = silence.limit().unwrap_or(self.time);
        (now.saturating_duration_since(self.since) >= limit).then_some(limit)
    }

    /// There is another connection, or none: nothing is outstanding.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.sent, self.seen, self.probe) = (0, 0, Probe::None);
        self.adjourn(now);
    }

    fn adjourn(&mut self, now: Instant) {
        let soon = (self.time / 2).max(Duration::from_millis(1));
        // Beyond the end of time it is looked at again in a year.
        let later = now + Duration::from_secs(365 * 24 * 3600);
        self.next = now.checked_add(soon).unwrap_or(later);
    }
}
