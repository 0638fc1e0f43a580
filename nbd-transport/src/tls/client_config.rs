//! What a client needs for TLS.

use super::config_error::TlsConfigError;
use super::credentials::{self, Credentials};
use super::psk::{GivenKey, UserKey, read_key};
use super::{TlsError, TlsStage, search};
use crate::NbdUri;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How far the server's certificate is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[doc(alias("nbd_set_tls_verify_peer", "nbd_get_tls_verify_peer"))]
#[non_exhaustive]
pub enum ServerCheck {
    /// It must be signed by a trusted authority, be valid now, be meant for servers, and name the
    /// server. On a connection that has no name, such as one over a Unix socket, everything but
    /// the name is checked, unless [`TlsConfig::server_name`] gives one.
    #[default]
    Full,
    /// As above, but it may name any server.
    AnyName,
    /// Nothing is checked: **anybody on the way can read and change all data**. For tests.
    #[doc(alias("insecure", "danger_accept_invalid_certs"))]
    DangerouslyNothing,
}

/// Which authorities are trusted.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(feature = "x509"),
    expect(dead_code, reason = "without certificates it leads to an error only")
)]
pub(super) enum Trust {
    /// Those of the first directory found in the usual places, or else the system's.
    Search,
    /// That of a directory.
    Directory(PathBuf),
    /// The system's.
    System,
    /// These.
    Given(Credentials),
}

/// What a client needs for TLS: who it trusts and who it is.
///
/// Nothing is read before [`connector`](Self::connector), and everything is read and checked then.
///
/// | file of a directory | content | |
/// |---|---|---|
/// | `ca-cert.pem` | authorities that are trusted | needed |
/// | `client-cert.pem`, `client-key.pem` | the client's own certificate and key | both or none |
/// | `ca-crl.pem` | certificates that are revoked | optional |
///
/// ```no_run
/// use nbd_transport::tls::TlsConfig;
///
/// let by_certificate = TlsConfig::new().directory("/etc/pki/disk").connector()?;
/// let by_key = TlsConfig::new().psk_file("/etc/keys.psk").username("alice").connector()?;
/// # Ok::<(), nbd_transport::tls::TlsConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[doc(alias("nbd_set_tls_priority", "nbd_get_tls_priority", "nbd_set_uri_allow_tls_priority"))]
pub struct TlsConfig {
    pub(super) trust: Trust,
    pub(super) identity: Option<(Credentials, Credentials)>,
    pub(super) crl: Option<Credentials>,
    pub(super) server_name: Option<String>,
    pub(super) check: ServerCheck,
    psk_file: Option<PathBuf>,
    psk_key: Option<GivenKey>,
    username: Option<String>,
}

