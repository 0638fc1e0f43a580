//! What can be connected to.

use crate::command::{Activation, CommandSpec};
use crate::connect::{self, ConnectError, Deadline};
use crate::connection::Connection;
use crate::ssh::SshTarget;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Instant;

/// Where an NBD server is found, or how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP port of a host, whose name is resolved when connecting.
    #[doc(alias("nbd_connect_tcp", "nbd_aio_connect_tcp"))]
    Tcp {
        /// Host name or IP address; an IPv6 address without brackets, its zone after `%`.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A TCP port of an IP address.
    #[doc(alias = "nbd_aio_connect")]
    Address(SocketAddr),
    /// A Unix domain socket in the file system.
    #[doc(alias("nbd_connect_unix", "nbd_aio_connect_unix"))]
    Unix(PathBuf),
    /// A Unix domain socket in the abstract namespace of Linux: its name without leading NUL.
    #[doc(alias("nbd_connect_unix", "nbd_aio_connect_unix"))]
    UnixAbstract(Vec<u8>),
    /// A vsock port.
    #[doc(alias("nbd_connect_vsock", "nbd_aio_connect_vsock"))]
    Vsock {
        /// Context id; 2 is the host.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// A program that speaks NBD on its standard input and output, like `nbdkit -s`.
    #[doc(alias("nbd_connect_command", "nbd_aio_connect_command"))]
    Command(CommandSpec),
    /// A program that takes its listening socket by systemd socket activation, like `nbdkit` and
    /// `qemu-nbd`.
    #[doc(alias(
        "nbd_connect_systemd_socket_activation",
        "nbd_aio_connect_systemd_socket_activation"
    ))]
    SocketActivation(Activation),
    /// A server reached through `ssh`.
    Ssh(SshTarget),
}

impl Endpoint {
    /// The host, by name or address, where there is one: what a server's certificate must be for.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        match self {
            Self::Tcp { host, .. } => Some(host.clone()),
            Self::Address(address) => Some(address.ip().to_string()),
            Self::Unix(_)
            | Self::UnixAbstract(_)
            | Self::Vsock { .. }
            | Self::Command(_)
            | Self::SocketActivation(_)
            | Self::Ssh(_) => None,
        }
    }

    /// Connects, blocking the calling thread until `deadline` at the latest; without one, for as
    /// long as the system and the server take.
    ///
    /// A program that is started counts as connected when its first byte has arrived, so that
    /// one which fails to start is an error here, with its exit status and what it wrote.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says which step failed and, for TCP, what became of every address.
    pub fn connect(&self, deadline: Option<Instant>) -> Result<Connection, ConnectError> {
        connect::connect(self, deadline.into())
    }

    /// Connects as [`connect`](Self::connect) does, and gives up as soon as `stop` has something
    /// to read or is at its end: so somebody who waits for this thread to connect, and does not
    /// want that any more, drops the other end of a pipe.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect), and [`ConnectError::GivenUp`].
    pub fn connect_unless(
        &self,
        stop: BorrowedFd<'_>,
        deadline: Option<Instant>,
    ) -> Result<Connection, ConnectError> {
        connect::connect(self, Deadline::from(deadline).unless(stop))
    }
}

impl fmt::Display for Endpoint {
    /// For people, not for parsing: see [`NbdUri`](crate::NbdUri) for that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "Unix socket {}", path.display()),
            Self::UnixAbstract(name) => write!(f, "abstract socket {}", name.escape_ascii()),
            Self::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
            Self::Command(command) => write!(f, "command {}", command.program().display()),
            Self::SocketActivation(activation) => {
                write!(f, "socket-activated {}", activation.command().program().display())
            }
            Self::Ssh(target) => target.fmt(f),
        }
    }
}
