//! What every NBD client has in common above the protocol and below its way of waiting.
//!
//! ```text
//!   nbd-client-*    one way to wait each
//!        │
//!   nbd-session     link and handshake, errors, keep-alive, replay after a lost connection
//!        │
//!   nbd-transport   sockets, processes, TLS as a stage
//!   nbd-proto       the protocol
//! ```
//!
//! Nothing here waits: no socket is opened, no clock is read, no thread is started.

mod error;
mod handshake;
mod keep_alive;
mod link;
pub mod replay;
mod tls;
mod transient;

pub use error::Error;
pub use handshake::Handshake;
pub use keep_alive::KeepAlive;
pub use link::{Link, LinkError};