impl TlsConfig {
    /// Trusts the authority in the first of these directories that has one, and else those of the
    /// system: `~/.pki/libnbd`, `~/.config/pki/libnbd` (neither for root), `/etc/pki/libnbd`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trust: Trust::Search,
            identity: None,
            crl: None,
            server_name: None,
            check: ServerCheck::Full,
            psk_file: None,
            psk_key: None,
            username: None,
        }
    }

    /// What a URI asks for. That it may name local files is for
    /// [`UriPolicy`](crate::UriPolicy) to decide, before.
    #[must_use]
    pub fn from_uri(uri: &NbdUri) -> Self {
        let mut config = Self::new();
        if let Some(dir) = &uri.tls().certificates {
            config = config.directory(dir);
        }
        config.psk_file.clone_from(&uri.tls().psk_file);
        config.username = uri.username().map(str::to_owned);
        config.server_name.clone_from(&uri.tls().hostname);
        if uri.tls().verify_peer == Some(false) {
            config.check = ServerCheck::DangerouslyNothing;
        }
        config
    }

    /// Takes everything from the files of a directory, and nothing from elsewhere.
    #[must_use]
    #[doc(alias = "nbd_set_tls_certificates")]
    pub fn directory(mut self, dir: impl AsRef<Path>) -> Self {
        self.trust = Trust::Directory(dir.as_ref().to_owned());
        self
    }

    /// Trusts the authorities that the system trusts.
    #[must_use]
    pub fn system_store(mut self) -> Self {
        self.trust = Trust::System;
        self
    }

    /// Trusts these authorities.
    #[must_use]
    #[doc(alias("nbd_set_tls_certificates", "ca_file", "root_certificates"))]
    pub fn authorities(mut self, certificates: Credentials) -> Self {
        self.trust = Trust::Given(certificates);
        self
    }

    /// Shows this certificate (with those between it and the authority, if any) to servers that
    /// ask.
    #[must_use]
    #[doc(alias = "nbd_set_tls_certificates")]
    pub fn identity(mut self, certificate: Credentials, key: Credentials) -> Self {
        self.identity = Some((certificate, key));
        self
    }

    /// Refuses the certificates on these lists.
    #[must_use]
    pub fn revocations(mut self, lists: Credentials) -> Self {
        self.crl = Some(lists);
        self
    }

    /// The name or IP address that the server's certificate must have, in place of the host that
    /// is connected to.
    #[must_use]
    #[doc(alias("nbd_set_tls_hostname", "nbd_get_tls_hostname"))]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// How far the server's certificate is checked (default: in full).
    #[must_use]
    #[doc(alias("nbd_set_tls_verify_peer", "nbd_get_tls_verify_peer"))]
    pub fn server_check(mut self, check: ServerCheck) -> Self {
        self.check = check;
        self
    }

    /// Uses a pre-shared key from a file of `username:hexkey` lines, and no certificate at all.
    #[must_use]
    #[doc(alias = "nbd_set_tls_psk_file")]
    pub fn psk_file(mut self, path: impl AsRef<Path>) -> Self {
        self.psk_file = Some(path.as_ref().to_owned());
        self
    }

    /// Uses the pre-shared key that these bytes are, and no certificate at all.
    #[must_use]
    pub fn psk_key_bytes(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.psk_key = Some(GivenKey::Bytes(key.into()));
        self
    }

    /// Uses the pre-shared key that these hexadecimal digits say, as in a file of keys, and no
    /// certificate at all.
    #[must_use]
    #[doc(alias = "nbd_set_tls_psk_file")]
    pub fn psk_key_hex(mut self, digits: impl Into<String>) -> Self {
        self.psk_key = Some(GivenKey::Hex(digits.into()));
        self
    }

    /// Whose pre-shared key is used (default: who runs the program).
    #[must_use]
    #[doc(alias("nbd_set_tls_username", "nbd_get_tls_username"))]
    pub fn username(mut self, name: impl Into<String>) -> Self {
        self.username = Some(name.into());
        self
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// When a file is missing, unreadable or contains something else; when a key does not fit; and
    /// when this program was built without what it takes.
    pub fn connector(&self) -> Result<TlsConnector, TlsConfigError> {
        let connect = match self.user_key()? {
            Some(user) => by_key(user)?,
            None => by_certificate(&self.resolved()?)?,
        };
        let server_name = self.server_name.clone();
        Ok(TlsConnector { connect, server_name })
    }

    fn user_key(&self) -> Result<Option<UserKey>, TlsConfigError> {
        match (&self.psk_key, &self.psk_file) {
            (Some(key), _) => {
                let name = self.username.clone().ok_or(TlsConfigError::NoUsername)?;
                let user = UserKey::given(name, key).map_err(TlsConfigError::Psk)?;
                Ok(Some(user))
            }
            (None, Some(path)) => read_key(path, self.username.clone()).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// With the files of the directory in place of its name.
    fn resolved(&self) -> Result<Self, TlsConfigError> {
        let mut config = self.clone();
        let dir = match &self.trust {
            Trust::Directory(dir) => dir.clone(),
            Trust::Search => match search::directory() {
                Some(dir) => dir,
                None => {
                    config.trust = Trust::System;
                    return Ok(config);
                }
            },
            Trust::System | Trust::Given(_) => return Ok(config),
        };
        config.trust = Trust::Given(Credentials::File(dir.join(credentials::CA)));
        if config.identity.is_none() {
            config.identity = credentials::pair(&dir, "client-cert.pem", "client-key.pem")?;
        }
        if config.crl.is_none() {
            config.crl = credentials::optional(&dir, credentials::CRL)?;
        }
        Ok(config)
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "x509")]
use super::x509::connector as by_certificate;

#[cfg(not(feature = "x509"))]
fn by_certificate(_: &TlsConfig) -> Result<Arc<dyn Connect>, TlsConfigError> {
    Err(super::config_error::no_certificates())
}

#[cfg(feature = "psk")]
use super::psk::connector as by_key;

#[cfg(not(feature = "psk"))]
fn by_key(_: UserKey) -> Result<Arc<dyn Connect>, TlsConfigError> {
    Err(super::config_error::no_keys())
}

/// Starts a session with a server.
pub(super) trait Connect: fmt::Debug + Send + Sync {
    fn start(&self, server_name: Option<&str>) -> Result<Box<dyn TlsStage>, TlsError>;
}

/// Starts TLS sessions with servers. All that it takes has been read and checked; it may be cloned
/// and shared.
#[derive(Debug, Clone)]
pub struct TlsConnector {
    connect: Arc<dyn Connect>,
    server_name: Option<String>,
}

impl TlsConnector {
    /// Starts sessions by a configuration of the library's own, as it is: what it takes for
    /// versions, ciphers and certificates is not looked at here. Servers that have no name, such
    /// as those behind Unix sockets, need [one](Self::server_name) to be compared with.
    #[cfg(feature = "x509")]
    #[must_use]
    pub fn from_rustls(config: Arc<rustls::ClientConfig>) -> Self {
        Self { connect: super::x509::given_connector(config), server_name: None }
    }

    /// The name or IP address that the server's certificate must have, in place of the host that
    /// is connected to.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// A session with the server at `host`; with none, the server has no name by itself. Its first
    /// message is ready to be sent.
    ///
    /// # Errors
    /// [`TlsError::ServerName`], and [`TlsError::Library`] when there is no randomness or memory.
    pub fn start(&self, host: Option<&str>) -> Result<Box<dyn TlsStage>, TlsError> {
        let mut stage = self.connect.start(self.server_name.as_deref().or(host))?;
        stage.handshake()?;
        Ok(stage)
    }
}
