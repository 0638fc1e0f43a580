//! The TLS parameters of a URI.

use super::error::UriError;
use super::text::{check_given, path_bytes};
use std::path::PathBuf;

/// TLS parameters from the query. They are wishes: nothing has been opened or read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UriTls {
    /// `tls-certificates`: directory with `ca-cert.pem` and so on.
    pub certificates: Option<PathBuf>,
    /// `tls-psk-file`: file of `username:hexkey` lines.
    pub psk_file: Option<PathBuf>,
    /// `tls-hostname`: name to verify in place of the host in the URI.
    pub hostname: Option<String>,
    /// `tls-verify-peer`: whether to verify the server's certificate. Absent means yes.
    pub verify_peer: Option<bool>,
}

impl UriTls {
    /// Whether a file of this machine would be opened.
    pub(super) const fn names_local_file(&self) -> bool {
        self.certificates.is_some() || self.psk_file.is_some()
    }

    pub(super) fn check(&self) -> Result<(), UriError> {
        if let Some(path) = &self.certificates {
            check_given("tls-certificates directory", path_bytes(path))?;
        }
        if let Some(path) = &self.psk_file {
            check_given("tls-psk-file path", path_bytes(path))?;
        }
        if let Some(name) = &self.hostname {
            check_given("tls-hostname", name.as_bytes())?;
        }
        Ok(())
    }
}
