//! TLS: in memory, against real servers, and against servers that cheat.

#![expect(clippy::disallowed_methods, reason = "servers that cheat are threads")]

mod config;
mod cuts;
mod driver;
mod forge;
mod hostile;
mod memory;
mod misbehaviour;
mod odd;
mod pair;
#[cfg(feature = "psk")]
mod psk;
mod servers;
mod session;
