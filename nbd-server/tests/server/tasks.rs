//! The same through tasks of tokio, and what only they do.

mod concurrency;
mod exports;
mod limits;
mod model;
mod raw;
mod rude;
mod spawning;
mod stopping;

/// How servers run here.
const IN_TASKS: bool = true;
