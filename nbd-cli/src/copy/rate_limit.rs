//! `--rate`: no more bytes in a second than that, over all workers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stop::Stop;

/// How much may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(200);

/// Bytes in a second, at most.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: u64,
    /// When the next byte may go.
    next: Mutex<Option<Instant>>,
}

impl RateLimit {
    pub(super) const fn new(rate: u64) -> Self {
        Self { rate, next: Mutex::new(None) }
    }

    /// Waits until so many bytes may go, or until it is wished to stop.
    pub(super) fn wait(&self, bytes: u64, stop: &Stop) {
        let until = self.claim(bytes, Instant::now());
        stop.sleep(until.saturating_duration_since(Instant::now()));
    }

    /// When so many bytes may go, which is settled by that.
    fn claim(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begin = next.map_or(now, |next| next.max(earliest));
        let took = Duration::from_secs_f64(bytes as f64 / self.rate.max(1) as f64);
        *next = begin.checked_add(took);
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate() {
        let rate_limit = RateLimit::new(1000);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(rate_limit.claim(500, start), start);
        assert_eq!(rate_limit.claim(1000, start), at(500));
        assert_eq!(rate_limit.claim(1, start), at(1500));
        // After a pause, what was missed is made up in part.
        assert_eq!(rate_limit.claim(100, at(10_000)), at(9800));
        assert_eq!(rate_limit.claim(1, at(10_000)), at(9900));
    }
}
