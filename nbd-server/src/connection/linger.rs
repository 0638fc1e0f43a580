//! Clients that have been told that it is over, and may not have noticed.
//!
//! To close a socket with unread bytes would take back what is on its way to the client: its last
//! replies, or the alert that tells it why. So those bytes are read and thrown away until the
//! client closes too. Who lingers has a place like any other, and is the first to give way.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};

use crate::clients::Place;

/// How long a client may take to notice.
const LONGEST: Duration = Duration::from_secs(1);

/// Reads in a row before others have their turn.
const READS: usize = 16;

/// A client that has been told that it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linger {
    until: Instant,
}

/// What becomes of a client that lingers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lingering {
    /// Wait until there is more to read, until the time given at most.
    Wait(Instant),
    /// There is more to read, once others have had their turn.
    Again,
    /// Its socket can be closed.
    Over,
}

impl Linger {
    /// Tells a client that nothing more comes. None when it is gone. A server that stops gives it
    /// no longer than `stop_by`.
    pub(crate) fn begin(socket: impl AsFd, now: Instant, stop_by: Option<Instant>) -> Option<Self> {
        shutdown(socket, Shutdown::Write).ok()?;
        let until = now + LONGEST;
        Some(Self { until: stop_by.map_or(until, |stop_by| stop_by.min(until)) })
    }

    /// Reads some of what the client still sends.
    pub(crate) fn drive(&self, io: &mut impl Read, place: &Place, now: Instant) -> Lingering {
        if now >= self.until || place.is_displaced() {
            return Lingering::Over;
        }
        let mut bytes = [0; 4 << 10];
        for _ in 0..READS {
            match io.read(&mut bytes) {
                Ok(0) => return Lingering::Over,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Lingering::Wait(self.until);
                }
                Err(_) => return Lingering::Over,
            }
        }
        Lingering::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Clients;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::task::Waker;

    fn place(clients: &Arc<Clients>) -> Place {
        clients.admit(|_| Waker::noop().clone(), 2)
    }

    #[test]
    fn who_sends_on_and_on_holds_up_nobody_and_does_not_stay() {
        let (clients, now) = (Arc::new(Clients::default()), Instant::now());
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let linger = Linger::begin(&ours, now, None).unwrap();
        let place = place(&clients);
        for _ in 0..1000 {
            assert_eq!(linger.drive(&mut io::repeat(1), &place, now), Lingering::Again);
        }
        let late = now + LONGEST;
        assert_eq!(linger.drive(&mut io::repeat(1), &place, late), Lingering::Over);
        let soon = now + LONGEST / 2;
        let linger = Linger::begin(&ours, now, Some(soon)).unwrap();
        assert_eq!(linger.drive(&mut io::repeat(1), &place, soon), Lingering::Over);
    }

    #[test]
    fn who_lingers_gives_way_to_newcomers() {
        let (clients, now) = (Arc::new(Clients::default()), Instant::now());
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let linger = Linger::begin(&ours, now, None).unwrap();
        let (older, mut lingering) = (place(&clients), place(&clients));
        lingering.lingers();
        let waits = matches!(linger.drive(&mut &ours, &lingering, now), Lingering::Wait(_));
        assert!(waits);
        let _newcomer = place(&clients);
        assert_eq!(linger.drive(&mut &ours, &lingering, now), Lingering::Over);
        assert!(!older.is_displaced());
    }
}
