//! TLS: in memory, against real servers, and against servers that cheat.

mod config;
mod cuts;
mod driver;
mod forge;
mod hostile;
mod memory;
mod misbehaviour;
mod pair;
mod pki;
#[cfg(feature = "psk")]
mod psk;
mod servers;
