//! Which URIs a program accepts from someone it does not trust.

use super::NbdUri;
use super::error::UriError;
use super::scheme::Transport;
use nbd_proto::TlsPolicy;

/// The transports a URI may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias("nbd_set_uri_allow_transports", "LIBNBD_ALLOW_TRANSPORT"))]
#[non_exhaustive]
pub struct AllowedTransports {
    /// `nbd` and `nbds`.
    pub tcp: bool,
    /// `nbd+unix` and `nbds+unix`.
    pub unix: bool,
    /// `nbd+vsock` and `nbds+vsock`.
    pub vsock: bool,
    /// `nbd+ssh` and `nbds+ssh`, which start a program.
    pub ssh: bool,
}

impl AllowedTransports {
    /// Every transport.
    pub const ALL: Self = Self { tcp: true, unix: true, vsock: true, ssh: true };
    /// No transport: a start from which to allow some.
    pub const NONE: Self = Self { tcp: false, unix: false, vsock: false, ssh: false };

    /// Whether `transport` is allowed.
    #[must_use]
    pub const fn contains(self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.tcp,
            Transport::Unix => self.unix,
            Transport::Vsock => self.vsock,
            Transport::Ssh => self.ssh,
        }
    }

    /// The same, and `transport`.
    ///
    /// ```
    /// use nbd_transport::{AllowedTransports, Transport};
    ///
    /// let local = AllowedTransports::NONE.with(Transport::Unix).with(Transport::Vsock);
    /// assert!(local.vsock && !local.ssh);
    /// ```
    #[must_use]
    pub const fn with(mut self, transport: Transport) -> Self {
        match transport {
            Transport::Tcp => self.tcp = true,
            Transport::Unix => self.unix = true,
            Transport::Vsock => self.vsock = true,
            Transport::Ssh => self.ssh = true,
        }
        self
    }
}

/// Which URIs are accepted. The default allows every transport, TLS or not, and no local files.
///
/// ```
/// use nbd_proto::TlsPolicy;
/// use nbd_transport::{AllowedTransports, Transport, UriPolicy};
///
/// let policy = UriPolicy::default()
///     .transports(AllowedTransports::NONE.with(Transport::Tcp))
///     .tls(TlsPolicy::Require);
/// assert!(policy.check(&"nbds://example.com/".parse()?).is_ok());
/// assert!(policy.check(&"nbd+ssh://example.com/".parse()?).is_err());
/// # Ok::<(), nbd_transport::UriError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UriPolicy {
    /// Transports accepted.
    #[doc(alias = "nbd_set_uri_allow_transports")]
    pub transports: AllowedTransports,
    /// Schemes accepted: only the plain `nbd` ones, both, or only the `nbds` ones.
    #[doc(alias = "nbd_set_uri_allow_tls")]
    pub tls: TlsPolicy,
    /// Whether the URI may name files to open (`tls-certificates`, `tls-psk-file`).
    #[doc(alias = "nbd_set_uri_allow_local_file")]
    pub local_files: bool,
}

impl Default for UriPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl UriPolicy {
    /// Every transport, TLS or not, and no local files.
    #[must_use]
    pub const fn new() -> Self {
        Self { transports: AllowedTransports::ALL, tls: TlsPolicy::Allow, local_files: false }
    }

    /// Sets which transports are accepted.
    #[must_use]
    pub const fn transports(mut self, transports: AllowedTransports) -> Self {
        self.transports = transports;
        self
    }

    /// Sets which schemes are accepted: only the plain `nbd` ones, both, or only the `nbds` ones.
    #[must_use]
    pub const fn tls(mut self, tls: TlsPolicy) -> Self {
        self.tls = tls;
        self
    }

    /// Sets whether the URI may name files to open.
    #[must_use]
    pub const fn local_files(mut self, allowed: bool) -> Self {
        self.local_files = allowed;
        self
    }

    /// Checks `uri` before anything is done with it.
    ///
    /// # Errors
    ///
    /// [`UriError::Policy`] for the first rule broken, in the order transport, TLS, local files.
    pub fn check(&self, uri: &NbdUri) -> Result<(), UriError> {
        let refused = |what| Err(UriError::Policy { what });
        if !self.transports.contains(uri.transport()) {
            return refused(match uri.transport() {
                Transport::Tcp => "the TCP transport",
                Transport::Unix => "the Unix socket transport",
                Transport::Vsock => "the vsock transport",
                Transport::Ssh => "the ssh transport",
            });
        }
        if self.tls == TlsPolicy::Disable && uri.tls_required() {
            return refused("TLS (an nbds scheme)");
        }
        if self.tls == TlsPolicy::Require && !uri.tls_required() {
            return refused("a connection without TLS: use an nbds scheme");
        }
        if uri.tls().names_local_file() && !self.local_files {
            return refused("local files (tls-certificates, tls-psk-file)");
        }
        Ok(())
    }
}
