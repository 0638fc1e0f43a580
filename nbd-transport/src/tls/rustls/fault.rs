//! The library's errors in our words.

use super::super::error::describe_alert;
use super::super::{CertificateFault, TlsError, TlsRole};
use nbd_proto::escape;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};
use std::net::IpAddr;

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
        Error::InvalidMessage(_) => {
            TlsError::Misbehaved { peer, reason: format!("{error} (is this TLS at all?)") }
        }
        Error::DecryptError => {
            TlsError::Misbehaved { peer, reason: String::from("a record is forged or damaged") }
        }
        Error::PeerMisbehaved(fault) => TlsError::Misbehaved { peer, reason: misbehaved(fault) },
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            TlsError::Misbehaved { peer, reason: error.to_string() }
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
        other => format!("{other:?}"),
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
        other => format!("{other:?}"),
    }
}

fn certificate_fault(error: CertificateError) -> CertificateFault {
    match error {
        CertificateError::UnknownIssuer => CertificateFault::UnknownIssuer,
        CertificateError::BadSignature => CertificateFault::BadSignature,
        CertificateError::NotValidForNameContext { expected, presented } => {
            CertificateFault::WrongName {
                expected: name(&expected),
                offered: presented.iter().map(|text| offered(text)).collect(),
            }
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
        other => {
            let text = other.to_string();
            // The library wraps this one without a type of its own.
            if text.contains("CaUsedAsEndEntity") {
                CertificateFault::IsAuthority
            } else {
                CertificateFault::Other(escape(text.as_bytes()))
            }
        }
    }
}

fn between(from: UnixTime, to: UnixTime) -> Option<u64> {
    to.as_secs().checked_sub(from.as_secs())
}

fn name(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}

/// `DnsName("a.example")` is `a.example`, and `IpAddress(0::1)` is `::1`.
fn offered(text: &str) -> String {
    let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    let bare = inner.unwrap_or(text).trim_matches('"');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => escape(bare.as_bytes()),
    }
}
