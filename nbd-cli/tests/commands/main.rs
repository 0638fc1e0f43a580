//! `nbd info`, `copy`, `bench` and `demo` against servers that others wrote, and against
//! what nobody should have given them.

mod all_servers;
mod bad_input;
mod bad_servers;
mod bench;
mod beside;
mod broken_copies;
mod compat;
mod copy;
mod destinations;
mod differences;
mod extras;
mod help_and_version;
mod info;
mod interrupts;
mod lossy_copies;
mod map;
mod sparse_copies;
mod stub;
mod support;
mod survive;
mod surviving_copies;
mod telling;
mod timeouts;
mod verify;
mod words;
mod workers;
