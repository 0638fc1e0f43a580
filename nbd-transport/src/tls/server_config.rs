//! What a server needs for TLS.

use super::config_error::TlsConfigError;
use super::credentials::{self, Credentials};
use super::psk::{GivenKey, Keys, UserKey, read_keys};
use super::{TlsError, TlsStage};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a server needs for TLS: who it is and who may connect.
///
/// Nothing is read before [`acceptor`](Self::acceptor), and everything is read and checked then.
///
/// ```no_run
/// use nbd_transport::tls::TlsServerConfig;
///
/// let acceptor = TlsServerConfig::directory("pki").verify_clients(true).acceptor()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | file of a directory | content | |
/// |---|---|---|
/// | `server-cert.pem`, `server-key.pem` | the server's certificate and key | needed |
/// | `ca-cert.pem` | authorities that clients' certificates are verified with | to verify clients |
/// | `ca-crl.pem` | certificates that are revoked | optional |
#[derive(Debug, Clone)]
pub struct TlsServerConfig {
    source: Source,
    verify_clients: bool,
}

#[derive(Debug, Clone)]
enum Source {
    Directory(PathBuf),
    Given { identity: (Credentials, Credentials), authorities: Option<Credentials> },
    PskFile(PathBuf),
    PskKey(String, GivenKey),
}

/// What a server by certificate is made of.
#[derive(Debug)]
#[cfg_attr(not(feature = "x509"), expect(dead_code, reason = "nothing can use certificates"))]
pub(super) struct ServerFiles {
    pub(super) identity: (Credentials, Credentials),
    pub(super) authorities: Option<Credentials>,
    pub(super) crl: Option<Credentials>,
}

impl TlsServerConfig {
    const fn new(source: Source) -> Self {
        Self { source, verify_clients: false }
    }

    /// Takes everything from the files of a directory.
    #[must_use]
    pub fn directory(dir: impl AsRef<Path>) -> Self {
        Self::new(Source::Directory(dir.as_ref().to_owned()))
    }

    /// Shows this certificate, with those between it and the authority, if any. Clients are
    /// verified with the authorities, where they are to be verified.
    #[must_use]
    pub const fn identity(
        certificate: Credentials,
        key: Credentials,
        authorities: Option<Credentials>,
    ) -> Self {
        Self::new(Source::Given { identity: (certificate, key), authorities })
    }

    /// Accepts the users of a file of `username:hexkey` lines, and no certificate.
    #[must_use]
    pub fn psk_file(path: impl AsRef<Path>) -> Self {
        Self::new(Source::PskFile(path.as_ref().to_owned()))
    }

    /// Accepts one user, whose key these bytes are, and no certificate.
    #[must_use]
    pub fn psk_key_bytes(username: impl Into<String>, key: impl Into<Vec<u8>>) -> Self {
        Self::new(Source::PskKey(username.into(), GivenKey::Bytes(key.into())))
    }

    /// Accepts one user, whose key these hexadecimal digits say, and no certificate.
    #[must_use]
    pub fn psk_key_hex(username: impl Into<String>, digits: impl Into<String>) -> Self {
        Self::new(Source::PskKey(username.into(), GivenKey::Hex(digits.into())))
    }

    /// Whether clients need a certificate from a trusted authority (default: no). Users of
    /// pre-shared keys are always verified.
    #[must_use]
    pub fn verify_clients(mut self, verify: bool) -> Self {
        self.verify_clients = verify;
        self
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// When a file is missing, unreadable or contains something else; when a key does not fit; and
    /// when this program was built without what it takes.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsConfigError> {
        let accept = match &self.source {
            Source::Directory(dir) => by_certificate(&self.read_directory(dir)?)?,
            Source::Given { identity, authorities } => {
                if self.verify_clients && authorities.is_none() {
                    return Err(TlsConfigError::NoClientAuthority);
                }
                let authorities = authorities.clone().filter(|_| self.verify_clients);
                by_certificate(&ServerFiles { identity: identity.clone(), authorities, crl: None })?
            }
            Source::PskFile(path) => by_keys(read_keys(path)?)?,
            Source::PskKey(name, key) => {
                let user = UserKey::given(name.clone(), key).map_err(TlsConfigError::Psk)?;
                by_keys(Keys::from([(user.name, user.key)]))?
            }
        };
        Ok(TlsAcceptor { accept })
    }

    fn read_directory(&self, dir: &Path) -> Result<ServerFiles, TlsConfigError> {
        let (certificate, key) = ("server-cert.pem", "server-key.pem");
        let identity = match credentials::pair(dir, certificate, key)? {
            Some(identity) => identity,
            // Reading it tells what is wrong.
            None => (Credentials::File(dir.join(certificate)), Credentials::File(dir.join(key))),
        };
        let (mut authorities, mut crl) = (None, None);
        if self.verify_clients {
            authorities = Some(Credentials::File(dir.join(credentials::CA)));
            crl = credentials::optional(dir, credentials::CRL)?;
        }
        Ok(ServerFiles { identity, authorities, crl })
    }
}

#[cfg(feature = "x509")]
use super::x509::acceptor as by_certificate;

#[cfg(not(feature = "x509"))]
fn by_certificate(_: &ServerFiles) -> Result<Arc<dyn Accept>, TlsConfigError> {
    Err(super::config_error::no_certificates())
}

#[cfg(feature = "psk")]
use super::psk::acceptor as by_keys;

#[cfg(not(feature = "psk"))]
fn by_keys(_: Keys) -> Result<Arc<dyn Accept>, TlsConfigError> {
    Err(super::config_error::no_keys())
}

/// Starts a session with a client.
pub(super) trait Accept: fmt::Debug + Send + Sync {
    fn start(&self) -> Result<Box<dyn TlsStage>, TlsError>;
}

/// Starts TLS sessions with clients. All that it takes has been read and checked; it may be cloned
/// and shared.
#[derive(Debug, Clone)]
pub struct TlsAcceptor {
    accept: Arc<dyn Accept>,
}

impl TlsAcceptor {
    /// Starts sessions by a configuration of the library's own, as it is: what it takes for
    /// versions, ciphers and certificates is not looked at here.
    #[cfg(feature = "x509")]
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ServerConfig>) -> Self {
        Self { accept: super::x509::given_acceptor(config) }
    }

    /// A session with a client, which has the first word.
    ///
    /// # Errors
    /// [`TlsError::Library`] when there is no randomness or memory.
    pub fn start(&self) -> Result<Box<dyn TlsStage>, TlsError> {
        self.accept.start()
    }
}
