//! Bytes from a fuzzer, turned into sessions.
//!
//! Each target takes any bytes at all and panics only when an invariant is broken.
//! It lives here, where every build compiles it; what the fuzzer itself needs is a
//! few lines for each target. The head of an input is the set-up, its rest is what
//! the peer sends; the fuzzer also chooses where those bytes are cut.
//!
//! | target | the bytes are | must hold |
//! |---|---|---|
//! | [`client_bytes`] | replies to commands in flight | every delivery ends alike; each command completes once; nothing outside its buffer is touched |
//! | [`server_bytes`] | requests | every delivery gets the same answers |
//! | [`negotiate_client`] | a server's half of a negotiation | every delivery agrees on the same |
//! | [`negotiate_server`] | a client's half of it | likewise |
//! | [`wire_roundtrip`] | one message | what is accepted is written back as it was |
//! | [`pair_ops`] | calls to a client and a server that talk to each other | data is right, everything completes, both end in good order |
//! | [`session_ops`] | calls to a session, its server's answers, other bytes and times | each command is told once and in time, data is right, it comes to rest and to its end |
//! | `uri` | a URI, with feature `fuzz-uri` | what is accepted parses back from its text |
//! | `tls_stage` | cuts, changes and calls to two stages of TLS, with feature `fuzz-tls` | what comes out is what went in, or nothing; buffers are bounded |

mod client;
mod input;
mod memory;
mod negotiation;
mod pair_ops;
pub mod seeds;
mod server;
mod session;
mod session_ops;
#[cfg(feature = "fuzz-tls")]
mod tls;
#[cfg(feature = "fuzz-uri")]
mod uri;
mod wire;

pub use client::client_bytes;
pub use negotiation::{negotiate_client, negotiate_server};
pub use pair_ops::pair_ops;
pub use server::server_bytes;
pub use session_ops::session_ops;
#[cfg(feature = "fuzz-tls")]
pub use tls::tls_stage;
#[cfg(feature = "fuzz-uri")]
pub use uri::uri;
pub use wire::wire_roundtrip;

use crate::delivery::Delivery;

/// A target: any bytes in, a panic when an invariant is broken.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("client_bytes", client_bytes),
    ("server_bytes", server_bytes),
    ("negotiate_client", negotiate_client),
    ("negotiate_server", negotiate_server),
    ("wire_roundtrip", wire_roundtrip),
    ("pair_ops", pair_ops),
    ("session_ops", session_ops),
    #[cfg(feature = "fuzz-tls")]
    ("tls_stage", tls_stage),
    #[cfg(feature = "fuzz-uri")]
    ("uri", uri),
];

/// The deliveries that are compared with [`Delivery::Whole`].
const OTHERS: [Delivery; 4] =
    [Delivery::Bytes, Delivery::Offered, Delivery::OfferedPieces(13), Delivery::OneBuffer(7)];
