//! Where clients come in.

use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf, absolute};

use nbd_transport::{Connection, DEFAULT_PORT, NbdUri, UriAddress, VSOCK_HOST_CID};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_keepalive;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// Clients that wait to be taken in, at most; the kernel lowers it.
const BACKLOG: i32 = 4096;

/// One or more listening sockets. A Unix socket is removed from the file system when this
/// is dropped, unless another one took its place.
#[derive(Debug)]
pub struct Listener {
    /// At least one.
    sockets: Vec<OwnedFd>,
    /// The name of a Unix socket that was made here.
    _file: Option<SocketFile>,
}

/// The name of a Unix socket in the file system.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode, to know it again.
    identity: (u64, u64),
}

impl Listener {
    /// Listens on TCP, on each address that a name has: `HOST`, `HOST:PORT`, `[IPV6]:PORT`, or
    /// `:PORT` for every address of this machine. An IPv6 address may have a zone. Without a port
    /// it is 10809; port 0 is any free one.
    ///
    /// # Errors
    /// When an address is in use, not there, or not allowed; the message names it.
    pub fn tcp(address: &str) -> io::Result<Self> {
        bind_tcp(address).map_err(listening(address))
    }

    /// Listens on a Unix socket. One left behind by a server that is gone is replaced: one on
    /// which a connection is refused, and no other.
    ///
    /// Only who may write to the socket can connect, whatever an [`Access`](crate::Access) says,
    /// and that is what the umask leaves: usually its owner alone.
    ///
    /// # Errors
    /// When the path is in use, not there, or not allowed; the message names it.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        bind_unix(path, None).map_err(listening(path.display()))
    }

    /// Listens on a Unix socket as [`unix`](Self::unix) does, with this mode, such as `0o666` for
    /// everybody who reaches it, whatever the umask is. It has it before anybody can connect.
    ///
    /// # Errors
    /// As [`unix`](Self::unix).
    pub fn unix_with_mode(path: impl AsRef<Path>, mode: u32) -> io::Result<Self> {
        let path = path.as_ref();
        bind_unix(path, Some(mode)).map_err(listening(path.display()))
    }

    /// Listens on a Unix socket with a name in the abstract namespace of Linux, which is in no
    /// file system and gone with the server.
    ///
    /// # Errors
    /// When the name is in use or too long; the message names it.
    pub fn unix_abstract(name: &[u8]) -> io::Result<Self> {
        let bind = || {
            let socket =
                socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Self::passed(socket)
        };
        bind().map_err(listening(format_args!("@{}", nbd_proto::escape(name))))
    }

    /// Listens on vsock, for virtual machines and their host.
    ///
    /// # Errors
    /// When the port is in use, or there is no vsock here.
    pub fn vsock(port: u32) -> io::Result<Self> {
        let bind = || {
            let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
            socket.bind(&SockAddr::vsock(VMADDR_CID_ANY, port))?;
            socket.listen(BACKLOG)?;
            Self::passed(socket.into())
        };
        bind().map_err(listening(format_args!("vsock port {port}")))
    }

    /// A stream socket that listens already, such as one that an init system has passed.
    ///
    /// # Errors
    /// When it is none.
    pub fn passed(socket: OwnedFd) -> io::Result<Self> {
        let options = SockRef::from(&socket);
        if options.r#type()? != Type::STREAM || !options.is_listener()? {
            let text = "it is no listening stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        options.set_nonblocking(true)?;
        options.set_cloexec(true)?;
        Ok(Self { sockets: vec![socket], _file: None })
    }

    /// The URI that leads clients to an export, through TLS or in clear: for TCP and Unix sockets
    /// those on this machine, for vsock those in its virtual machines.
    ///
    /// # Errors
    /// When the export's name cannot be part of a URI.
    pub fn uri(&self, export: &str, tls: bool) -> io::Result<String> {
        let socket = self.sockets.first().ok_or(io::ErrorKind::NotConnected)?;
        let bound = SockRef::from(socket).local_addr()?;
        let address = if let Some(address) = bound.as_socket() {
            UriAddress::Tcp { host: reachable(address.ip()).to_string(), port: address.port() }
        } else if let Some((_, port)) = bound.as_vsock_address() {
            UriAddress::Vsock { cid: VSOCK_HOST_CID, port }
        } else if let Some(name) = bound.as_abstract_namespace() {
            UriAddress::UnixAbstract { name: name.to_vec() }
        } else {
            let path = bound.as_pathname().map(Path::to_owned).unwrap_or_default();
            UriAddress::Unix { path }
        };
        NbdUri::new(address, tls)
            .and_then(|uri| uri.with_export_name(export))
            .map(|uri| uri.to_string())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Whether clients can come from other machines.
    #[must_use]
    pub fn is_reachable_from_afar(&self) -> bool {
        self.sockets.iter().any(|socket| {
            let address = SockRef::from(socket).local_addr().ok();
            address.and_then(|address| address.as_socket()).is_some_and(|a| !a.ip().is_loopback())
        })
    }

    /// The sockets, to wait for clients.
    pub(crate) fn sockets(&self) -> &[OwnedFd] {
        &self.sockets
    }

    /// Takes a client that waits.
    ///
    /// # Errors
    /// `WouldBlock` when none waits, and whatever went wrong with this one.
    pub(crate) fn accept(listening: impl AsFd) -> io::Result<OwnedFd> {
        let socket = rustix::net::accept_with(listening, SocketFlags::CLOEXEC)?;
        if SockRef::from(&socket).domain()? != Domain::UNIX {
            // So that clients that vanished do not stay for ever. Vsock has no such thing.
            let _ = set_socket_keepalive(&socket, true);
        }
        let connection = Connection::from_socket(socket).map_err(io::Error::other)?;
        Ok(connection.stream.into())
    }
}

