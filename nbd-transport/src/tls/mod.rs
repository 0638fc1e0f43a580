//! TLS: certificates by rustls, pre-shared keys by OpenSSL, nothing in clear that should not be.
//!
//! ```text
//!   TlsConfig ─ reads all files ─► TlsConnector ─┐ start
//!                                                ├────────► TlsStage
//!   TlsServerConfig ─ likewise ──► TlsAcceptor ──┘          without IO
//! ```
//!
//! A [`TlsStage`] stands between a machine and its transport and does no IO of its own.
//! Whoever speaks the protocol
//! drives it.
//!
//! Whether TLS is used at all is for [`nbd_proto::TlsPolicy`] to say. Once the server has agreed to
//! it, there is no way back: every failure from there on ends the connection.

// | file | what |
// |---|---|
// | `stage` | the interface of a session |
// | `wire` | ciphertext in and out |
// | `gather` | many small pieces, few records |
// | `client_config`, `server_config` | who one is and who one trusts |
// | `search` | where a client looks for that |
// | `cpu` | which cipher is fast here |
// | `credentials` | in files or in memory |
// | `info`, `error`, `config_error` | what was agreed on, and what can go wrong |
// | `x509` | sessions with certificates, feature `tls` or `ring` |
// | `psk` | sessions with pre-shared keys, feature `psk` |

/// What to do about a key that is not accepted.
const ACCEPTED_KEYS: &str =
    "take RSA with 2048 to 8192 bits, one of the curves P-256 and P-384, or Ed25519";

mod client_config;
mod config_error;
#[cfg(any(feature = "x509", feature = "psk"))]
mod cpu;
mod credentials;
mod error;
#[cfg(any(feature = "x509", feature = "psk"))]
mod gather;
mod info;
mod psk;
mod search;
mod server_config;
pub mod stage;
mod wire;
#[cfg(feature = "x509")]
mod x509;

pub use client_config::{ServerCheck, TlsConfig, TlsConnector};
pub use config_error::{CredentialsFault, Origin, PskFault, TlsConfigError};
pub use credentials::Credentials;
pub use error::{CertificateFault, TlsError};
pub use info::{TlsInfo, TlsPeer, TlsRole, TlsVersion};
pub use server_config::{TlsAcceptor, TlsServerConfig};
use stage::TlsStage;
#[cfg(any(feature = "x509", feature = "psk"))]
use stage::{StageError, Wire};

/// What does TLS with certificates, for its own configuration: see
/// [`TlsConnector::from_rustls`].
#[cfg(feature = "x509")]
pub use ::rustls;
