//! A connected socket and the process behind it.

use crate::connect::ConnectError;
use crate::endpoint::Endpoint;
use crate::process::PeerProcess;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// How much a Unix socket is asked to hold on its way out, in bytes. The default of the system
/// is far below the size of a usual request and would cost a switch of processes each time.
pub(crate) const UNIX_SEND_BUFFER: usize = 2 << 20;

/// A connection to a server that has yet to greet us.
#[derive(Debug)]
#[non_exhaustive]
pub struct Connection {
    /// The socket. It comes first so that it closes before the process is told to end.
    pub stream: Stream,
    /// The process started for this connection, if any. Dropping it ends the process.
    pub peer: Option<PeerProcess>,
}

/// A connected stream socket, in blocking mode and closed on exec.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// TCP over IPv4 or IPv6, without delay of small segments.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
    /// A vsock, for which the standard library has no type.
    Vsock(OwnedFd),
    /// Another family, handed over by the caller.
    Other(OwnedFd),
}

impl Connection {
    /// Takes over a connected stream socket, before any byte of NBD has passed.
    ///
    /// Blocking mode belongs to the socket and not to this descriptor of it: a duplicate kept
    /// elsewhere changes too. The sizes of its buffers stay as they are.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Socket`] when it is no socket, no stream, or not connected.
    #[doc(alias("nbd_connect_socket", "nbd_aio_connect_socket", "nbd_aio_connect"))]
    pub fn from_socket(socket: OwnedFd) -> Result<Self, ConnectError> {
        adopt(Socket::from(socket)).map_err(|error| ConnectError::Socket { error })
    }
}

/// A connection without a process behind it. Nothing about the socket is checked or changed.
impl From<Stream> for Connection {
    fn from(stream: Stream) -> Self {
        Self { stream, peer: None }
    }
}

fn adopt(socket: Socket) -> io::Result<Connection> {
    if socket.r#type()? != Type::STREAM {
        return Err(Errno::PROTOTYPE.into());
    }
    socket.peer_addr()?;
    socket.set_cloexec(true)?;
    Ok(Stream::new(socket, None)?.into())
}

#[cfg(target_os = "linux")]
fn is_vsock(domain: Domain) -> bool {
    domain == Domain::VSOCK
}

#[cfg(not(target_os = "linux"))]
fn is_vsock(_: Domain) -> bool {
    false
}

impl Stream {
    /// A Unix socket is asked to hold `unix_send_buffer` bytes on its way out.
    pub(crate) fn new(socket: Socket, unix_send_buffer: Option<usize>) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        #[cfg(target_vendor = "apple")]
        socket.set_nosigpipe(true)?;
        let domain = socket.local_addr()?.domain();
        Ok(match domain {
            Domain::IPV4 | Domain::IPV6 => {
                socket.set_tcp_nodelay(true)?;
                Self::Tcp(socket.into())
            }
            Domain::UNIX => {
                if let Some(bytes) = unix_send_buffer {
                    // An optimisation: the system may allow less, or refuse.
                    let _ = socket.set_send_buffer_size(bytes);
                }
                Self::Unix(OwnedFd::from(socket).into())
            }
            _ if is_vsock(domain) => Self::Vsock(socket.into()),
            _ => Self::Other(socket.into()),
        })
    }

    /// What the socket is connected to, if that is an address or a path.
    #[must_use]
    pub fn peer(&self) -> Option<Endpoint> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().ok().map(Endpoint::Address),
            Self::Unix(socket) => {
                let address = socket.peer_addr().ok()?;
                address.as_pathname().map(|path| Endpoint::Unix(path.to_owned()))
            }
            Self::Vsock(_) | Self::Other(_) => None,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Vsock(fd) | Self::Other(fd) => fd.as_fd(),
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Tcp(stream) => stream.into(),
            Stream::Unix(stream) => stream.into(),
            Stream::Vsock(fd) | Stream::Other(fd) => fd,
        }
    }
}
