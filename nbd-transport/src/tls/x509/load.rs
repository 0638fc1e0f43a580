//! Certificates, keys and revocation lists.

use super::super::config_error::{CredentialsFault, Origin, TlsConfigError};
use super::super::credentials::{Credentials, read};
use super::der;
use super::fault::certificate_fault;
use nbd_proto::escape;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use std::sync::Arc;

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";
const CRL: &str = "certificate revocation list";

/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The trusted authorities.
pub(super) fn authorities(source: &Credentials) -> Result<Arc<RootCertStore>, TlsConfigError> {
    let (certificates, origin) = certificates("the CA certificate", source)?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate).map_err(|error| unusable(&origin, CERTIFICATE, error))?;
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
    certificate: &Credentials,
    key: &Credentials,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsConfigError> {
    let (chain, certificate_origin) = certificates("the certificate", certificate)?;
    let (key, key_origin) = private_key(key)?;
    let kind = der::private_key(key.secret_der());
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            TlsConfigError::Mismatch { certificate: certificate_origin, key: key_origin }
        }
        Error::InvalidCertificate(_) => unusable(&certificate_origin, CERTIFICATE, error),
        // All that the library says of a key is that it cannot use it.
        _ => wrong(
            &key_origin,
            match kind {
                Some(kind) if !kind.is_accepted() => {
                    CredentialsFault::WeakKey { kind: kind.to_string() }
                }
                Some(_) | None => CredentialsFault::Damaged(KEY),
            },
        ),
    })
}

/// Revocation lists.
pub(super) fn revocations(
    source: Option<&Credentials>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
    match source {
        Some(source) => Ok(all("the certificate revocation list", CRL, source)?.0),
        None => Ok(Vec::new()),
    }
}

/// What is wrong with revocation lists as a whole.
pub(super) fn unusable_revocations(source: Option<&Credentials>) -> TlsConfigError {
    let origin = match source {
        Some(Credentials::File(path)) => Origin::File(path.clone()),
        Some(Credentials::Pem(_) | Credentials::Der(_)) | None => {
            Origin::Memory("the certificate revocation list")
        }
    };
    wrong(&origin, CredentialsFault::Damaged(CRL))
}

type Chain = Vec<CertificateDer<'static>>;

fn certificates(
    what: &'static str,
    source: &Credentials,
) -> Result<(Chain, Origin), TlsConfigError> {
    all(what, CERTIFICATE, source)
}

/// All items of a kind, of which there has to be one. `what` is the whole, `kind` the item.
fn all<T: PemObject + From<Vec<u8>>>(
    what: &'static str,
    kind: &'static str,
    source: &Credentials,
) -> Result<(Vec<T>, Origin), TlsConfigError> {
    let (text, origin) = match load(what, source)? {
        (Form::Pem(text), origin) => (text, origin),
        (Form::Der(items), origin) => {
            return Ok((items.into_iter().map(T::from).collect(), origin));
        }
    };
    let found: Result<Vec<T>, _> = T::pem_slice_iter(&text).collect();
    match found {
        Ok(items) if items.is_empty() => Err(wrong(&origin, missing(&text, kind))),
        Ok(items) => Ok((items, origin)),
        Err(error) => Err(wrong(&origin, pem_fault(error, &text, kind))),
    }
}

fn private_key(source: &Credentials) -> Result<(PrivateKeyDer<'static>, Origin), TlsConfigError> {
    let (text, origin) = match load("the private key", source)? {
        (Form::Pem(text), origin) => (text, origin),
        (Form::Der(items), origin) => {
            let [item] = <[Vec<u8>; 1]>::try_from(items)
                .map_err(|items| wrong(&origin, CredentialsFault::ManyKeys(items.len())))?;
            let key = PrivateKeyDer::try_from(item);
            return match key {
                Ok(key) => Ok((key, origin)),
                Err(_) => Err(wrong(&origin, CredentialsFault::Damaged(KEY))),
            };
        }
    };
    let contains = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    // The two ways to mark it: PKCS #8, and the older header of single formats.
    if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
        return Err(wrong(&origin, CredentialsFault::EncryptedKey));
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok((key, origin)),
        Err(error) => Err(wrong(&origin, pem_fault(error, &text, KEY))),
    }
}

enum Form {
    Pem(Vec<u8>),
    Der(Vec<Vec<u8>>),
}

/// What there is, which is something, and where it comes from.
fn load(what: &'static str, source: &Credentials) -> Result<(Form, Origin), TlsConfigError> {
    let (mut text, origin) = match source {
        Credentials::File(path) => (read(what, path)?, Origin::File(path.clone())),
        Credentials::Pem(text) => (text.clone(), Origin::Memory(what)),
        Credentials::Der(items) if items.is_empty() => {
            return Err(wrong(&Origin::Memory(what), CredentialsFault::Empty));
        }
        Credentials::Der(items) => return Ok((Form::Der(items.clone()), Origin::Memory(what))),
    };
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    if text.trim_ascii().is_empty() {
        return Err(wrong(&origin, CredentialsFault::Empty));
    }
    Ok((Form::Pem(text), origin))
}

fn pem_fault(error: pem::Error, text: &[u8], kind: &'static str) -> CredentialsFault {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            CredentialsFault::CutOff(escape(&end_marker))
        }
        pem::Error::Base64Decode(_) => CredentialsFault::NotBase64,
        pem::Error::NoItemsFound => missing(text, kind),
        other => CredentialsFault::Invalid(other.to_string()),
    }
}

/// What there is in place of what is wanted.
fn missing(text: &[u8], wanted: &'static str) -> CredentialsFault {
    let begin = b"-----BEGIN ";
    let labels: Vec<String> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(begin)?.trim_ascii_end().strip_suffix(b"-----"))
        .map(escape)
        .collect();
    if !labels.is_empty() {
        return CredentialsFault::Other { wanted, found: labels.join(", ") };
    }
    if text.contains(&0) || str::from_utf8(text).is_err() {
        return CredentialsFault::Binary(wanted);
    }
    CredentialsFault::Without(wanted)
}

fn unusable(origin: &Origin, kind: &'static str, error: Error) -> TlsConfigError {
    let fault = match error {
        Error::InvalidCertificate(error) => CredentialsFault::Certificate(certificate_fault(error)),
        _ => CredentialsFault::Damaged(kind),
    };
    wrong(origin, fault)
}

fn wrong(origin: &Origin, fault: CredentialsFault) -> TlsConfigError {
    TlsConfigError::Credentials { origin: origin.clone(), fault }
}
