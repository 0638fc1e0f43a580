//! A client that reconnects, a server that crashes, and every promise of
//! [`nbd_session::replay`] checked.
//!
//! [`run_seed`] makes a story of one number: connections that end after so many bytes, a
//! server that crashes and loses any part of what was not flushed, or says that it is
//! shutting down, and an application that goes on asking meanwhile, for ranges that overlap
//! more often than not. Checked are:
//!
//! * each command completes exactly once, and within a bounded number of steps;
//! * two changes of the same bytes are never with the server at once;
//! * a read returns what is there: with `keep_unflushed` the last write acknowledged, without
//!   it that or, after a crash, what an unflushed one had replaced;
//! * what a read has returned of a write under way, no later read takes back;
//! * what was acknowledged before a flush that succeeded survives the next crash, unless a
//!   flush has failed in between to tell otherwise;
//! * a flush fails for lost writes once for each lost connection, and not without one.
//!
//! | file | what |
//! |---|---|
//! | `world` | the story: connections come and go |
//! | `client` | the application, its journal and its machine |
//! | `model` | what it may expect to read |
//! | `server` | who carries requests out in any order, some of them, at any time |
//! | `disk` | a disk with a cache that does not survive |

mod client;
pub(crate) mod disk;
pub(crate) mod model;
pub(crate) mod server;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// What a run did, to tell that the sum of many runs covered what it should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Commands that were submitted.
    pub submitted: u64,
    /// Commands that succeeded.
    pub succeeded: u64,
    /// Commands that failed, with whatever error.
    pub failed: u64,
    /// Connections lost.
    pub losses: u64,
    /// Crashes of the server.
    pub crashes: u64,
    /// Commands that were sent more than once.
    pub repeated: u64,
    /// Flushes that failed to tell of lost writes.
    pub told: u64,
    /// Flushes nobody asked for.
    pub own_flushes: u64,
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
            "recovery seed {seed}: {what}; again: cargo run -p nbd-sim --example sim -- --recovery --first {seed} --seeds 1"
        )
    }
}

impl std::error::Error for Failure {}

/// Runs the story that `seed` stands for.
///
/// # Errors
/// The first promise that does not hold.
pub fn run_seed(seed: u64) -> Result<Report, Failure> {
    let mut world = World::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let outcome = outcome.unwrap_or_else(|_| Err("a panic".to_owned()));
    outcome.map_err(|what| Failure { seed, what })
}

/// Whether the promises hold, or which does not.
pub(crate) type Check = Result<(), String>;
