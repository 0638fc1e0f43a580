//! Certificates, with rustls.
//!
//! | file | what |
//! |---|---|
//! | `mod` | which cryptography |
//! | `load` | certificates, keys and revocation lists |
//! | `der` | what kind of key there is |
//! | `client`, `server` | how TLS is set up on either side |
//! | `verify` | how far a server's certificate is checked |
//! | `stage` | the stage |
//! | `fault` | the library's errors in our words |

mod client;
mod der;
mod fault;
mod load;
mod server;
mod stage;
mod verify;

pub(super) use client::{connector, given_connector};
pub(super) use server::{acceptor, given_acceptor};

use super::cpu::has_aes;
use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use std::sync::Arc;

#[cfg(not(any(feature = "tls", feature = "ring")))]
compile_error!("choose the cryptography for feature `x509`: `tls` (AWS-LC) or `ring`");

/// The cryptography this was built with, AWS-LC where both are there, with the fastest cipher
/// first. The library itself starts with the longest key, whatever that costs either side.
fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "tls")]
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "tls"))]
    let mut provider = rustls::crypto::ring::default_provider();
    let aes = has_aes();
    provider.cipher_suites.sort_by_key(|suite| cost(suite.suite(), aes));
    Arc::new(provider)
}

fn cost(suite: CipherSuite, aes: bool) -> u8 {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 1,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
            if aes {
                3
            } else {
                0
            }
        }
        _ => 2,
    }
}
