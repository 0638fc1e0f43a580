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
use rustix::net::sockopt::set_socket_keepalive;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A listening socket. A Unix socket is removed from the file system when this
/// is dropped, unless another one took its place.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// The name of a Unix socket in the file system.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode, to know it again.
    identity: (u64, u64),
}

impl Listener {
    /// Listens on TCP: `HOST`, `HOST:PORT` or `[IPV6]:PORT`; port 0 is any free one.
    ///
    /// # Errors
    /// When the address is in use, not there, or not allowed; the message names it.
    pub fn tcp(address: &str) -> io::Result<Self> {
        bind_tcp(address).map_err(listening(address))
    }

    /// Listens on a Unix socket. One left behind by a server that is gone is replaced: one on
    /// which a connection is refused, and no other.
    ///
    /// # Errors
    /// When the path is in use, not there, or not allowed; the message names it.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        bind_unix(path).map_err(listening(path.display()))
    }

    /// The URI that leads clients on this machine to the export, through TLS
    /// or in clear.
    ///
    /// # Errors
    /// When the export's name cannot be part of a URI.
    pub fn uri(&self, export: &str, tls: bool) -> io::Result<String> {
        let address = match &self.socket {
            Socket::Unix(_, file) => UriAddress::Unix { path: file.path.clone() },
            Socket::Tcp(listener) => {
                let bound = listener.local_addr()?;
                UriAddress::Tcp { host: reachable(bound.ip()).to_string(), port: bound.port() }
            }
        };
        NbdUri::new(address, tls)
            .and_then(|uri| uri.with_export_name(export))
            .map(|uri| uri.to_string())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Takes a client that waits.
    ///
    /// # Errors
    /// `WouldBlock` when none waits, and whatever went wrong with this one.
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        let socket = match &self.socket {
            Socket::Unix(listener, _) => OwnedFd::from(listener.accept()?.0),
            Socket::Tcp(listener) => {
                let (socket, _) = listener.accept()?;
                // So that clients that vanished do not stay for ever.
                set_socket_keepalive(&socket, true)?;
                socket.into()
            }
        };
        let connection = Connection::from_socket(socket).map_err(io::Error::other)?;
        Ok(connection.stream.into())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(listener, _) => listener.as_fd(),
            Socket::Tcp(listener) => listener.as_fd(),
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
    Ok(Listener { socket: Socket::Unix(listener, SocketFile { path, identity }) })
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
    Ok(Listener { socket: Socket::Tcp(listener) })
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
