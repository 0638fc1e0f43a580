//! What was agreed on for TLS, and who the server is.

use std::fmt::Write;

use nbd_client_blocking::proto::escape;
use nbd_client_blocking::transport::tls::{TlsInfo, TlsPeer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Two lines for people.
pub(super) fn text(out: &mut String, info: &TlsInfo) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "tls: {} with {}", info.version, info.cipher_suite);
    let _ = match &info.peer {
        TlsPeer::Certificate { der, names } => {
            let names = if names.is_empty() { String::new() } else { names.join(", ") + ", " };
            writeln!(out, "server: {}SHA-256 {}", escape(names.as_bytes()), fingerprint(der))
        }
        TlsPeer::PresharedKey { username } => {
            writeln!(out, "server: knows the key of {}", escape(username.as_bytes()))
        }
        _ => Ok(()),
    };
}

/// The same for programs. nbdinfo has only the first of these keys.
pub(super) fn json(map: &mut Map<String, Value>, info: Option<&TlsInfo>) {
    map.insert("TLS".to_owned(), json!(info.is_some()));
    let Some(info) = info else {
        return;
    };
    map.insert("TLS-version".to_owned(), json!(info.version.to_string()));
    map.insert("TLS-cipher-suite".to_owned(), json!(info.cipher_suite));
    match &info.peer {
        TlsPeer::Certificate { der, names } => {
            map.insert("TLS-server-names".to_owned(), json!(names));
            map.insert("TLS-server-sha256".to_owned(), json!(fingerprint(der)));
        }
        TlsPeer::PresharedKey { username } => {
            map.insert("TLS-username".to_owned(), json!(username));
        }
        _ => {}
    }
}

/// The digest of a certificate as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(der: &[u8]) -> String {
    let bytes: Vec<String> = Sha256::digest(der).iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}
