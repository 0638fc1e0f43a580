//! Certificates, with rustls.
//!
//! | file | what |
//! |---|---|
//! | `mod` | which cryptography |
//! | `load` | certificates, keys and revocation lists from PEM text |
//! | `client`, `server` | how TLS is set up on either side |
//! | `verify` | how far a server's certificate is checked |
//! | `stage` | the stage |
//! | `fault` | the library's errors in our words |

mod client;
mod fault;
mod load;
mod server;
mod stage;
mod verify;

pub(super) use client::connector;
pub(super) use server::acceptor;

use rustls::crypto::CryptoProvider;
use std::sync::Arc;

#[cfg(not(any(feature = "tls", feature = "ring")))]
compile_error!("choose the cryptography for feature `x509`: `tls` (AWS-LC) or `ring`");

/// The cryptography this was built with. AWS-LC, where both are there.
fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "tls")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "tls"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}
