//! NBD URIs: parsed as a whole before anything is done, and written back exactly.
//!
//! The grammar is that of the protocol's `uri.md`, with the `vsock` and `ssh` transports and the
//! TLS file parameters that other clients understand.

mod error;
mod format;
mod hint;
mod parse;
mod policy;
mod query;
mod scheme;
mod text;
mod tls;

pub use error::{MAX_PART_LEN, MAX_URI_LEN, UriError};
pub use policy::{AllowedTransports, UriPolicy};
pub use scheme::Transport;
pub use tls::UriTls;

use crate::Endpoint;
use crate::ssh::{SshRemote, SshTarget};
use scheme::Scheme;
use std::path::PathBuf;
use std::str::FromStr;
pub(crate) use text::path_bytes;
use text::{check, check_given};

/// Where a URI leads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriAddress {
    /// A TCP port of a host.
    Tcp {
        /// Host name or IP address; an IPv6 address without brackets, its zone after `%`.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A Unix domain socket in the file system.
    Unix {
        /// Path of the socket.
        path: PathBuf,
    },
    /// A Unix domain socket in the abstract namespace of Linux.
    UnixAbstract {
        /// Its name, without the leading NUL.
        name: Vec<u8>,
    },
    /// A vsock port.
    Vsock {
        /// Context id; 2 is the host.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// A socket of another machine, through `ssh`.
    Ssh(SshTarget),
}

/// A complete and checked NBD URI.
///
/// ```
/// use nbd_transport::{NbdUri, UriPolicy};
///
/// let uri: NbdUri = "nbds://alice@example.com/disk%201?tls-hostname=nbd.example".parse()?;
/// UriPolicy::default().check(&uri)?;
/// assert_eq!(uri.export_name(), "disk 1");
/// assert!(uri.tls_required());
/// # Ok::<(), nbd_transport::UriError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias("nbd_connect_uri", "nbd_aio_connect_uri", "nbd_get_uri", "nbd_supports_uri"))]
pub struct NbdUri {
    address: UriAddress,
    tls_required: bool,
    username: Option<String>,
    export_name: String,
    tls: UriTls,
}

impl NbdUri {
    /// A URI for the default export (the empty name) at `address`.
    ///
    /// # Errors
    ///
    /// When a part of the address is empty, too long or contains NUL, when a port is zero, or when
    /// `ssh` could take a part for an option.
    pub fn new(address: UriAddress, tls_required: bool) -> Result<Self, UriError> {
        match &address {
            UriAddress::Tcp { host, port } => {
                check_given("host", host.as_bytes())?;
                check_port("port", *port)?;
            }
            UriAddress::Unix { path } => check_given("socket path", path_bytes(path))?,
            // An abstract name is any bytes, even NUL, but none at all would mean "any name".
            UriAddress::UnixAbstract { name } if name.is_empty() => {
                return Err(UriError::Empty { part: "abstract socket name" });
            }
            UriAddress::UnixAbstract { name } if name.len() >= MAX_PART_LEN => {
                return Err(UriError::TooLong {
                    part: "abstract socket name",
                    len: name.len(),
                    max: MAX_PART_LEN - 1,
                });
            }
            UriAddress::UnixAbstract { .. } | UriAddress::Vsock { .. } => {}
            UriAddress::Ssh(target) => check_ssh(target)?,
        }
        let username = match &address {
            UriAddress::Ssh(target) => target.user.clone(),
            UriAddress::Tcp { .. }
            | UriAddress::Unix { .. }
            | UriAddress::UnixAbstract { .. }
            | UriAddress::Vsock { .. } => None,
        };
        let (export_name, tls) = (String::new(), UriTls::default());
        Ok(Self { address, tls_required, username, export_name, tls })
    }

    /// Whether `text` begins like an NBD URI. It may still be refused: this is for programs
    /// that take file names, too, and have to tell the two apart.
    #[must_use]
    #[doc(alias = "nbd_is_uri")]
    pub fn is_uri(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| Scheme::parse(scheme).is_some())
    }

    /// The URI that leads to `endpoint`.
    ///
    /// # Errors
    ///
    /// [`UriError::NoUri`] for a command or socket activation, and what [`NbdUri::new`] finds.
    pub fn from_endpoint(endpoint: &Endpoint, tls_required: bool) -> Result<Self, UriError> {
        let address = match endpoint {
            Endpoint::Tcp { host, port } => UriAddress::Tcp { host: host.clone(), port: *port },
            Endpoint::Address(address) => UriAddress::Tcp {
                host: address.ip().to_string() + &scope(address),
                port: address.port(),
            },
            Endpoint::Unix(path) => UriAddress::Unix { path: path.clone() },
            Endpoint::UnixAbstract(name) => UriAddress::UnixAbstract { name: name.clone() },
            Endpoint::Vsock { cid, port } => UriAddress::Vsock { cid: *cid, port: *port },
            Endpoint::Ssh(target) => UriAddress::Ssh(target.clone()),
            Endpoint::Command(_) | Endpoint::SocketActivation(_) => {
                return Err(UriError::NoUri(endpoint.to_string()));
            }
        };
        Self::new(address, tls_required)
    }

    /// Sets the export name: UTF-8 of at most 4096 bytes, without NUL.
    ///
    /// # Errors
    ///
    /// [`UriError::TooLong`] or [`UriError::Nul`].
    pub fn with_export_name(mut self, name: impl Into<String>) -> Result<Self, UriError> {
        self.export_name = name.into();
        check("export name", self.export_name.as_bytes())?;
        Ok(self)
    }

    /// Sets the user name: the identity for TLS with a pre-shared key, and the login of `ssh`.
    ///
    /// # Errors
    ///
    /// [`UriError::Empty`], [`UriError::TooLong`], [`UriError::Nul`] or
    /// [`UriError::SshUnsafe`].
    pub fn with_username(mut self, name: impl Into<String>) -> Result<Self, UriError> {
        let name = name.into();
        check_given("user name", name.as_bytes())?;
        if let UriAddress::Ssh(target) = &mut self.address {
            target.user = Some(name.clone());
            check_ssh(target)?;
        }
        self.username = Some(name);
        Ok(self)
    }

    /// Sets the TLS parameters.
    ///
    /// # Errors
    ///
    /// [`UriError::Empty`], [`UriError::TooLong`] or [`UriError::Nul`].
    pub fn with_tls(mut self, tls: UriTls) -> Result<Self, UriError> {
        tls.check()?;
        self.tls = tls;
        Ok(self)
    }

    /// Where the URI leads.
    #[must_use]
    pub const fn address(&self) -> &UriAddress {
        &self.address
    }

    /// Where the URI leads, ready to connect to.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match self.address.clone() {
            UriAddress::Tcp { host, port } => Endpoint::Tcp { host, port },
            UriAddress::Unix { path } => Endpoint::Unix(path),
            UriAddress::UnixAbstract { name } => Endpoint::UnixAbstract(name),
            UriAddress::Vsock { cid, port } => Endpoint::Vsock { cid, port },
            UriAddress::Ssh(target) => Endpoint::Ssh(target),
        }
    }

    /// The transport the scheme names.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self.address {
            UriAddress::Tcp { .. } => Transport::Tcp,
            UriAddress::Unix { .. } | UriAddress::UnixAbstract { .. } => Transport::Unix,
            UriAddress::Vsock { .. } => Transport::Vsock,
            UriAddress::Ssh(_) => Transport::Ssh,
        }
    }

    /// Whether the scheme is one of the `nbds` ones: without TLS the connection must fail.
    #[must_use]
    pub const fn tls_required(&self) -> bool {
        self.tls_required
    }

    /// The export name; empty for the server's default export.
    #[must_use]
    pub fn export_name(&self) -> &str {
        &self.export_name
    }

    /// The user name, if any.
    #[must_use]
    #[doc(alias("nbd_set_tls_username", "nbd_get_tls_username"))]
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The TLS parameters.
    #[must_use]
    pub const fn tls(&self) -> &UriTls {
        &self.tls
    }

    const fn scheme(&self) -> Scheme {
        Scheme::new(self.transport(), self.tls_required)
    }
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        parse::parse(text)
    }
}

