//! Keeping an idle connection alive, and noticing when it is not, by asking the server for
//! something small.

use std::io;
use std::time::{Duration, Instant};

use nbd_proto::{Client, Command, Machine, RequestId, RequestStatus};

/// Asks a server for something small when nothing has been asked for a while, so that it does
/// not take its client for dead; and takes the server for dead when it does not answer.
///
/// What is asked for is the first block of the export, which no server minds. An export of no
/// bytes has none, and is not asked for anything.
///
/// It has no clock: whoever has one [looks](Self::look) when it is [time](Self::next).
///
/// ```text
///   a request       look: something       look: nothing since;    look: answered
///      │            was sent; fine        a read is submitted         │
///   ───┴────────────────┴─────────────────────┴───────────────────────┴────►
///                       ├── half the time ────┤
/// ```
///
/// So a server never waits longer than that time for a request, unless it owes an answer.
///
/// Whoever looks much too late has stood still: the process was stopped, or the machine was
/// asleep. What the server has sent meanwhile is not read yet, and its time begins again.
#[derive(Debug)]
pub struct KeepAlive {
    time: Duration,
    next: Instant,
    /// Bytes that had been sent at the last look.
    sent: u64,
    asked: Option<(RequestId, Instant)>,
}

impl KeepAlive {
    /// Keeps requests at most `time` apart, and gives the server as much time to answer.
    #[must_use]
    pub fn new(time: Duration, now: Instant) -> Self {
        let mut keeper = Self { time, next: now, sent: 0, asked: None };
        keeper.adjourn(now);
        keeper
    }

    /// When to look.
    #[must_use]
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// Whether a command is the one that was last submitted here, so that its completion is
    /// nobody's business.
    #[must_use]
    pub fn is_own(&self, id: RequestId) -> bool {
        self.asked.is_some_and(|(asked, _)| asked == id)
    }

    /// Looks whether it is time to ask, and submits a read if it is. Its data may go nowhere
    /// and its completion be dropped.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when the server has not answered in time: the connection is
    /// to be ended.
    pub fn look(&mut self, now: Instant, core: &mut Client) -> io::Result<()> {
        if now < self.next {
            return Ok(());
        }
        let stood_still = now.saturating_duration_since(self.next) >= self.time / 4;
        self.adjourn(now);
        if let Some((id, at)) = self.asked
            && core.status(id) == RequestStatus::InFlight
        {
            if stood_still {
                self.asked = Some((id, now));
                return Ok(());
            }
            if now.saturating_duration_since(at) < self.time {
                return Ok(());
            }
            let time = self.time;
            let text = format!("no answer from the server for {time:?} to keep an idle connection");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let sent = core.stats().bytes_sent;
        let idle = core.in_flight() == 0 && sent == self.sent;
        self.sent = sent;
        let block = core.export().minimum_block();
        if idle
            && core.export().size >= u64::from(block)
            // Refused only when the end has been asked for.
            && let Ok(id) = core.submit(Command::read(0, block))
        {
            self.asked = Some((id, now));
        }
        Ok(())
    }

    /// The connection has been made again, or is gone for the moment: nothing is owed.
    pub fn restart(&mut self, now: Instant) {
        *self = Self::new(self.time, now);
    }

    fn adjourn(&mut self, now: Instant) {
        let soon = (self.time / 2).max(Duration::from_millis(1));
        // Beyond the end of time it is looked at again in a year.
        let later = now + Duration::from_secs(365 * 24 * 3600);
        self.next = now.checked_add(soon).unwrap_or(later);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do, but there has to be one")]
mod tests {
    use super::*;
    use nbd_proto::{ClientConfig, Discard, Machine, Negotiation};

    const TIME: Duration = Duration::from_secs(10);

    /// A client of an oldstyle server with a disk of 1 MiB.
    fn client() -> Client {
        let mut negotiation = Negotiation::new(ClientConfig::new()).unwrap();
        let mut greeting = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec();
        greeting.extend((1_u64 << 20).to_be_bytes());
        greeting.extend([0, 0, 0, 1]);
        greeting.extend([0; 124]);
        negotiation.feed(&greeting, &mut Discard).unwrap();
        negotiation.finish().unwrap()
    }

    #[test]
    fn silence_is_the_servers_only_when_somebody_listened() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut core = client();
        let mut keeper = KeepAlive::new(TIME, start);
        let mut look = |core: &mut Client, seconds| keeper.look(at(seconds), core);
        look(&mut core, 5).unwrap();
        assert_eq!(core.in_flight(), 1, "it is asked");
        // Nobody looked at 10: the answer may be there for long.
        look(&mut core, 500).unwrap();
        look(&mut core, 505).unwrap();
        let error = look(&mut core, 510).expect_err("it was listened to for all its time");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_server_that_answers_is_asked_again_and_again() {
        let start = Instant::now();
        let mut core = client();
        let mut keeper = KeepAlive::new(TIME, start);
        let mut asked = 0;
        for look in 1..20 {
            keeper.look(start + look * TIME / 2, &mut core).unwrap();
            let mut request = Vec::new();
            core.drain(&mut request, &Discard).unwrap();
            if request.is_empty() {
                continue;
            }
            asked += 1;
            let mut reply = b"\x67\x44\x66\x98\x00\x00\x00\x00".to_vec();
            reply.extend(&request[8..16]);
            reply.push(0);
            core.feed(&reply, &mut Discard).unwrap();
            while core.poll_event().is_some() {}
        }
        // Every other look finds that something was sent since the last one.
        assert_eq!(asked, 10);
    }
}
