//! The library's errors in our words.

use super::super::error::describe_alert;
use super::super::{CertificateFault, TlsError, TlsRole};
use super::der;
use nbd_proto::escape;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved,
};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use webpki::EndEntityCert;

/// What an error of a session with `peer` means.
pub(super) fn session_error(error: Error, peer: TlsRole) -> TlsError {
    match error {
        Error::InvalidCertificate(error) => {
            TlsError::Certificate { peer, fault: certificate_fault(error) }
        }
        Error::NoCertificatesPresented => {
            TlsError::Certificate { peer, fault: CertificateFault::Missing }
        }
        Error::AlertReceived(alert) => {
            TlsError::Alert { peer, reason: describe_alert(alert.into(), "our certificate") }
        }
        Error::PeerIncompatible(reason) => {
            TlsError::Incompatible { peer, reason: incompatible(&reason) }
        }
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
            TlsError::Misbehaved { peer, reason: String::from("a message that is too long") }
        }
        Error::InvalidMessage(InvalidMessage::MessageTooLarge) | Error::PeerSentOversizedRecord => {
            TlsError::Misbehaved { peer, reason: String::from("a record that is too long") }
        }
        Error::InvalidMessage(fault) => {
            let reason = format!("{} (is this TLS at all?)", in_words(&fault));
            TlsError::Misbehaved { peer, reason }
        }
        Error::DecryptError => {
            TlsError::Misbehaved { peer, reason: String::from("a record is forged or damaged") }
        }
        Error::PeerMisbehaved(fault) => TlsError::Misbehaved { peer, reason: misbehaved(fault) },
        Error::InappropriateMessage { got_type, .. } => {
            TlsError::Misbehaved { peer, reason: format!("{got_type:?} out of turn") }
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            TlsError::Misbehaved { peer, reason: format!("{got_type:?} out of turn") }
        }
        other => TlsError::Library(other.to_string()),
    }
}

fn misbehaved(fault: PeerMisbehaved) -> String {
    match fault {
        PeerMisbehaved::TooManyEmptyFragments => String::from("too many empty records"),
        PeerMisbehaved::TooManyKeyUpdateRequests => String::from("too many key updates"),
        PeerMisbehaved::TooManyRenegotiationRequests => String::from("it insists on renegotiation"),
        PeerMisbehaved::TooManyWarningAlertsReceived => String::from("too many warnings"),
        other => in_words(&other),
    }
}

fn incompatible(reason: &PeerIncompatible) -> String {
    match reason {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => {
            String::from("it offers neither TLS 1.2 nor TLS 1.3")
        }
        PeerIncompatible::NoCipherSuitesInCommon => {
            String::from("there is no cipher suite in common")
        }
        other => in_words(other),
    }
}

/// What is wrong with a certificate of a peer's or of our own.
pub(super) fn certificate_fault(error: CertificateError) -> CertificateFault {
    match error {
        CertificateError::UnknownIssuer => CertificateFault::UnknownIssuer,
        CertificateError::BadSignature => CertificateFault::BadSignature,
        CertificateError::NotValidForNameContext { expected, presented } => {
            wrong_name(&expected, &presented)
        }
        CertificateError::ExpiredContext { time, not_after } => {
            CertificateFault::Expired { seconds: between(not_after, time) }
        }
        CertificateError::Expired => CertificateFault::Expired { seconds: None },
        CertificateError::NotValidYetContext { time, not_before } => {
            CertificateFault::NotYetValid { seconds: between(time, not_before) }
        }
        CertificateError::NotValidYet => CertificateFault::NotYetValid { seconds: None },
        CertificateError::Revoked => CertificateFault::Revoked,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            CertificateFault::WrongPurpose
        }
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: id,
            ..
        } => {
            let algorithm = der::signature_algorithm(&id);
            let algorithm = algorithm.unwrap_or_else(|| String::from("an unknown algorithm"));
            CertificateFault::WeakSignature { algorithm }
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            let reason = "the key of its authority is of a kind that is not accepted";
            CertificateFault::Other(String::from(reason))
        }
        CertificateError::UnhandledCriticalExtension => CertificateFault::UnknownExtension,
        CertificateError::BadEncoding => CertificateFault::Damaged,
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            let reason = "the revocation list of its authority is out of date; get a new one";
            CertificateFault::Other(String::from(reason))
        }
        CertificateError::Other(OtherError(inner)) => {
            if let Some(fault) = inner.downcast_ref::<SignatureFault>() {
                fault.0.clone()
            } else if let Some(fault) = inner.downcast_ref::<webpki::Error>() {
                rare(fault)
            } else {
                CertificateFault::Other(escape(inner.to_string().as_bytes()))
            }
        }
        other => CertificateFault::Other(in_words(&other)),
    }
}

