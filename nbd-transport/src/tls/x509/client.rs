//! How TLS with certificates is set up for a client.

use super::super::client_config::{Connect, ServerCheck, TlsConfig, Trust};
use super::super::config_error::TlsConfigError;
use super::super::{TlsError, TlsRole, TlsStage};
use super::fault::session_error;
use super::load;
use super::provider;
use super::stage::Stage;
use super::verify::Verifier;
use rustls::ClientConfig;
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

#[derive(Debug)]
struct Connector {
    /// For servers that have a name.
    named: Arc<ClientConfig>,
    /// For servers that have none.
    nameless: Arc<ClientConfig>,
}

/// Reads and checks everything that `config` names.
pub(in super::super) fn connector(config: &TlsConfig) -> Result<Arc<dyn Connect>, TlsConfigError> {
    if let Some(name) = &config.server_name {
        parse(name).map_err(|_| TlsConfigError::ServerName(name.clone()))?;
    }
    let nameless = match config.check {
        ServerCheck::Full | ServerCheck::AnyName => ServerCheck::AnyName,
        ServerCheck::DangerouslyNothing => ServerCheck::DangerouslyNothing,
    };
    Ok(Arc::new(Connector {
        named: client_config(config, config.check)?,
        nameless: client_config(config, nameless)?,
    }))
}

fn client_config(
    config: &TlsConfig,
    check: ServerCheck,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let provider = provider();
    let authorities = match &config.trust {
        Trust::Given(source) => load::authorities(source)?,
        Trust::Directory(_) | Trust::Search | Trust::System => load::system_authorities()?,
    };
    let library = WebPkiServerVerifier::builder_with_provider(
        Arc::clone(&authorities),
        Arc::clone(&provider),
    )
    .with_crls(load::revocations(config.crl.as_ref())?)
    // A list speaks for its issuer only, and other issuers may have none.
    .allow_unknown_revocation_status()
    .build()
    .map_err(|_| load::unusable_revocations(config.crl.as_ref()))?;
    let verifier = Verifier {
        library,
        authorities,
        algorithms: provider.signature_verification_algorithms,
        check,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsConfigError::Library(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = match &config.identity {
        Some((certificate, key)) => {
            let identity = load::identity(certificate, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
        None => builder.with_no_client_auth(),
    };
    // A resumed session is one whose certificate is not looked at again, and sessions are told
    // apart by a name that not every server has.
    client.resumption = Resumption::disabled();
    Ok(Arc::new(client))
}

impl Connect for Connector {
    fn start(&self, server_name: Option<&str>) -> Result<Box<dyn TlsStage>, TlsError> {
        let (config, name) = match server_name {
            Some(name) => (&self.named, parse(name)?),
            // An address is never sent, and nothing is compared with it.
            None => (&self.nameless, ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
        };
        session(config, name)
    }
}

/// A configuration as it was given.
#[derive(Debug)]
struct Given(Arc<ClientConfig>);

/// Takes a configuration as it is.
pub(in super::super) fn given_connector(config: Arc<ClientConfig>) -> Arc<dyn Connect> {
    Arc::new(Given(config))
}

impl Connect for Given {
    fn start(&self, server_name: Option<&str>) -> Result<Box<dyn TlsStage>, TlsError> {
        let name = parse(server_name.ok_or(TlsError::NoServerName)?)?;
        session(&self.0, name)
    }
}

fn session(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Box<dyn TlsStage>, TlsError> {
    let connection = UnbufferedClientConnection::new(Arc::clone(config), name)
        .map_err(|error| session_error(error, TlsRole::Server))?;
    Ok(Box::new(Stage::new(connection)))
}

/// A host name or IP address. The zone of a link-local address is this machine's business only.
fn parse(name: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = match name.split_once('%') {
        Some((address, _)) if address.contains(':') => address,
        Some(_) | None => name,
    };
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}
