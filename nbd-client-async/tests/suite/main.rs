//! One suite for every runtime: what works on one must work on all.

mod asked;
mod awake;
mod cancel;
mod commands;
mod foreign;
mod hostile;
mod recovery;
mod redial;
mod shutdown;
mod streams;
mod support;
mod time;
mod traits;
