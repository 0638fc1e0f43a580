//! The server's side of the negotiation, driven with bytes.

use core::fmt;
use core::ops::ControlFlow;

use super::options::Expect;
use super::{ServerNegotiation, ServerPhase};
use crate::engine::Stats;
use crate::engine::intake::RecvBufs;
use crate::error::Error;
use crate::machine::Machine;
use crate::payload::{PayloadSink, PayloadSource};
use crate::types::Direction;

impl Machine for ServerNegotiation {
    fn recv_bufs<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> RecvBufs<'a> {
        self.session.recv_bufs(sink)
    }

    fn recv_buf<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> &'a mut [u8] {
        self.session.recv_buf(sink)
    }

    fn received<S: PayloadSink>(&mut self, n: usize, sink: &mut S) -> Result<(), Error> {
        self.session.received(n, sink)
    }

    fn has_buffered(&self) -> bool {
        self.session.has_buffered()
    }

    fn feed<S: PayloadSink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, Error> {
        self.session.feed(bytes, sink)
    }

    fn eof(&mut self) -> Result<(), Error> {
        self.session.check_alive()?;
        match self.session.core.expect {
            Expect::Closed => Ok(()),
            _ => Err(self.session.cut_off()),
        }
    }

    fn for_each_unsent<'a, P, F>(&'a self, source: &'a P, visit: F) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>,
    {
        self.session.for_each_unsent(source, visit)
    }

    fn sent(&mut self, n: usize) -> Result<(), Error> {
        self.session.sent(n)
    }

    fn send_failed(&mut self) {
        self.session.core.outbox.close();
    }

    fn get_direction(&self) -> Direction {
        self.session.direction(self.phase() == ServerPhase::Busy)
    }

    fn is_ending(&self) -> bool {
        self.phase() == ServerPhase::Closed
    }

    fn awaited(&self) -> usize {
        0
    }

    fn state_name(&self) -> &'static str {
        if self.error().is_some() {
            return "negotiation failed";
        }
        self.session.core.expect.name()
    }

    fn stats(&self) -> &Stats {
        self.session.stats()
    }
}

impl fmt::Debug for ServerNegotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerNegotiation")
            .field("state", &self.state_name())
            .field("question", &self.session.core.question)
            .field("negotiated", &self.session.core.facts)
            .finish_non_exhaustive()
    }
}
