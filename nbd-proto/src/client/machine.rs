//! The client, driven with bytes.

use core::fmt;
use core::ops::ControlFlow;

use super::{Client, Life};
use crate::engine::Stats;
use crate::engine::intake::RecvBufs;
use crate::error::{Error, PeerMisbehaved};
use crate::machine::Machine;
use crate::payload::{PayloadSink, PayloadSource};
use crate::types::Direction;

impl Client {
    /// Accounts for one delivery: its outcome, and what follows from it.
    fn delivered(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Ok(()) => {
                self.intake.stats.messages_received = self.core.messages_received;
                let copied = core::mem::take(&mut self.core.bytes_copied);
                let stats = &mut self.intake.stats;
                stats.bytes_copied = stats.bytes_copied.wrapping_add(copied);
                self.intake.stats.anomalies = self.core.anomaly_count;
                self.disconnect_when_drained();
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    #[inline]
    fn check_alive(&self) -> Result<(), Error> {
        match &self.core.life {
            Life::Closed(Some(error)) => Err(error.clone()),
            Life::Closed(None) | Life::Open | Life::Draining | Life::Disconnecting => Ok(()),
        }
    }
}

impl Machine for Client {
    fn recv_bufs<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> RecvBufs<'a> {
        self.intake.recv_bufs(&self.core, sink)
    }

    fn recv_buf<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> &'a mut [u8] {
        self.intake.recv_buf(&self.core, sink, self.core.limits.direct_min)
    }

    fn received<S: PayloadSink>(&mut self, n: usize, sink: &mut S) -> Result<(), Error> {
        self.check_alive()?;
        let result = self.intake.received(n, &mut self.core, sink);
        self.delivered(result)
    }

    fn has_buffered(&self) -> bool {
        self.intake.has_parsable()
    }

    fn feed<S: PayloadSink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, Error> {
        self.check_alive()?;
        let result = self.intake.feed(bytes, &mut self.core, sink);
        self.delivered(result.map(|_| ()))?;
        Ok(bytes.len())
    }

    fn eof(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        let error = match self.core.life {
            Life::Closed(_) => return Ok(()),
            Life::Disconnecting => None,
            // Between the parts of a chunk nothing may be held.
            Life::Open | Life::Draining
                if self.intake.mid_message() || !self.core.expect.is_header() =>
            {
                Some(PeerMisbehaved::ClosedMidMessage)
            }
            Life::Open | Life::Draining if self.core.unfinished > 0 => Some(PeerMisbehaved::Closed),
            Life::Open | Life::Draining => None,
        };
        match error {
            Some(error) => Err(self.fail(error.into())),
            None => {
                self.core.close(None);
                self.core.outbox.close();
                self.intake.stop();
                Ok(())
            }
        }
    }

    fn for_each_unsent<'a, P, F>(&'a self, source: &'a P, visit: F) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        self.core.outbox.for_each_unsent(source, visit)
    }

    fn sent(&mut self, n: usize) -> Result<(), Error> {
        let result = self.core.outbox.sent(n, &mut self.intake.stats, |_| {});
        self.core.count_sent();
        self.core.release_held();
        self.disconnect_when_drained();
        result.map_err(|misuse| self.fail(misuse.into()))
    }

    fn send_failed(&mut self) {
        if matches!(self.core.life, Life::Open) {
            self.core.life = Life::Draining;
        }
        self.core.outbox.close();
    }

    fn get_direction(&self) -> Direction {
        if self.is_closed() {
            return Direction::empty();
        }
        let mut direction = Direction::READ;
        direction.set(Direction::WRITE, !self.core.outbox.is_empty());
        direction
    }

    fn is_ending(&self) -> bool {
        matches!(self.core.life, Life::Disconnecting | Life::Closed(_))
    }

    fn awaited(&self) -> usize {
        self.in_flight()
    }

    fn state_name(&self) -> &'static str {
        match (&self.core.life, self.core.unfinished, self.core.expect.is_header()) {
            (Life::Open, 0, _) => "ready",
            (Life::Open, _, true) => "waiting for replies",
            (Life::Open, _, false) => "receiving a reply",
            (Life::Draining, ..) => "waiting for the last replies",
            (Life::Disconnecting, ..) => "disconnecting",
            (Life::Closed(None), ..) => "closed",
            (Life::Closed(Some(_)), ..) => "dead",
        }
    }

    fn stats(&self) -> &Stats {
        &self.intake.stats
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state_name())
            .field("in_flight", &self.core.unfinished)
            .field("completed", &self.completed())
            .field("headers", &self.core.facts.headers)
            .field("stats", &self.intake.stats)
            .finish_non_exhaustive()
    }
}
