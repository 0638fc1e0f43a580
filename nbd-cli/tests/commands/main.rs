//! `nbd info`, `copy`, `bench` and `demo` against servers that others wrote, and against
//! what nobody should have given them.

mod bad_input;
mod bad_servers;
mod bench;
mod broken_copies;
mod copy;
mod info;
mod lanes;
mod map;
mod sparse_copies;
mod support;
mod survive;
mod verify;
