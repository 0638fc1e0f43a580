//! The eight schemes: a transport, with or without a demand for TLS.

use std::fmt;

/// The kind of connection a URI asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// TCP over IPv4 or IPv6: `nbd`, `nbds`.
    Tcp,
    /// A Unix domain socket: `nbd+unix`, `nbds+unix`.
    Unix,
    /// A socket between a virtual machine and its host: `nbd+vsock`, `nbds+vsock`.
    Vsock,
    /// A remote socket reached through `ssh`: `nbd+ssh`, `nbds+ssh`.
    Ssh,
}

/// Its plain scheme, such as `nbd+unix`.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Scheme::new(*self, false).as_str())
    }
}

/// A URI scheme taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheme {
    pub(super) transport: Transport,
    pub(super) tls_required: bool,
}

impl Scheme {
    const ALL: [Self; 8] = [
        Self::new(Transport::Tcp, false),
        Self::new(Transport::Tcp, true),
        Self::new(Transport::Unix, false),
        Self::new(Transport::Unix, true),
        Self::new(Transport::Vsock, false),
        Self::new(Transport::Vsock, true),
        Self::new(Transport::Ssh, false),
        Self::new(Transport::Ssh, true),
    ];

    pub(super) const fn new(transport: Transport, tls_required: bool) -> Self {
        Self { transport, tls_required }
    }

    /// Schemes are case-insensitive (RFC 3986 section 3.1).
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    }

    /// The canonical spelling.
    pub(super) const fn as_str(self) -> &'static str {
        match (self.transport, self.tls_required) {
            (Transport::Tcp, false) => "nbd",
            (Transport::Tcp, true) => "nbds",
            (Transport::Unix, false) => "nbd+unix",
            (Transport::Unix, true) => "nbds+unix",
            (Transport::Vsock, false) => "nbd+vsock",
            (Transport::Vsock, true) => "nbds+vsock",
            (Transport::Ssh, false) => "nbd+ssh",
            (Transport::Ssh, true) => "nbds+ssh",
        }
    }
}
