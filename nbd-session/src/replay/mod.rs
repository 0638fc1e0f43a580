//! Surviving a lost connection, as far as that can be thought out without a clock and
//! without a socket.
//!
//! ```text
//!   callers ── submit ──► ReplayLog ── due ──► Client::submit ──► server
//!      ▲                  │  ▲  ▲
//!      └──── completed ───┘  │  └── lost, resume: what was under way is due again
//!                            │
//!                    acknowledged writes that no flush has made durable
//! ```
//!
//! | item | what |
//! |---|---|
//! | [`Reconnect`] | what a user wants: delays, the end of patience, how much is kept |
//! | [`ReplayLog`] | what to send again after a loss, and in which order |
//! | [`Changed`] | what a server must not have changed meanwhile |
//! | [`RecoveryError`] | what a caller is told that no connection and no server told |
//!
//! # What is promised
//!
//! * Each command completes once, whatever happens to connections, unless it is cancelled.
//! * Reads, block status and cache are sent again. So are writes, and in an order that keeps
//!   their meaning: of two commands that change the same bytes the later one is not sent
//!   before the earlier one has been answered. So no write can be sent again over a later
//!   one that was acknowledged.
//! * With [`keep_unflushed`](Reconnect::keep_unflushed) every acknowledged write is kept until
//!   a flush has made it durable, and is sent again, before anything that could tell the
//!   difference, even to a server that has lost its cache.
//! * Without it, when acknowledged writes may be lost, one flush fails with
//!   [`RecoveryError::UnflushedLost`]: all that were under way when the connection was lost,
//!   or else the next. A flush that succeeds does not lie.
//!
//! # What cannot be promised
//!
//! * A server may go on with a request whose connection is gone. When it still does so after
//!   the same write has been sent again and a later one has followed, the older data wins.
//!   NBD has no means to prevent that; servers that finish, or forget, the requests of a
//!   connection when it closes are safe, and so is one that was restarted.
//! * Unflushed writes are put back without looking. Nobody else may write to what this client
//!   writes to, be it another connection of the same program.

mod entry;
mod error;
mod log;
mod pending;
mod reconnect;
mod spans;
mod terms;
#[cfg(test)]
mod tests;
mod unflushed;

pub use error::RecoveryError;
pub use log::ReplayLog;
pub use pending::Place;
pub use reconnect::Reconnect;
pub use terms::Changed;
