//! What the asynchronous clients share: everything but the runtime.
//!
//! Use it through `nbd-client-tokio`, `nbd-client-futures` or `nbd-client-compio`, which bring
//! a [`Runtime`] each; or write one, three methods long, for a runtime of your own.
//!
//! ```text
//!   task ── Client ──┐ submit, wait                   wake when finished
//!   task ── Client ──┤                            ┌────────────────► tasks
//!   task ── Client ──┴─► Mutex { session, calls, socket } ◄── Driver (a task)
//!                                                     connects, sends what was submitted,
//!                                                     receives, tells the time
//! ```
//!
//! What is decided is decided by [`nbd_session::Session`]; here it is only given a way to wait.
//!
//! | file | what |
//! |---|---|
//! | `connector`, `options`, `entry` | from options to a client |
//! | `client`, `pending` | one command, from the caller's side |
//! | `extents`, `file`, `pool` | what is made of commands |
//! | `state`, `calls`, `buffer` | what the tasks share: the session, who waits for what, whose memory it is |
//! | `driver` | one connection, from the server's side |
//! | `way`, `dial`, `into_stream` | how it comes to a stream |
//! | `tokio_io` | streams in the terms of tokio |
//! | `stream`, `own` | how bytes are moved: through a socket, and through a stream of somebody else's |
//! | `runtime` | what is asked of a runtime |
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-client-async = "0.1"
//! ```
//!
//! For tokio there is `nbd-client-tokio`, for smol and async-std `nbd-client-futures`, for compio
//! `nbd-client-compio`.

mod buffer;
mod calls;
mod client;
mod connector;
mod dial;
mod driver;
mod entry;
mod extents;
mod file;
mod into_stream;
mod options;
mod own;
mod pending;
mod pool;
mod runtime;
mod state;
mod stream;
#[cfg(feature = "tokio")]
mod tokio_io;
mod way;

pub use buffer::{ReadBuffer, WriteBuffer};
pub use client::Client;
pub use connector::Connector;
pub use extents::{ContextExtents, Extents};
pub use file::ExportFile;
pub use into_stream::{FuturesIo, IntoStream, Stream, System};
pub use nbd_proto as proto;
pub use nbd_proto::{Command, CommandFlags, ContextId, Errno, ExportInfo, Extent, TlsPolicy};
pub use nbd_session as session;
pub use nbd_session::extents::{PlacedExtent, Segment};
pub use nbd_session::replay::Reconnect;
pub use nbd_session::{ConnectOptions, Error, ErrorKind, Event, Rejected, SessionStats, State};
pub use nbd_transport as transport;
pub use nbd_transport::tls::TlsConfig;
pub use nbd_transport::{Endpoint, NbdUri};
pub use options::{GoError, Options};
pub use pool::Pool;
pub use runtime::{Adopted, BlockingWork, IoCall, Runtime, Sleep, Task, Watched};
#[cfg(feature = "tokio")]
pub use tokio_io::TokioIo;
