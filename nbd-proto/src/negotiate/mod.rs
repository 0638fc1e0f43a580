//! Haggling over options, before any data moves.
//!
//! | file | what |
//! |---|---|
//! | `facts` | what both ends agreed on |
//! | `client` | the client's side: greeting, options, automatic order |
//! | `server` | the server's side |
//! | `session` | what both sides do alike |

mod abilities;
pub(crate) mod client;
pub(crate) mod facts;
pub(crate) mod server;
mod session;

/// Size of the buffer of a negotiation. The longest reply that is parsed in one
/// piece has two strings of 4096 bytes.
pub(crate) const SCRATCH: usize = 16 << 10;

/// The longest body that is collected; anything longer is skipped or an error.
pub(crate) const MAX_BODY: u32 = 4 + 2 * crate::wire::MAX_STRING as u32;

/// Most meta contexts of one connection.
pub(crate) const MAX_CONTEXTS: usize = 256;
