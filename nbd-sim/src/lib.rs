//! The test kit: everything that judges the protocol core without a socket.
//!
//! ```text
//!                      seed
//!                        │
//!        ┌───────────────┼────────────────┐
//!        ▼               ▼                ▼
//!   client app ── Link ── pipe ── Link ── server app ── Disk
//!    │  Model          │ schedule │            (reorders, cuts, fails)
//!    ▼                 ▼          ▼
//!  completions       Oracle     Oracle
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`oracle`] | an independent parser of whole sessions |
//! | [`transcript`] | recorded sessions with real servers, and golden vectors |
//! | [`rng`] | the one source of chance: a number in, a run out |
//! | [`pipe`] | a connection in memory that delivers as badly as its schedule says |
//! | [`link`] | one machine at one end of a pipe, driven by pull or by push |
//! | [`disk`] | what a server serves and what a client knows of it |
//! | [`pair`] | a client and a server over a pipe, and every invariant checked |
//! | [`recovery`] | a client that reconnects to a server that crashes |
//! | [`session`] | whole sessions and pools on a clock that is a number, and what goes wrong |
//! | [`rig`] | one session by hand, on a clock that is a number |
//! | [`delivery`] | the ways in which bytes can reach a machine |
//! | [`memory_server`] | a sound server over memory, and a stream to it |
//! | [`trouble`] | a stream that lies, stops or fails at any one call |
//! | [`replay`] | recorded sessions, played to either side |
//! | [`hostile`] | servers that break rules, as a table |
//! | [`rude`] | clients that break rules, as a table |
//! | [`raw`] | a client that is driven by hand |
//! | [`fuzzing`] | bytes from a fuzzer, turned into sessions |
//! | `lossy` | a server in threads that forgets what was not flushed, with feature `peers` |
//! | `scripted` | a server in a thread that changes and dies, with feature `peers` |
//! | `relay` | something between a client and a server that does harm, with feature `peers` |
//! | `peer` | real servers and tools, with feature `peers` |
//!
//! Nothing here reads a clock or asks the system for chance: the same seed gives
//! the same run, byte for byte. Only the libraries behind TLS do both.

#![allow(clippy::exhaustive_enums, clippy::exhaustive_structs, reason = "it is never published")]

mod arrivals;
pub mod delivery;
pub mod disk;
pub mod fuzzing;
pub mod hostile;
pub mod link;
#[cfg(feature = "peers")]
pub mod lossy;
pub mod memory_server;
pub mod oracle;
pub mod pair;
#[cfg(feature = "peers")]
pub mod peer;
pub mod pipe;
pub mod raw;
pub mod recovery;
#[cfg(feature = "peers")]
pub mod relay;
pub mod replay;
pub mod rig;
pub mod rng;
pub mod rude;
#[cfg(feature = "peers")]
pub mod scripted;
pub mod session;
pub mod transcript;
pub mod trouble;
