//! One suite for every runtime: what works on one must work on all.

mod asked;
mod busy_poll;
mod cancel;
mod changed_export;
mod commands;
mod foreign;
mod hostile;
mod reconnect;
mod shutdown;
mod streams;
mod support;
mod time;
mod traits;
