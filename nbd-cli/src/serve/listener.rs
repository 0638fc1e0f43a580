//! Where clients come in.

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf, absolute};

use nbd_transport::{Connection, DEFAULT_PORT, NbdUri, UriAddress};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_keepalive, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Where to listen.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// `HOST`, `HOST:PORT` or `[IPV6]:PORT`; port 0 is any free one.
    Tcp(String),
}

/// A listening socket. A Unix socket is removed from the file system when this
/// is dropped, unless another one took its place.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// The name of a Unix socket in the file system.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode, to know it again.
    identity: (u64, u64),
}

impl Listener {
    /// Starts to listen. A Unix socket left behind by a server that is gone is
    /// replaced: one on which a connection is refused, and no other.
    ///
    /// # Errors
    ///
    /// When the address is in use, not there, or not allowed; the message names
    /// it.
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => bind_unix(path).map_err(listening(path.display())),
            Address::Tcp(text) => bind_tcp(text).map_err(listening(text)),
        }
    }

    /// The URI that leads clients on this machine to the export, through TLS
    /// or in clear.
    ///
    /// # Errors
    ///
    /// When the export's name cannot be part of a URI.
    pub(super) fn uri(&self, export: &str, tls: bool) -> io::Result<String> {
        let address = match self {
            Self::Unix(_, file) => UriAddress::Unix { path: file.path.clone() },
            Self::Tcp(listener) => {
                let bound = listener.local_addr()?;
                UriAddress::Tcp { host: reachable(bound.ip()).to_string(), port: bound.port() }
            }
        };
        NbdUri::new(address, tls)
            .and_then(|uri| uri.with_export_name(export))
            .map(|uri| uri.to_string())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Takes a client that waits, and its name for messages.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none waits, and whatever went wrong with this one.
    pub(super) fn accept(&self) -> io::Result<(OwnedFd, String)> {
        let (socket, name) = match self {
            Self::Unix(listener, _) => {
                let socket = OwnedFd::from(listener.accept()?.0);
                let name = match socket_peercred(&socket) {
                    Ok(owner) => format!("process {}", owner.pid),
                    Err(_) => "a local process".to_owned(),
                };
                (socket, name)
            }
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept()?;
                // So that clients that vanished do not stay for ever.
                set_socket_keepalive(&socket, true)?;
                (socket.into(), address.to_string())
            }
        };
        let connection = Connection::from_socket(socket).map_err(io::Error::other)?;
        Ok((connection.stream.into(), name))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // There is nobody left to tell if it cannot be removed, and the
            // next server replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    let path = absolute(path)?;
    let listener = match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(&path)?;
            UnixListener::bind(&path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    let identity = identity(&path)?;
    Ok(Listener::Unix(listener, SocketFile { path, identity }))
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |reason| io::Error::new(io::ErrorKind::AddrInUse, reason);
    if !path.symlink_metadata()?.file_type().is_socket() {
        return Err(in_use("it exists and is not a socket"));
    }
    if is_refused(path)? {
        return fs::remove_file(path);
    }
    Err(in_use("another server is listening there"))
}

/// Whether nobody listens on a socket. Does not wait: a server that is busy, or stopped,
/// still listens.
fn is_refused(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?) == Err(Errno::CONNREFUSED))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn bind_tcp(text: &str) -> io::Result<Listener> {
    let addresses: Vec<SocketAddr> = match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => vec![(ip, DEFAULT_PORT).into()],
        Err(_) if text.contains(':') => text.to_socket_addrs()?.collect(),
        Err(_) => (text, DEFAULT_PORT).to_socket_addrs()?.collect(),
    };
    let listener = TcpListener::bind(&*addresses)?;
    listener.set_nonblocking(true)?;
    Ok(Listener::Tcp(listener))
}

/// An address to connect to, for one that means all of the machine's.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn listening(address: impl Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}
