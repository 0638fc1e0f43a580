//! What libnbd can do, done here and shown against servers nobody here wrote.
//!
//! The map of libnbd's calls (`docs/libnbd-map.toml`) names these tests.

mod commands;
mod connecting;
mod exports;
mod extents;
mod options;
mod plumbing;
mod refusals;
mod strict;
mod support;
mod tls;
