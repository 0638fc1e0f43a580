//! What every NBD client has in common above the protocol and below its way of waiting.
//!
//! ```text
//!   nbd-client-*    one way to wait each
//!        │
//!   nbd-session     Session: one connection from dial to goodbye, and over again
//!        │
//!   nbd-transport   sockets, processes, TLS as a stage
//!   nbd-proto       the protocol
//! ```
//!
//! Nothing here waits: no socket is opened, no clock is read, no thread is started. A
//! [`Session`] is told what happens and says what to do; a client adds its way of waiting, and
//! decides nothing.
//!
//! | item | what |
//! |---|---|
//! | [`Session`] | the engine |
//! | [`ConnectOptions`] | how to connect, and to what |
//! | [`Error`] | what can go wrong, and who erred |
//! | [`extents`], [`mod@file`] | what is made of many commands: a walk over extents, an export as a file |
//! | [`pool`] | what is made of many connections |
//! | [`replay`] | what is sent again after a lost connection |
//! | [`BufferPool`] | memory for payload, which is used over and over |
//! | [`Link`], [`Handshake`] | a machine and TLS over any stream, for those who have a loop of their own |
//!
//! With feature `tracing` every session tells what it does in events of a span `nbd` of its own,
//! whose field `name` is [`Session::name`]. Adapters may hold a lock then: a subscriber must not
//! use the connection.
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-session = "0.1"
//! ```
//!
//! The clients have it as their module `session`: `nbd-client-blocking`, `nbd-client-mio`,
//! `nbd-client-tokio`, `nbd-client-futures`. The protocol below it is `nbd-proto`.
//!
//! # Platforms
//!
//! Linux, whole and tested. macOS and FreeBSD compile.

mod buffer_pool;
mod error;
mod event;
pub mod extents;
pub mod file;
mod go_error;
mod handshake;
mod limit;
mod link;
mod options;
mod outgoing;
pub mod pool;
mod received;
mod rejected;
pub mod replay;
mod session;
mod timers;
mod tls;
mod trace;
mod waiters;

pub use buffer_pool::{BufferPool, PooledBuffer};
pub use error::{Blame, Error, ErrorKind};
pub use event::{Event, SessionStats};
pub use go_error::GoError;
pub use handshake::Handshake;
pub use limit::Limit;
pub use link::{Link, LinkError};
pub use options::{ConnectOptions, Target};
pub use outgoing::Outgoing;
pub use received::Received;
pub use rejected::Rejected;
pub use session::{
    Completion, Connect, OptionReply, OptionRequest, Request, Session, State, Step, Withdrawn,
};
pub use waiters::Ticket;
