//! How long something may take.

use std::time::{Duration, Instant};

/// How long one call may take, from its submission to its completion, reconnecting included.
///
/// ```
/// use nbd_session::Limit;
/// use std::time::{Duration, Instant};
///
/// let now = Instant::now();
/// let time = Duration::from_secs(5);
/// assert_eq!(Limit::within(time, now), Limit::Within { time, since: now });
/// assert_eq!(Limit::within(Duration::ZERO, now), Limit::Never);
/// assert_eq!(Limit::default(), Limit::Default);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// As the connection was told: [`ConnectOptions::request_timeout`] for commands,
    /// [`ConnectOptions::connect_timeout`] for options.
    ///
    /// [`ConnectOptions::request_timeout`]: crate::ConnectOptions::request_timeout
    /// [`ConnectOptions::connect_timeout`]: crate::ConnectOptions::connect_timeout
    #[default]
    Default,
    /// As long as it takes.
    Never,
    /// Until then.
    Until(Instant),
    /// So long, from then on: what a limit is told to be when it is reached.
    Within {
        /// How long; for ever, if that is beyond the end of time.
        time: Duration,
        /// When its time begins to run.
        since: Instant,
    },
}

impl Limit {
    /// So long from now on; for ever where that is no time at all: zero switches a limit off, as in
    /// [`ConnectOptions`](crate::ConnectOptions).
    #[must_use]
    pub const fn within(time: Duration, now: Instant) -> Self {
        if time.is_zero() { Self::Never } else { Self::Within { time, since: now } }
    }

    /// When it ends.
    pub(crate) fn end(self, default: Option<Duration>, now: Instant) -> Option<Instant> {
        match self {
            Self::Default => default.and_then(|time| now.checked_add(time)),
            Self::Never => None,
            Self::Until(at) => Some(at),
            Self::Within { time, since } => since.checked_add(time),
        }
    }

    /// When its time began to run, if it is used now.
    #[inline]
    pub(crate) const fn since(self, now: Instant) -> Instant {
        match self {
            Self::Within { since, .. } => since,
            Self::Default | Self::Never | Self::Until(_) => now,
        }
    }
}
