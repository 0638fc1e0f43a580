//! One client, from its first byte to its last, without waiting.
//!
//! ```text
//!   runner: a thread or a task ── waits for the stream, the waker, the time
//!      │ drive(stream, now)
//!   Handshake ── established ──► Session ◄── Mailbox ◄── Execute: a pool
//!                                   │ Job
//!                                dyn Export
//! ```
//!
//! | file | what |
//! |---|---|
//! | `handshake` | from the greeting to the choice of an export |
//! | `describe` | what clients are told of an export |
//! | `session` | the data phase: what is read, carried out, answered and sent when |
//! | `job` | one request: what it does to the export |
//! | `placement` | whether that is done on the spot |
//! | `mailbox` | where the others come back |
//! | `buffers` | memory for payload, of one connection |
//! | `budget` | memory for payload, of the whole server |
//! | `linger` | clients that have been told that it is over, and may not have noticed |
//! | `fault` | why a connection ended before its time |

pub(crate) mod budget;
mod buffers;
pub(crate) mod describe;
mod fault;
pub(crate) mod handshake;
pub(crate) mod job;
pub(crate) mod linger;
pub(crate) mod mailbox;
pub(crate) mod placement;
pub(crate) mod session;

pub use fault::ConnectionError;