/// The zone of a link-local address, which its own text leaves out.
fn scope(address: &std::net::SocketAddr) -> String {
    match address {
        std::net::SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("%{}", v6.scope_id()),
        std::net::SocketAddr::V6(_) | std::net::SocketAddr::V4(_) => String::new(),
    }
}

/// Port zero cannot be connected to, and in a URI it means the default port.
fn check_port(part: &'static str, port: u16) -> Result<(), UriError> {
    if port == 0 {
        let expected = "a port from 1 to 65535";
        return Err(UriError::Value { part, value: "0".to_owned(), expected });
    }
    Ok(())
}

fn check_ssh(target: &SshTarget) -> Result<(), UriError> {
    check_given("ssh host", target.host.as_bytes())?;
    if let Some(user) = &target.user {
        check_given("user name", user.as_bytes())?;
    }
    if let SshRemote::Unix(path) = &target.remote {
        check_given("remote socket path", path_bytes(path))?;
    }
    if let SshRemote::Tcp { port } = target.remote {
        check_port("nbd-port", port)?;
    }
    if let Some(port) = target.port {
        check_port("ssh port", port)?;
    }
    target.unsafe_part().map_or(Ok(()), |(part, value)| {
        Err(UriError::SshUnsafe { part, value: error::shorten(value) })
    })
}
