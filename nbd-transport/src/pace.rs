//! How soon a client reads again.

use nbd_proto::Machine;
use std::hint;
use std::time::{Duration, Instant};

/// The least time between two reads that bring little: enough for two replies of 4 KiB.
const SPACING: Duration = Duration::from_micros(10);

/// The same through TLS, where a full record takes a server that long.
const RECORD_SPACING: Duration = Duration::from_micros(20);

/// A read that takes so long had to wait: the server is not so fast that it could be read too
/// often.
const SLOW: Duration = Duration::from_micros(50);

/// So many bytes are worth a read of their own: eight replies of 4 KiB, or two records of TLS.
const WORTHWHILE: u64 = 32 << 10;

/// So is one command in so many of those that are awaited.
const SHARE: usize = 8;

/// Keeps a client from reading the replies of a busy server one by one.
///
/// A server that works on many commands sends a reply every few microseconds. Whoever reads as
/// soon as there is something makes a system call for each, and whoever sleeps between them has
/// the server wake it for each, which costs the server about as much as the reply. So after a
/// read that brought little the next one comes a little later, as network cards do it with their
/// interrupts. That time is spun away, for sleeping would take longer.
///
/// ```text
///   replies   | | |  | | |   | | |  | | | |  | |
///   reads     ▲      ▲       ▲      ▲        ▲         SPACING apart
/// ```
///
/// Only a thread that has nothing else to do spins: whoever has work between two reads, such as
/// other connections, comes later than that by itself.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When to read again, after a read that brought little.
    resume: Option<Instant>,
}

/// A read that is under way.
pub(crate) struct Start {
    at: Instant,
    awaited: usize,
    bytes: u64,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self { resume: None }
    }

    /// Waits until the next read is due. `None` when the machine awaits no replies: then nothing
    /// can be told from what comes.
    pub(crate) fn start<M: Machine>(&self, machine: &M) -> Option<Start> {
        let awaited = machine.awaited();
        if awaited == 0 {
            return None;
        }
        let mut now = Instant::now();
        while self.resume.is_some_and(|resume| now < resume) {
            hint::spin_loop();
            now = Instant::now();
        }
        Some(Start { at: now, awaited, bytes: machine.stats().bytes_received })
    }

    /// Looks at what a read has brought, in clear or through TLS.
    pub(crate) fn end<M: Machine>(&mut self, start: &Start, machine: &M, sealed: bool) {
        let now = Instant::now();
        let finished = start.awaited.saturating_sub(machine.awaited());
        let bytes = machine.stats().bytes_received.wrapping_sub(start.bytes);
        let took = now.saturating_duration_since(start.at);
        let little = is_little(bytes, finished, start.awaited, sealed);
        let spacing = if sealed { RECORD_SPACING } else { SPACING };
        self.resume = (little && took < SLOW).then(|| now + spacing);
    }
}

/// Whether a read might as well have come later.
///
/// In clear, what is left of a reply that has begun is under way, and quickest taken in at once.
/// Through TLS that goes for the rest of a record, of which nothing can be told before it is
/// whole; the next record has to be encrypted first.
const fn is_little(bytes: u64, finished: usize, awaited: usize, sealed: bool) -> bool {
    let something = finished > 0 || (sealed && bytes > 0);
    something && bytes < WORTHWHILE && finished.saturating_mul(SHARE) < awaited
}

#[cfg(test)]
mod tests {
    use super::is_little;

    #[test]
    fn a_reply_is_little_where_many_are_awaited() {
        for sealed in [false, true] {
            assert!(is_little(4124, 1, 64, sealed));
            assert!(is_little(7 * 4124, 7, 64, sealed));
            assert!(!is_little(8 * 4124, 8, 64, sealed));
            assert!(is_little(16, 1, 9, sealed));
            assert!(!is_little(16, 1, 8, sealed));
        }
    }

    #[test]
    fn the_only_reply_is_all_there_is() {
        for sealed in [false, true] {
            assert!(!is_little(16, 1, 1, sealed));
            assert!(!is_little(4124, 1, 2, sealed));
        }
    }

    #[test]
    fn the_rest_of_a_reply_is_awaited_through_tls_only() {
        assert!(is_little(16 << 10, 0, 1, true));
        assert!(!is_little(16 << 10, 0, 1, false));
        assert!(!is_little(32 << 10, 0, 64, true));
        assert!(!is_little(0, 0, 64, true));
    }
}
