//! A client and a server over a pipe, and every invariant checked.
//!
//! [`run_seed`] plans a whole session from one number: what both sides are
//! configured to do, how badly the pipe delivers, what the client asks, how the
//! server's application cuts and reorders its answers, and which fault strikes.
//! Then it runs the session step by step and checks, at each step and at the end:
//!
//! * each command completes exactly once, and none that was abandoned does;
//! * no byte outside a command's range is touched;
//! * a successful read returns what the client's own commands made of the disk;
//! * both sides agree on what was negotiated;
//! * no more commands are in flight than the limit allows;
//! * without a fault no reply is found faulty and the session ends in good order;
//! * after the last fault the session ends within a bounded number of steps;
//! * the oracle accepts what each side sent in answer to what it saw, and the
//!   client broke no rule that a server could mind.
//!
//! | file | what |
//! |---|---|
//! | `plan` | what a seed stands for |
//! | `client` | the application that asks |
//! | `commands` | what it asks for |
//! | `outcome` | what a completion says about the disk |
//! | `buffers` | its memory, with canaries around each buffer |
//! | `server` | the application that answers |
//! | `answer` | how it cuts and reorders an answer |
//! | `handshake` | both sides' negotiation |
//! | `verdict` | the oracle's word on what passed each end |

mod answer;
mod buffers;
mod client;
mod commands;
mod handshake;
mod outcome;
mod plan;
mod server;
mod verdict;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nbd_proto::{HeaderStyle, Negotiated};

use crate::link::Link;
use crate::pipe::{End, Way, pipe};
use crate::rng::Rng;
use client::ClientSide;
pub use plan::{Fault, Plan};
use server::ServerSide;

/// What a run did, to tell that the sum of many runs covered what it should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// The form of the data phase; `None` if it was never reached.
    pub headers: Option<HeaderStyle>,
    /// Commands submitted.
    pub submitted: u64,
    /// Commands that succeeded.
    pub succeeded: u64,
    /// Commands that failed, with whatever error.
    pub failed: u64,
    /// Commands abandoned.
    pub abandoned: u64,
    /// Holes the client was told of.
    pub holes: u64,
    /// Extents the client was told of.
    pub extents: u64,
    /// Steps until the end.
    pub steps: u64,
}

/// A broken invariant. Its text is one line that tells how to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// The step at which it was noticed.
    pub step: u64,
    /// What is broken.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, what } = self;
        write!(
            f,
            "seed {seed}, step {step}: {what}; again: cargo run -p nbd-sim --example sim -- --first {seed} --seeds 1"
        )
    }
}

impl std::error::Error for Failure {}

/// Steps in a row in which no byte moves until a session counts as stuck. A pipe
/// blocks at most one call in three for no reason.
const IDLE_STEPS: u64 = 300;
/// Steps that no session needs.
const MAX_STEPS: u64 = 3_000_000;

/// Runs the session that `seed` stands for.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run_seed(seed: u64) -> Result<Report, Failure> {
    run(Plan::new(seed)).map(|(report, ..)| report)
}

/// Everything that passed each end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// At the client's end.
    pub client: Vec<(Way, Vec<u8>)>,
    /// At the server's end.
    pub server: Vec<(Way, Vec<u8>)>,
}

/// Runs a planned session; returns what passed the client's end, too.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run(plan: Plan) -> Result<(Report, Traffic), Failure> {
    let seed = plan.seed;
    let mut session = Session::new(plan);
    let outcome = catch_unwind(AssertUnwindSafe(|| session.run()));
    let step = session.steps;
    let outcome = outcome.unwrap_or_else(|_| Err("a panic".to_owned()));
    let outcome = outcome.and_then(|()| session.finish());
    outcome.map_err(|what| Failure { seed, step, what })
}

/// Whether the invariants hold, or which does not.
type Check = Result<(), String>;

struct Session {
    plan: Plan,
    rng: Rng,
    client: ClientSide,
    server: ServerSide,
    steps: u64,
}

impl Session {
    fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(!plan.seed);
        let (to_server, to_client) = plan.schedules();
        let (a, b) = pipe(&mut rng, to_server, to_client);
        let client = ClientSide::new(&plan, Link::new(a, plan.client_drive), rng.fork());
        let server = ServerSide::new(&plan, Link::new(b, plan.server_drive), rng.fork());
        Self { plan, rng, client, server, steps: 0 }
    }

    fn run(&mut self) -> Check {
        let (mut idle, mut moved) = (0, 0);
        while !(self.client.is_over() && self.server.is_over()) {
            self.steps += 1;
            if self.rng.one_in(2) {
                self.client.step(&self.plan)?;
            } else {
                self.server.step(&self.plan)?;
            }
            self.check_agreement()?;
            let calls = self.calls();
            idle = if calls == moved { idle + 1 } else { 0 };
            moved = calls;
            if idle > IDLE_STEPS {
                self.give_up()?;
                idle = 0;
            }
            if self.steps > MAX_STEPS {
                return Err(format!("no end after {MAX_STEPS} steps: {}", self.states()));
            }
        }
        Ok(())
    }

    /// Both sides must be of one mind about everything that was negotiated.
    fn check_agreement(&self) -> Check {
        let (Some(client), Some(server)) = (self.client.agreed(), self.server.agreed()) else {
            return Ok(());
        };
        let facts = |facts: &Negotiated| {
            let export = facts.export.as_ref();
            (
                (facts.protocol, facts.handshake_flags, facts.headers),
                (facts.tls, facts.contexts.clone()),
                export.map(|export| (export.size, export.flags)),
            )
        };
        let (client, server) = (facts(client), facts(server));
        if matches!(self.plan.fault, Fault::None) && client != server {
            return Err(format!("the client has {client:?}, the server {server:?}"));
        }
        Ok(())
    }

    fn calls(&self) -> u64 {
        let ends: [&End; 2] = [self.client.link.end(), self.server.link.end()];
        ends.iter().map(|end| end.calls()).sum()
    }

    /// Nothing moves any more. Only a flipped bit may cause that; whoever waits for
    /// bytes that never come then runs out of patience and leaves.
    fn give_up(&mut self) -> Check {
        if !matches!(self.plan.fault, Fault::Flip { .. }) {
            return Err(format!("stuck: {}", self.states()));
        }
        self.client.hang_up(&self.plan)?;
        self.server.hang_up();
        Ok(())
    }

    fn states(&self) -> String {
        let (client, server) = (self.client.state(), self.server.state());
        format!("client {client}, server {server}, {:?}", self.plan.fault)
    }

    fn finish(self) -> Result<(Report, Traffic), String> {
        let mut report = self.client.finish(&self.plan)?;
        report.steps = self.steps;
        let traffic = Traffic {
            client: self.client.link.end().log().to_vec(),
            server: self.server.link.end().log().to_vec(),
        };
        let faulty = !matches!(self.plan.fault, Fault::None);
        verdict::judge_client(&traffic.client, faulty)?;
        verdict::judge_server(&traffic.server, faulty)?;
        Ok((report, traffic))
    }
}
