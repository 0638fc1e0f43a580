//! Noticing, by TCP, that the other end is gone.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::connection::{Connection, Stream};

/// How the system makes sure that the other end of a TCP connection still exists.
///
/// When nothing has come for a while, it sends empty segments which the other system has to
/// acknowledge. When it does not, or does not acknowledge data for as long, every call on
/// the connection fails. No server ever sees these segments: one that drops idle clients
/// wants to be asked for something.
///
/// ```
/// use nbd_transport::TcpKeepAlive;
/// use std::time::Duration;
///
/// // A peer that vanished is noticed after half a minute.
/// let hasty = TcpKeepAlive::new().idle(Duration::from_secs(15)).interval(Duration::from_secs(5));
/// assert_eq!(hasty.count(3).patience(), Duration::from_secs(30));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepAlive {
    idle: Duration,
    interval: Duration,
    count: u32,
}

impl Default for TcpKeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

impl TcpKeepAlive {
    /// Probes after a minute of silence, every ten seconds, and gives up after six.
    #[must_use]
    pub const fn new() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 }
    }

    /// Silence before the first probe; rounded up to seconds, at least one.
    #[must_use]
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = whole_seconds(idle);
        self
    }

    /// Time from one probe to the next; rounded up to seconds, at least one.
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = whole_seconds(interval);
        self
    }

    /// Probes without an answer until the connection fails.
    #[must_use]
    pub const fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// How long after it vanished a peer is given up, at most. On Linux it holds for data that
    /// is not acknowledged too (`TCP_USER_TIMEOUT`), which would otherwise be sent again for a
    /// quarter of an hour.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.idle.saturating_add(self.interval.saturating_mul(self.count))
    }
}

const fn whole_seconds(time: Duration) -> Duration {
    let seconds = if time.subsec_nanos() > 0 {
        time.as_secs().saturating_add(1)
    } else if time.as_secs() == 0 {
        1
    } else {
        time.as_secs()
    };
    Duration::from_secs(seconds)
}

impl Connection {
    /// Turns the system's probes on, where the connection is one of TCP; of others it knows
    /// when they end.
    ///
    /// # Errors
    ///
    /// When the system does not take the times: Linux wants at most 32767 seconds and 127
    /// probes.
    pub fn set_tcp_keep_alive(&self, keep_alive: TcpKeepAlive) -> io::Result<()> {
        let Stream::Tcp(stream) = &self.stream else {
            return Ok(());
        };
        let socket = SockRef::from(stream);
        let TcpKeepAlive { idle, interval, count } = keep_alive;
        let probes = TcpKeepalive::new().with_time(idle).with_interval(interval);
        socket.set_tcp_keepalive(&probes.with_retries(count))?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(keep_alive.patience()))?;
        Ok(())
    }
}