/// What the library has no words for.
fn rare(fault: &webpki::Error) -> CertificateFault {
    let reason = match fault {
        webpki::Error::CaUsedAsEndEntity => return CertificateFault::IsAuthority,
        webpki::Error::UnsupportedCertVersion => return CertificateFault::OldVersion,
        webpki::Error::UnsupportedCriticalExtension => return CertificateFault::UnknownExtension,
        webpki::Error::BadDer | webpki::Error::BadDerTime => return CertificateFault::Damaged,
        webpki::Error::EndEntityUsedAsCa => "it is signed with a certificate that is no CA's",
        webpki::Error::NameConstraintViolation => "its authority may not sign for its names",
        webpki::Error::PathLenConstraintViolated
        | webpki::Error::MaximumPathDepthExceeded
        | webpki::Error::MaximumPathBuildCallsExceeded
        | webpki::Error::MaximumSignatureChecksExceeded => {
            "there are too many certificates between it and the authority"
        }
        webpki::Error::InvalidCertValidity => "it ends before it begins",
        other => return CertificateFault::Other(in_words(other)),
    };
    CertificateFault::Other(String::from(reason))
}

/// Why a peer could not prove that it has its certificate's key.
#[derive(Debug)]
struct SignatureFault(CertificateFault);

impl fmt::Display for SignatureFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SignatureFault {}

/// What it means that a handshake is not signed as it should be: the library says the same of a
/// key that it does not accept as of a signature that is forged.
pub(super) fn signature_error(error: Error, certificate: &CertificateDer<'_>) -> Error {
    let Error::InvalidCertificate(_) = error else { return error };
    let key = EndEntityCert::try_from(certificate)
        .ok()
        .and_then(|parsed| der::public_key(&parsed.subject_public_key_info()));
    let fault = match key {
        Some(key) if !key.is_accepted() => CertificateFault::WeakKey { key: key.to_string() },
        Some(_) | None => CertificateFault::NotItsKey,
    };
    CertificateError::Other(OtherError(Arc::new(SignatureFault(fault)))).into()
}

/// A fault's name of several words, in small letters: `BadCertChainExtensions` and the like,
/// which hardly anybody ever meets.
fn in_words(fault: &impl fmt::Debug) -> String {
    let name = format!("{fault:?}");
    let mut words = String::new();
    for letter in name.chars().take_while(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

fn wrong_name(expected: &ServerName<'_>, presented: &[String]) -> CertificateFault {
    let expected = expected.to_str().into_owned();
    let is_address = expected.parse::<IpAddr>().is_ok();
    if is_address && presented.contains(&format!("DnsName({expected:?})")) {
        return CertificateFault::AddressAsName { address: expected };
    }
    let offered = presented.iter().filter_map(|text| offered(text)).collect();
    CertificateFault::WrongName { expected, offered }
}

fn between(from: UnixTime, to: UnixTime) -> Option<u64> {
    to.as_secs().checked_sub(from.as_secs())
}

/// `DnsName("a.example")` is `a.example`, and `IpAddress(0::1)` is `::1`. Others are no hosts.
fn offered(text: &str) -> Option<String> {
    let (kind, rest) = text.split_once('(')?;
    let bare = rest.strip_suffix(')')?.trim_matches('"');
    match kind {
        "DnsName" => Some(escape(bare.as_bytes())),
        "IpAddress" => match bare.parse::<IpAddr>() {
            Ok(address) => Some(address.to_string()),
            Err(_) => Some(escape(bare.as_bytes())),
        },
        _ => None,
    }
}
