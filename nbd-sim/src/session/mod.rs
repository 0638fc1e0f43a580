//! Whole [sessions](nbd_session::Session), alone and in [pools](nbd_session::pool), on a clock
//! that is a number, against a server that fails in every way that is not malice.
//!
//! [`run_seed`] makes a story of one number. Connections are refused, are never made, end, or
//! fall silent; the server crashes and forgets what was not flushed, shuts down, comes back with
//! a larger export or a smaller one; callers withdraw at any point, or set limits; the machine
//! stands still for an hour. An application goes on asking meanwhile, as long as there is
//! anybody to ask. Checked are:
//!
//! * each command is told exactly once, or was withdrawn, and its buffer is free in the end;
//! * nothing is held for ever: when all faults are over, everything is told in bounded time;
//! * a server that brings nothing is given up when its time is over, whatever was withdrawn;
//! * a read returns what is there, never what an acknowledged write has replaced, unless a
//!   crash has; with `keep_unflushed` not even then;
//! * a flush that succeeds vouches for everything acknowledged before it, on whichever
//!   connection; one that fails for lost writes does so only after a loss;
//! * goodbyes end.
//!
//! | file | what |
//! |---|---|
//! | `world` | the story: time, faults, the server |
//! | `member` | one session, and an adapter that waits for nothing |
//! | `application` | who asks, and judges what comes back |
//!
//! The disk, its server and the model of what may be read are those of
//! [`recovery`](crate::recovery).

mod application;
mod member;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run did, to tell that the sum of many runs covered what it should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Commands that were submitted.
    pub submitted: u64,
    /// Commands that succeeded.
    pub succeeded: u64,
    /// Commands that failed, with whatever error.
    pub failed: u64,
    /// Those of them whose time was over.
    pub late: u64,
    /// Commands that were withdrawn.
    pub withdrawn: u64,
    /// Connections that were ready.
    pub connections: u64,
    /// Crashes of the server.
    pub crashes: u64,
    /// Connections that fell silent.
    pub silences: u64,
    /// Jumps of the clock.
    pub jumps: u64,
    /// Flushes that failed to tell of lost writes.
    pub told: u64,
    /// Sessions that ended before they were asked to.
    pub given_up: u64,
    /// Seconds that the story took.
    pub seconds: u64,
}

/// A broken promise. Its text is one line that tells how to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// What is broken.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what } = self;
        write!(
            f,
            "session seed {seed}: {what}; again: cargo run -p nbd-sim --example sim -- --sessions --first {seed} --seeds 1"
        )
    }
}

impl std::error::Error for Failure {}

/// Runs the story that `seed` stands for.
///
/// # Errors
/// The first promise that does not hold.
pub fn run_seed(seed: u64) -> Result<Report, Failure> {
    let outcome = catch_unwind(AssertUnwindSafe(|| world::World::new(seed).run()));
    let outcome = outcome.unwrap_or_else(|_| Err("a panic".to_owned()));
    outcome.map_err(|what| Failure { seed, what })
}
