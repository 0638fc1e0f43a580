//! A client in the shape of libnbd's handle: what lies between a C interface and
//! [`nbd_session`].
//!
//! A [`Handle`] is configured, connected once, driven by whoever calls it, and closed. It starts
//! no thread and waits only in calls whose purpose is to wait. Buffers and callbacks are the
//! caller's; a buffer is anything that gives bytes, so memory of another language works too.
//!
//! | file | what |
//! |---|---|
//! | `handle` | the handle: what happens to it, and what follows from that |
//! | `settings` | what is set before, and what is asked for then |
//! | `setters` | which settings are accepted |
//! | `state` | what it is doing, also for those who do not hold its lock |
//! | `level` | which release's behaviour is played |
//! | `engine` | a session and its stream, without waiting |
//! | `connect` | to whom |
//! | `options` | option mode |
//! | `request` | a command and its callbacks |
//! | `commands` | commands under way, and where their payload is |
//! | `complete` | what becomes of a command that is finished |
//! | `poll` | waiting, in the caller's thread |
//! | `info` | questions about the export and the connection |
//! | `uri` | the URI of a connection |
//! | `debug` | what is told about it, and to whom |
//! | `fail` | errors, with the number a user of libnbd expects |

mod commands;
mod complete;
mod connect;
mod debug;
mod engine;
mod fail;
mod handle;
mod info;
mod level;
mod options;
mod poll;
mod request;
mod setters;
mod settings;
mod state;
mod uri;

pub use connect::Destination;
pub use debug::DebugCallback;
pub use fail::Fail;
pub use handle::{Handle, Memory};
pub use info::Ability;
pub use level::Level;
pub use nbd_proto::TlsPolicy;
pub use options::{ContextCallback, ListCallback, OptionCall};
pub use poll::Woken;
pub use request::{
    Chunk, ChunkCallback, CompletionCallback, Extent, ExtentCallback, Request, Shutdown,
};
pub use rustix::io::Errno;
pub use state::{Published, State};
pub use uri::is_uri;
