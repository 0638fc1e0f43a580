//! The same through tasks of tokio, and what only they do.

mod concurrency;
mod exports;
mod limits;
mod model;
mod rude;
mod spawning;
mod stopping;
mod support;

/// How servers run here.
const IN_TASKS: bool = true;
