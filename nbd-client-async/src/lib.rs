//! What the asynchronous clients share: everything but the runtime.
//!
//! Use it through `nbd-client-tokio` or `nbd-client-futures`, which bring a
//! [`Runtime`] each; or write one, three methods long, for a runtime of your own.
//!
//! ```text
//!   task ── Client ──┐ submit, wait                   wake by slot
//!   task ── Client ──┤                            ┌────────────────► tasks
//!   task ── Client ──┴─► Mutex { machine, calls, socket } ◄── Driver (a task)
//!                                                     sends what was submitted,
//!                                                     receives, tells the time
//! ```
//!
//! | file | what |
//! |---|---|
//! | `builder`, `options` | from a URI to a client |
//! | `client`, `pending` | one command, from the caller's side |
//! | `extents`, `view`, `pool` | what is made of commands |
//! | `state`, `driver` | one connection, from the socket's side |
//! | `state/recovery`, `redial` | what happens when it is lost |
//! | `calls`, `buffer` | who waits for what, and whose memory it is |
//! | `runtime`, `shim`, `dial` | what is asked of a runtime, and how it is used |

mod buffer;
mod builder;
mod calls;
mod client;
mod dial;
mod driver;
mod end;
mod extents;
mod options;
mod pending;
mod pool;
mod redial;
mod runtime;
mod shim;
mod state;
mod view;

pub use builder::Builder;
pub use client::Client;
pub use driver::Driver;
pub use extents::{Extents, PlacedExtent};
pub use nbd_proto as proto;
pub use nbd_proto::CommandFailure;
pub use nbd_session as session;
pub use nbd_session::OldError as Error;
pub use nbd_session::replay::Reconnect;
pub use nbd_transport as transport;
pub use options::{GoError, Options};
pub use pool::Pool;
pub use runtime::{BlockingWork, IoCall, Runtime, Sleep, Socket, Watched};
pub use state::ConnectionState;
pub use view::ExportView;
