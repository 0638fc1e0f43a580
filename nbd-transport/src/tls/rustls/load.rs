//! Certificates, keys and revocation lists from PEM text.

use super::super::config_error::{Origin, PemFault, TlsConfigError};
use super::super::pem::Pem;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// The trusted authorities.
pub(super) fn authorities(source: &Pem) -> Result<Arc<RootCertStore>, TlsConfigError> {
    let (certificates, origin) = certificates("the CA certificate", source)?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate).map_err(|error| invalid(&origin, error))?;
    }
    Ok(Arc::new(store))
}

/// The authorities that the system trusts.
pub(super) fn system_authorities() -> Result<Arc<RootCertStore>, TlsConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // A store of hundreds of certificates may well have some of a kind that is not understood.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let reason = match found.errors.first() {
            Some(error) => error.to_string(),
            None => String::from("none were found"),
        };
        return Err(TlsConfigError::NoSystemStore(reason));
    }
    Ok(Arc::new(store))
}

/// A certificate and its key, checked to belong together.
pub(super) fn identity(
    certificate: &Pem,
    key: &Pem,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsConfigError> {
    let (chain, certificate_origin) = certificates("the certificate", certificate)?;
    let (key, key_origin) = private_key(key)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsConfigError::Mismatch { certificate: certificate_origin, key: key_origin }
        }
        rustls::Error::InvalidCertificate(_) => invalid(&certificate_origin, error),
        _ => invalid(&key_origin, error),
    })
}

/// Revocation lists.
pub(super) fn revocations(
    source: Option<&Pem>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
    let Some(source) = source else {
        return Ok(Vec::new());
    };
    let (text, origin) = source.load("the certificate revocation list")?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    some(lists, "certificate revocation list", &origin)
}

type Chain = Vec<CertificateDer<'static>>;

fn certificates(what: &'static str, source: &Pem) -> Result<(Chain, Origin), TlsConfigError> {
    let (text, origin) = source.load(what)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    Ok((some(found, "certificate", &origin)?, origin))
}

fn private_key(source: &Pem) -> Result<(PrivateKeyDer<'static>, Origin), TlsConfigError> {
    let (text, origin) = source.load("the private key")?;
    let contains = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    // The two ways to mark it: PKCS #8, and the older header of single formats.
    if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
        let fault = PemFault::EncryptedKey;
        return Err(TlsConfigError::Pem { origin, fault });
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok((key, origin)),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            let fault = PemFault::Without("private key");
            Err(TlsConfigError::Pem { origin, fault })
        }
        Err(error) => Err(invalid(&origin, error)),
    }
}

fn some<T, E: std::fmt::Display>(
    found: Result<Vec<T>, E>,
    what: &'static str,
    origin: &Origin,
) -> Result<Vec<T>, TlsConfigError> {
    match found {
        Ok(items) if items.is_empty() => {
            Err(TlsConfigError::Pem { origin: origin.clone(), fault: PemFault::Without(what) })
        }
        Ok(items) => Ok(items),
        Err(error) => Err(invalid(origin, error)),
    }
}

pub(super) fn invalid(origin: &Origin, error: impl std::fmt::Display) -> TlsConfigError {
    TlsConfigError::Pem { origin: origin.clone(), fault: PemFault::Invalid(error.to_string()) }
}
