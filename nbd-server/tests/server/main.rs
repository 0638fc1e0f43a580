//! The server from outside, with exports of the test's own.

mod concurrency;
mod exports;
mod limits;
mod model;
mod rude;
mod starting;
mod stopping;
mod support;

/// How servers run here.
const IN_TASKS: bool = false;
