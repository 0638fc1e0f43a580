//! One suite for every adapter: what one of them does, all of them do.
//!
//! ```text
//!   adapter × security × server          a cell of the matrix, and a test each
//!      │         │         │
//!   Subject   Credentials  Site ──► servers, started for the cell
//!      └─────────┴────┬────┘
//!                   Fixture ──► Case, Case, Case, …
//! ```
//!
//! A case is a function of a fixture: it asks through the traits of `subject`, in the shape
//! of calls that wait, and compares plain data. What only some adapters have, such as futures
//! that are dropped, events and threads, is tested in their own crates.
//!
//! | file | what |
//! |---|---|
//! | `subject/` | what is asked of an adapter, and how each does it |
//! | `site/` | the servers, the disks they serve, the credentials |
//! | `fixture` | what a case finds |
//! | `outcome` | what came of a call, as plain data |
//! | `case`, `cases/` | the cases, and where each can run |
//!
//! Every cell starts its own servers. `nbd serve` comes from [`nbd_sim::peer::nbd_program`];
//! cells with pre-shared keys need one that was built with feature `psk`.

#![allow(clippy::exhaustive_enums, clippy::exhaustive_structs, reason = "it is never published")]

// The guides show every adapter, and this crate has them all.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../docs/guides/which-crate.md")]
    struct WhichCrate;
    #[doc = include_str!("../../docs/guides/own-loop.md")]
    struct OwnLoop;
    #[doc = include_str!("../../docs/guides/many-connections.md")]
    struct ManyConnections;
    #[doc = include_str!("../../docs/guides/surviving-failures.md")]
    struct SurvivingFailures;
    #[doc = include_str!("../../docs/guides/tls.md")]
    struct Tls;
    #[doc = include_str!("../../docs/guides/writing-a-server.md")]
    struct WritingAServer;
}

mod case;
mod cases;
mod fixture;
mod outcome;
mod site;
mod subject;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

pub use case::Case;
pub use cases::all;
pub use site::{Kind, Security};
pub use subject::Adapter;

use fixture::{Fixture, LONG};
use nbd_sim::peer::PeerError;
use site::Site;

/// Runs a cell of the matrix: every case that fits, one after the other. Returns how many
/// have run, and what is to be said of each that failed.
///
/// # Errors
/// When the cell's server does not start.
pub fn run_cell(
    adapter: Adapter,
    security: Security,
    kind: Kind,
) -> Result<(usize, Vec<String>), PeerError> {
    let subject = adapter.subject();
    let mut fixture = Fixture::new(Site { kind, security }, &*subject, adapter.beyond())?;
    let mut count = 0;
    let mut failures = Vec::new();
    let (began, cases) = channel();
    thread::spawn(move || name_what_hangs(&format!("{adapter:?}, {security:?}, {kind:?}"), &cases));
    for case in all().filter(|case| case.fits(kind, security)) {
        count += 1;
        // Whoever listens is gone only when this is.
        let _ = began.send(case.name());
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| case.run(&mut fixture)));
        let took = start.elapsed();
        // Shown for a cell that fails.
        println!("{:>6} ms {}", took.as_millis(), case.name());
        let why = match outcome {
            // A wake-up that was lost would be made good by the deadline.
            Ok(Ok(())) if took >= LONG => format!("it took {took:?}"),
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => words(&*panic),
        };
        failures.push(format!("{}: {why}", case.name()));
        fixture.clear();
    }
    Ok((count, failures))
}

/// Says which case takes too long while it does, past the harness, which shows what a test has
/// printed only once it has ended.
fn name_what_hangs(cell: &str, cases: &Receiver<&'static str>) {
    let mut running = "starting";
    loop {
        match cases.recv_timeout(LONG) {
            Ok(case) => running = case,
            Err(RecvTimeoutError::Timeout) => {
                let line = format!("{cell}: {running} has been running for over {LONG:?}\n");
                // Nobody may be reading.
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
