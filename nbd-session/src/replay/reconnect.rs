//! What a user wants to happen when a connection is lost.

use std::time::Duration;

/// Whether, how often and for how long to connect again, and what to keep for it.
///
/// ```text
///   lost ─ wait ─ attempt ─ wait ─ attempt ─ … ─ give up
///        0..first         0..2·first     0..4·first … 0..max
///   └──────────────── give_up_after ────────────────┘
/// ```
///
/// ```
/// use nbd_session::replay::Reconnect;
/// use std::time::Duration;
///
/// let policy = Reconnect::new()
///     .give_up_after(Duration::from_secs(300))
///     .keep_unflushed(64 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    first_delay: Duration,
    max_delay: Duration,
    give_up_after: Duration,
    keep: Option<u64>,
    growth: bool,
}

impl Reconnect {
    /// The longest time for one attempt where a caller has set none, so that a server that
    /// accepts connections and says nothing does not use up all the patience there is: 10 s.
    pub const LONGEST_ATTEMPT: Duration = Duration::from_secs(10);

    /// Waits of up to 100 ms at first and up to 5 s later, for 60 s together; nothing is
    /// kept.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(5),
            give_up_after: Duration::from_secs(60),
            keep: None,
            growth: false,
        }
    }

    /// The longest wait before the first attempt (default 100 ms). It doubles with every
    /// attempt.
    #[must_use]
    pub const fn first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// The longest wait before any attempt (default 5 s).
    #[must_use]
    pub const fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// How long after the loss everybody who waits is told that it was in vain (default
    /// 60 s).
    #[must_use]
    pub const fn give_up_after(mut self, time: Duration) -> Self {
        self.give_up_after = time;
        self
    }

    /// Keeps acknowledged writes until a flush has made them durable, up to `bytes` of
    /// payload and 4096 commands, and sends them again after a loss: nothing acknowledged is
    /// lost even when the server loses its cache.
    ///
    /// When half of that is taken, a flush is sent that nobody asked for. When all of it is
    /// taken, writes wait for a flush; one that is longer than `bytes` waits until nothing
    /// else is kept. A server that cannot flush is asked to make each write durable by
    /// itself ([`FUA`](nbd_proto::CommandFlags::FUA)); one that can do neither is refused with
    /// [`RecoveryError::CannotKeep`](super::RecoveryError::CannotKeep), unless its export is
    /// read-only.
    ///
    /// Nobody else may write to what this client writes to: kept writes are put back without
    /// looking.
    #[must_use]
    pub const fn keep_unflushed(mut self, bytes: u64) -> Self {
        self.keep = Some(bytes);
        self
    }

    /// Whether the export may have grown when it is connected to again (default: no). It must
    /// not have shrunk, for commands that fitted would not fit any more.
    #[must_use]
    pub const fn allow_growth(mut self, allow: bool) -> Self {
        self.growth = allow;
        self
    }

    /// Whether the export may have grown.
    #[must_use]
    pub const fn allows_growth(&self) -> bool {
        self.growth
    }

    /// How long after the loss to go on trying.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.give_up_after
    }

    /// The longest wait before any attempt. A connection that lasted longer, owed nothing and did
    /// not end in silence, or on which a command was answered, was of use: attempts are counted
    /// anew after it, and patience begins anew.
    #[must_use]
    pub const fn longest_wait(&self) -> Duration {
        self.max_delay
    }

    /// Payload bytes to keep; `None` when nothing is kept.
    #[must_use]
    pub const fn kept_bytes(&self) -> Option<u64> {
        self.keep
    }

    /// How long to wait before an attempt, the first being number 0: any time from nothing to
    /// a bound that doubles, so that many clients of one server do not come back in step.
    /// `random` is to be different in each of them.
    ///
    /// ```
    /// # use nbd_session::replay::Reconnect;
    /// # use std::time::Duration;
    /// let policy = Reconnect::new().first_delay(Duration::from_millis(100));
    /// assert_eq!(policy.delay(2, u64::MAX / 2).as_millis(), 199);
    /// ```
    #[must_use]
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doubled =
            1_u32.checked_shl(attempt).and_then(|times| self.first_delay.checked_mul(times));
        let bound = doubled.map_or(self.max_delay, |bound| bound.min(self.max_delay));
        // More nanoseconds than that are centuries.
        let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // Two times 64 bits fit; what counts is the upper half.
        let scaled = u128::from(bound).wrapping_mul(u128::from(random)) >> 64;
        Duration::from_nanos(scaled as u64)
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    const POLICY: Reconnect =
        Reconnect::new().first_delay(Duration::from_millis(100)).max_delay(Duration::from_secs(7));

    /// The longest wait possible, to the millisecond.
    fn bound(policy: Reconnect, attempt: u32) -> u128 {
        policy.delay(attempt, u64::MAX).as_micros().div_ceil(1000)
    }

    #[test]
    fn the_bound_doubles_up_to_its_own() {
        let bounds: Vec<u128> = (0..9).map(|attempt| bound(POLICY, attempt)).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1600, 3200, 6400, 7000, 7000]);
        for attempt in [31, 32, 33, 63, 64, u32::MAX] {
            assert_eq!(bound(POLICY, attempt), 7000);
        }
        let early = POLICY.first_delay(Duration::from_secs(60));
        assert_eq!(bound(early, 0), 7000);
    }

    #[test]
    fn any_part_of_the_bound_comes_up() {
        let quarter = |n: u64| POLICY.delay(3, n << 62).as_millis();
        assert_eq!([0, 1, 2, 3].map(quarter), [0, 200, 400, 600]);
        assert_eq!(POLICY.delay(u32::MAX, 1 << 63), Duration::from_millis(3500));
    }

    #[test]
    fn nothing_overflows() {
        let endless = POLICY.first_delay(Duration::MAX).max_delay(Duration::MAX);
        for attempt in [0, 1, 31, 32, u32::MAX] {
            assert!(endless.delay(attempt, u64::MAX) <= Duration::MAX);
            assert_eq!(endless.delay(attempt, 0), Duration::ZERO);
        }
        let never = POLICY.first_delay(Duration::ZERO);
        assert_eq!(never.delay(5, u64::MAX), Duration::ZERO);
    }
}
