//! The server from outside, with exports of the test's own.

mod asynchronous;
mod busy_poll;
mod concurrency;
mod exports;
mod files;
mod limits;
mod model;
mod rude;
mod starting;
mod stopping;
mod streams;
mod support;
mod waiting;

/// How servers run here.
const IN_TASKS: bool = false;
