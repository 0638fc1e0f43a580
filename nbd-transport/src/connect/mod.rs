//! Connecting.
//!
//! ```text
//!   Endpoint ──► Dial ──► Connection        every rule of connecting, and no waiting
//!                 │ steps: resolve, spawn, wait
//!                 ▼
//!        Endpoint::connect (`wait`), or an event loop of the caller's
//! ```

mod deadline;
mod dial;
mod error;
mod greeting;
mod lookup;
mod program;
mod race;
mod target;
mod wait;

pub(crate) use deadline::Deadline;
pub use dial::{Dial, DialFd, DialStep};
pub use error::{Attempt, ConnectError, Step};
pub use race::AddressOrder;
pub(crate) use wait::connect;
