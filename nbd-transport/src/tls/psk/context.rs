//! How TLS is set up for pre-shared keys, on either side.

use super::super::client_config::Connect;
use super::super::config_error::TlsConfigError;
use super::super::cpu::has_aes;
use super::super::server_config::Accept;
use super::super::{TlsError, TlsRole, TlsStage};
use super::session::{Identity, Stage};
use super::{Keys, UserKey};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use std::fmt;
use std::sync::Arc;

/// For TLS 1.3, best first. A key is bound to a hash function, and every implementation takes
/// SHA-256, so nothing else can work. Peers follow our order; what is best depends on the
/// processor, by a factor of ten.
const SUITES_13: [&str; 2] = [
    "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256",
];

/// For TLS 1.2, best first: those with forward secrecy and authenticated encryption.
const SUITES_12: [&str; 2] = [
    "DHE-PSK-AES128-GCM-SHA256:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-CHACHA20-POLY1305:\
     DHE-PSK-AES256-GCM-SHA384",
    "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256:\
     DHE-PSK-AES256-GCM-SHA384",
];

fn builder(method: SslMethod) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContext::builder(method)?;
    let order = usize::from(!has_aes());
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_ciphersuites(SUITES_13.get(order).copied().unwrap_or_default())?;
    builder.set_cipher_list(SUITES_12.get(order).copied().unwrap_or_default())?;
    // Every connection proves anew that both know the key, and that proof is told from a resumed
    // session by there being none.
    builder.set_options(
        SslOptions::NO_TICKET | SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    // No authority is ever trusted: a peer that shows a certificate in place of the key is refused.
    builder.set_verify(SslVerifyMode::PEER);
    Ok(builder)
}

struct Connector {
    context: SslContext,
    username: String,
}

/// Sets TLS up for a client with this key.
pub(in super::super) fn connector(user: UserKey) -> Result<Arc<dyn Connect>, TlsConfigError> {
    let username = user.name.clone();
    let context = client_context(user).map_err(library)?;
    Ok(Arc::new(Connector { context, username }))
}

fn client_context(user: UserKey) -> Result<SslContext, ErrorStack> {
    let mut builder = builder(SslMethod::tls_client())?;
    let name = [user.name.as_bytes(), &[0]].concat();
    let key = user.key;
    builder.set_psk_client_callback(move |_, _, identity, room| {
        Ok(match put(&name, identity) {
            Some(_) => put(&key, room).unwrap_or(0),
            None => 0,
        })
    });
    Ok(builder.build())
}

/// Copies all of it, if there is room. Returns its length.
fn put(bytes: &[u8], room: &mut [u8]) -> Option<usize> {
    room.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Connect for Connector {
    /// By the key the server proves who it is; its name does not matter.
    fn start(&self, _server_name: Option<&str>) -> Result<Box<dyn TlsStage>, TlsError> {
        let ssl = Ssl::new(&self.context).map_err(failed)?;
        let identity = Identity::Ours(self.username.clone());
        Ok(Box::new(Stage::new(ssl, TlsRole::Server, identity).map_err(failed)?))
    }
}

struct Acceptor {
    context: SslContext,
    claimed: Index<Ssl, String>,
}

/// Sets TLS up for a server with these users.
pub(in super::super) fn acceptor(keys: Keys) -> Result<Arc<dyn Accept>, TlsConfigError> {
    let claimed = Ssl::new_ex_index().map_err(library)?;
    let context = server_context(keys, claimed).map_err(library)?;
    Ok(Arc::new(Acceptor { context, claimed }))
}

fn server_context(keys: Keys, claimed: Index<Ssl, String>) -> Result<SslContext, ErrorStack> {
    let mut builder = builder(SslMethod::tls_server())?;
    // Clients list their ciphers by other merits than speed on this processor.
    builder.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    // To the library a key is a session, and sessions need a name for what they are valid for.
    builder.set_session_id_context(b"nbd")?;
    builder.set_psk_server_callback(move |ssl: &mut SslRef, identity, room| {
        let known = identity
            .and_then(|name| str::from_utf8(name).ok())
            .and_then(|name| keys.get_key_value(name));
        Ok(match known {
            Some((name, key)) => {
                ssl.set_ex_data(claimed, name.clone());
                put(key, room).unwrap_or(0)
            }
            // No key: the session goes on without one and finds nothing else to go by.
            None => 0,
        })
    });
    Ok(builder.build())
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Accept for Acceptor {
    fn start(&self) -> Result<Box<dyn TlsStage>, TlsError> {
        let ssl = Ssl::new(&self.context).map_err(failed)?;
        Ok(Box::new(
            Stage::new(ssl, TlsRole::Client, Identity::Theirs(self.claimed)).map_err(failed)?,
        ))
    }
}

fn failed(error: ErrorStack) -> TlsError {
    TlsError::Library(error.to_string())
}

fn library(error: ErrorStack) -> TlsConfigError {
    TlsConfigError::Library(error.to_string())
}
