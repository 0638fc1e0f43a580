//! How much is in flight over a connection: what its distance asks for.
//!
//! Nearby, short requests keep everything in the processor's caches. From far away each takes
//! its time whatever its length, and a server works on a few at a time: there long ones, over
//! more connections, bring more, and no more memory is held.

use std::time::{Duration, Instant};

use crate::copy::plan::Plan;

/// An answer that takes less comes from nearby, or near enough for short requests.
const FAR: Duration = Duration::from_millis(3);
/// Reads in flight before that is known: each waits for those before it, too.
const BEFORE: usize = 4;
/// For so long answers may be late by accident: while a server nearby starts its threads.
const STARTING: Duration = Duration::from_millis(8);
/// Bytes in flight on each connection, and in a request, from far away.
const QUEUE: usize = 10 << 20;
const REQUEST: usize = 1 << 20;

/// The reads of one connection.
#[derive(Debug)]
pub(super) struct Window {
    /// Bytes in a request.
    request: u64,
    /// Requests in flight.
    requests: usize,
    /// What they are nearby.
    near: usize,
    /// The longest request that the server takes, in bytes.
    longest: usize,
    /// What is measured; nothing when it is settled, or somebody has said how much is to be in
    /// flight.
    distance: Option<Distance>,
}

/// Of a server, by its first answers.
#[derive(Debug, Default)]
struct Distance {
    /// When the first read was sent.
    begun: Option<Instant>,
    /// Offsets of the reads in flight, and when they were sent.
    in_flight: Vec<(u64, Instant)>,
    /// Answers so far, all of them late.
    late: usize,
}

impl Window {
    /// `request` is how long requests are to be nearby.
    pub(super) fn new(plan: &Plan, request: u64, longest: usize) -> Self {
        let (requests, distance) = match plan.adapts {
            true => (plan.requests.min(BEFORE), Some(Distance::default())),
            false => (plan.requests, None),
        };
        Self { request, requests, near: plan.requests, longest, distance }
    }

    pub(super) const fn request(&self) -> u64 {
        self.request
    }

    pub(super) const fn requests(&self) -> usize {
        self.requests
    }

    /// A read at this offset is sent.
    pub(super) fn sent(&mut self, offset: u64, clock: impl FnOnce() -> Instant) {
        if let Some(distance) = &mut self.distance {
            let now = clock();
            distance.begun.get_or_insert(now);
            distance.in_flight.push((offset, now));
        }
    }

    /// The read at this offset is answered. Returns whether that shows that the server is far
    /// away.
    pub(super) fn answered(&mut self, offset: u64, clock: impl FnOnce() -> Instant) -> bool {
        let Some(distance) = &mut self.distance else { return false };
        match distance.answered(offset, clock()) {
            None => false,
            Some(far) => {
                self.distance = None;
                self.settle(far);
                far
            }
        }
    }

    fn settle(&mut self, far: bool) {
        if !far {
            self.requests = self.near;
            return;
        }
        // In whole blocks: both are powers of two, where the server's longest is one.
        let request = self.request.max(REQUEST.min(self.longest) as u64);
        if request.is_multiple_of(self.request) {
            self.request = request;
        }
        self.requests = (QUEUE / self.request.max(1) as usize).clamp(1, self.near);
    }
}

impl Distance {
    /// Whether the server is far away, once that is known.
    fn answered(&mut self, offset: u64, now: Instant) -> Option<bool> {
        let place = self.in_flight.iter().position(|(at, _)| *at == offset)?;
        let (_, sent) = self.in_flight.swap_remove(place);
        if now.saturating_duration_since(sent) < FAR {
            return Some(false);
        }
        self.late += 1;
        let took = now.saturating_duration_since(self.begun?);
        (self.late >= BEFORE && took >= STARTING).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one read after the other, each after so long; tells whether the server is far away,
    /// and after how many answers that was known.
    fn measure(window: &mut Window, answers: impl IntoIterator<Item = Duration>) -> (bool, usize) {
        let mut now = Instant::now();
        for (at, took) in answers.into_iter().enumerate() {
            window.sent(at as u64, || now);
            now += took;
            let far = window.answered(at as u64, || now);
            if window.distance.is_none() {
                return (far, at + 1);
            }
        }
        panic!("it is not known");
    }

    #[test]
    fn more_is_in_flight_from_far_away() {
        let plan = Plan { adapts: true, ..Plan::default() };
        let window = |answers: &[u64]| {
            let mut window = Window::new(&plan, 256 << 10, 32 << 20);
            let answers = answers.iter().cycle().map(|micros| Duration::from_micros(*micros));
            let (far, known) = measure(&mut window, answers.take(99));
            (far, known, window.request(), window.requests())
        };
        assert_eq!(window(&[2999]), (false, 1, 256 << 10, 32));
        assert_eq!(window(&[7000, 300]), (false, 2, 256 << 10, 32));
        assert_eq!(window(&[3000]), (true, 4, 1 << 20, 10));
        assert_eq!(window(&[50_000]), (true, 4, 1 << 20, 10));
        let mut small = Window::new(&plan, 4096, 4096);
        assert_eq!(measure(&mut small, [Duration::from_secs(1); 4]), (true, 4));
        assert_eq!((small.request(), small.requests()), (4096, 32));
        let mut settled = Window::new(&Plan::default(), 512, 1 << 20);
        settled.sent(0, || panic!("nobody needs to know"));
        assert!(!settled.answered(0, || panic!("nobody needs to know")));
        assert_eq!((settled.request(), settled.requests()), (512, 32));
    }

    #[test]
    fn reads_beside_each_other_are_told_apart() {
        let mut window = Window::new(&Plan { adapts: true, ..Plan::default() }, 512, 1 << 20);
        let begin = Instant::now();
        (0..4).for_each(|at| window.sent(at, || begin));
        let late = begin + FAR;
        assert!((1..4).all(|at| !window.answered(at, || late)));
        window.sent(4, || late);
        assert!(!window.answered(4, || late + FAR / 2));
        assert_eq!((window.requests(), window.distance.is_none()), (32, true));
    }
}