/// Any address of this machine.
const VMADDR_CID_ANY: u32 = u32::MAX;

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // There is nobody left to tell if it cannot be removed, and the
            // next server replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Listener> {
    let path = absolute(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(&path)?;
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(&path)?;
            rustix::net::bind(&socket, &address)?;
        }
        bound => bound?,
    }
    let identity = identity(&path)?;
    let file = SocketFile { path, identity };
    if let Some(mode) = mode {
        fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Listener { _file: Some(file), ..Listener::passed(socket)? })
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
    let (host, port) = split(text)?;
    if host.is_empty() {
        // Where there is no IPv6, it is all of IPv4.
        let any: [SocketAddr; 2] =
            [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
        return Listener::passed(TcpListener::bind(&any[..])?.into());
    }
    let mut sockets = Vec::new();
    let mut free_port = None;
    let mut failed = None;
    for mut address in (host, port).to_socket_addrs()? {
        // All have the port that the first has got.
        address.set_port(free_port.unwrap_or(port));
        match TcpListener::bind(address) {
            Ok(listener) => {
                free_port = Some(listener.local_addr()?.port());
                sockets.extend(Listener::passed(listener.into())?.sockets);
            }
            // An address of a name that this machine does not have, such as that of IPv6.
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if sockets.is_empty() => Err(error),
        // Unless it was for the server to choose, a port that somebody else has is no success.
        Some(error) if port != 0 && error.kind() == io::ErrorKind::AddrInUse => Err(error),
        _ if sockets.is_empty() => Err(io::ErrorKind::AddrNotAvailable.into()),
        _ => Ok(Listener { sockets, _file: None }),
    }
}

/// Host, which may be empty, and port.
fn split(text: &str) -> io::Result<(&str, u16)> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
        // More than one colon is an IPv6 address without a port.
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Ok(DEFAULT_PORT), str::parse).map_err(|_| {
        let text = "it should be HOST, HOST:PORT, [IPV6]:PORT or :PORT";
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    Ok((host, port))
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

/// Whether a client that could not be taken in has gone again.
pub(crate) const fn is_transient(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
    )
}

/// Whether a client could not be taken in for want of descriptors.
pub(crate) fn is_short_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, expected) in [
            ("disk.example", ("disk.example", DEFAULT_PORT)),
            ("disk.example:7", ("disk.example", 7)),
            (":7", ("", 7)),
            ("::1", ("::1", DEFAULT_PORT)),
            ("[::1]", ("::1", DEFAULT_PORT)),
            ("[fe80::1%eth0]:7", ("fe80::1%eth0", 7)),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
        for text in ["host:port", "[::1]x7x", "host:", "host:65536"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
