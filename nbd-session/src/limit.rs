//! How long something may take.

use std::time::{Duration, Instant};

/// How long one call may take, from its submission to its completion, reconnecting included.
///
/// ```
/// use nbd_session::Limit;
/// use std::time::{Duration, Instant};
///
/// let now = Instant::now();
/// assert_eq!(Limit::within(Duration::from_secs(5), now), Limit::Until(now + Duration::from_secs(5)));
/// assert_eq!(Limit::default(), Limit::Default);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
}

impl Limit {
    /// So long from now on; for ever, if that is beyond the end of time.
    #[must_use]
    pub fn within(time: Duration, now: Instant) -> Self {
        now.checked_add(time).map_or(Self::Never, Self::Until)
    }

    /// When it ends.
    pub(crate) fn end(self, default: Option<Duration>, now: Instant) -> Option<Instant> {
        match self {
            Self::Default => default.and_then(|time| now.checked_add(time)),
            Self::Never => None,
            Self::Until(at) => Some(at),
        }
    }
}
