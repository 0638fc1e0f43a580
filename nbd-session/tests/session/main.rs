//! The session engine by hand: a clock that is a number, and streams in memory.

#![expect(clippy::disallowed_methods, reason = "time is a number, but it begins somewhere")]

mod calls;
mod choosing;
mod connecting;
mod goodbye;
mod loss;
mod patience;
mod silence;
mod streams;
mod withdrawal;
