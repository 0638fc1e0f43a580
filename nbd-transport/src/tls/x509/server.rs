//! How TLS with certificates is set up for a server.

use super::super::config_error::TlsConfigError;
use super::super::server_config::{Accept, ServerFiles};
use super::super::{TlsError, TlsRole, TlsStage};
use super::fault::session_error;
use super::load;
use super::provider;
use super::stage::Stage;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use std::sync::Arc;

#[derive(Debug)]
struct Acceptor {
    config: Arc<ServerConfig>,
}

/// Reads and checks everything that `files` names.
pub(in super::super) fn acceptor(files: &ServerFiles) -> Result<Arc<dyn Accept>, TlsConfigError> {
    let provider = provider();
    let (certificate, key) = &files.identity;
    let identity = load::identity(certificate, key, &provider)?;
    let verifier: Arc<dyn ClientCertVerifier> = match &files.authorities {
        Some(source) => {
            let authorities = load::authorities(source)?;
            WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&provider))
                .with_crls(load::revocations(files.crl.as_ref())?)
                .allow_unknown_revocation_status()
                .build()
                .map_err(|_| load::unusable_revocations(files.crl.as_ref()))?
        }
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsConfigError::Library(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    // Clients list their ciphers by other merits than speed on this processor.
    config.ignore_client_order = true;
    // Every connection proves anew who it is.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(Acceptor { config: Arc::new(config) }))
}

/// Takes a configuration as it is.
pub(in super::super) fn given_acceptor(config: Arc<ServerConfig>) -> Arc<dyn Accept> {
    Arc::new(Acceptor { config })
}

impl Accept for Acceptor {
    fn start(&self) -> Result<Box<dyn TlsStage>, TlsError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.config))
            .map_err(|error| session_error(error, TlsRole::Client))?;
        Ok(Box::new(Stage::new(connection)))
    }
}
