//! Who is at the other end.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nbd_proto::escape;
use nbd_transport::tls::{TlsInfo, TlsPeer};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use socket2::SockRef;

/// A client, as far as it is known: to decide what it may do, and to name it in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Where it comes from.
    pub address: PeerAddress,
    /// What was agreed on for TLS, and who it has proved to be, once TLS is in use.
    pub tls: Option<TlsInfo>,
}

/// Where a client comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A process on this machine, at the other end of a Unix socket, as the server's name spaces
    /// have it.
    Unix {
        /// Its process id, 0 where it has none here.
        pid: i32,
        /// Its user id. One that has none here has that of the system's `overflowuid`, usually
        /// 65534.
        uid: u32,
        /// Its group id, likewise by `overflowgid`.
        gid: u32,
    },
    /// A virtual machine, or the host of one.
    Vsock {
        /// Its context id.
        cid: u32,
        /// Its port.
        port: u32,
    },
    /// Nobody can tell.
    Unknown,
}

impl Peer {
    /// Somebody at the end of a stream that tells nothing of it.
    pub(crate) const fn unknown() -> Self {
        Self { address: PeerAddress::Unknown, tls: None }
    }

    /// Whoever is at the other end of a connected socket.
    pub(crate) fn of(socket: &OwnedFd) -> Self {
        Self { address: PeerAddress::of(socket.as_fd()), tls: None }
    }
}

impl PeerAddress {
    fn of(socket: BorrowedFd<'_>) -> Self {
        let Ok(address) = SockRef::from(&socket).peer_addr() else {
            return Self::Unknown;
        };
        if let Some(address) = address.as_socket() {
            return Self::Tcp(address);
        }
        if let Some((cid, port)) = address.as_vsock_address() {
            return Self::Vsock { cid, port };
        }
        match getsockopt(&socket, PeerCredentials) {
            Ok(owner) if address.is_unix() => {
                Self::Unix { pid: owner.pid(), uid: owner.uid(), gid: owner.gid() }
            }
            Ok(_) | Err(_) => Self::Unknown,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { pid: 0, uid, .. } => write!(f, "a process of uid {uid}"),
            Self::Unix { pid, uid, .. } => write!(f, "process {pid} of uid {uid}"),
            Self::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
            Self::Unknown => f.write_str("a client"),
        }
    }
}

/// Its address, and its name where it has proved one.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        match self.tls.as_ref().map(|tls| &tls.peer) {
            Some(TlsPeer::Certificate { names, .. }) if !names.is_empty() => {
                write!(f, " ({})", escape(names.join(", ").as_bytes()))
            }
            Some(TlsPeer::PresharedKey { username }) => {
                write!(f, " ({})", escape(username.as_bytes()))
            }
            Some(_) | None => Ok(()),
        }
    }
}
