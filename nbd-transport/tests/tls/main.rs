//! TLS: in memory, against real servers, and against servers that cheat.

mod config;
mod driver;
mod hostile;
mod pair;
mod pki;
#[cfg(feature = "psk")]
mod psk;
mod servers;
