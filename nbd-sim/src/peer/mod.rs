//! Real servers and tools, started for one test and gone after it.
//!
//! ```text
//!  Server::nbdkit(&["memory", "1M"])      what to start          (builder.rs)
//!        .tcp()                           where it listens
//!        .start()?                        spawn, wait until ready
//!           |
//!           v
//!        Server  --- uri(), stop(), kill(), start_again()        (server.rs)
//!         |    \
//!     Process   Scratch                   killed and reaped      (process.rs)
//!                                         then removed           (scratch.rs)
//!
//!  run(tool("nbdinfo")?.arg("--size").arg(server.uri()))?        (tool.rs)
//!  version("nbdkit")? >= (1, 42)          what to expect of it   (version.rs)
//! ```
//!
//! Nothing here uses a fixed port or a fixed path, nothing waits by guessing a
//! time, and nothing is skipped: a program that is not installed is a
//! [`PeerError::Missing`] naming it and its Debian package.

mod builder;
mod crash;
mod error;
#[cfg(feature = "pki")]
pub mod pki;
mod port;
mod process;
mod program;
mod scratch;
mod server;
#[cfg(test)]
mod tests;
mod tool;
mod version;

pub use builder::ServerBuilder;
pub use crash::run_while_crashing;
pub use error::PeerError;
pub use port::ClosedPort;
pub use program::nbd_program;
pub use scratch::Scratch;
pub use server::Server;
pub use tool::{Finished, run, run_within, tool};
pub use version::{Version, version};
