//! The same through tasks of tokio, and what only they do.

mod asynchronous;
mod concurrency;
mod exports;
mod files;
mod limits;
mod model;
mod rude;
mod spawning;
mod stopping;
mod streams;
mod support;
mod waiting;

/// How servers run here.
const IN_TASKS: bool = true;
