//! How much is in flight over a connection: what its distance asks for.
//!
//! Nearby, short requests keep everything in the processor's caches. From far away each takes
//! its time whatever its length, and a server works on a few at a time: there long ones, over
//! more connections, bring more, and no more memory is held.

use std::time::{Duration, Instant};

use crate::copy::plan::Plan;

/// An answer that takes so long comes from far away.
const FAR: Duration = Duration::from_millis(1);
/// Reads in flight before that is known.
const BEFORE: usize = 16;
/// Bytes in flight on each connection, and in a request, from far away.
const QUEUE: usize = 10 << 20;
const REQUEST: usize = 1 << 20;

/// The reads of one connection.
#[derive(Debug)]
pub(super) struct Width {
    /// Bytes in a request.
    request: u64,
    /// Requests in flight.
    requests: usize,
    /// What they are nearby.
    near: usize,
    /// The longest request that the server takes, in bytes.
    longest: usize,
    distance: Distance,
}

#[derive(Clone, Copy, Debug)]
enum Distance {
    /// Somebody has said how much is to be in flight, or it was measured.
    Settled,
    Unknown,
    /// The first read was sent.
    Measured(Instant),
}

impl Width {
    /// `request` is how long requests are to be nearby.
    pub(super) fn new(plan: &Plan, request: u64, longest: usize) -> Self {
        let (requests, distance) = match plan.adapts {
            true => (plan.requests.min(BEFORE), Distance::Unknown),
            false => (plan.requests, Distance::Settled),
        };
        Self { request, requests, near: plan.requests, longest, distance }
    }

    pub(super) const fn request(&self) -> u64 {
        self.request
    }

    pub(super) const fn requests(&self) -> usize {
        self.requests
    }

    /// A read is sent.
    pub(super) fn sent(&mut self) {
        if let Distance::Unknown = self.distance {
            self.distance = Distance::Measured(Instant::now());
        }
    }

    /// A read is answered. Returns whether that shows that the server is far away.
    pub(super) fn answered(&mut self) -> bool {
        let Distance::Measured(sent) = self.distance else { return false };
        self.settle(sent.elapsed())
    }

    fn settle(&mut self, took: Duration) -> bool {
        self.distance = Distance::Settled;
        if took < FAR {
            self.requests = self.near;
            return false;
        }
        // In whole blocks: both are powers of two, where the server's longest is one.
        let request = self.request.max(REQUEST.min(self.longest) as u64);
        if request.is_multiple_of(self.request) {
            self.request = request;
        }
        self.requests = (QUEUE / self.request.max(1) as usize).clamp(1, self.near);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_in_flight_from_far_away() {
        let plan = Plan { adapts: true, ..Plan::default() };
        let width = |took| {
            let mut width = Width::new(&plan, 256 << 10, 32 << 20);
            let far = width.settle(took);
            (far, width.request(), width.requests())
        };
        assert_eq!(width(Duration::from_micros(999)), (false, 256 << 10, 64));
        assert_eq!(width(Duration::from_millis(50)), (true, 1 << 20, 10));
        let mut small = Width::new(&plan, 4096, 4096);
        assert!(small.settle(Duration::from_secs(1)));
        assert_eq!((small.request(), small.requests()), (4096, 64));
        let mut settled = Width::new(&Plan::default(), 512, 1 << 20);
        settled.sent();
        assert!(!settled.answered());
        assert_eq!((settled.request(), settled.requests()), (512, 64));
    }
}
