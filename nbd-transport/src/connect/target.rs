//! What a socket is connected to.

use super::error::{Attempt, ConnectError};
use crate::endpoint::Endpoint;
use rustix::io::Errno;
use socket2::{SockAddr, Socket, Type};
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A socket address, and what it is called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    name: String,
    address: SockAddr,
}

/// What came of a connect that did not wait.
#[derive(Debug)]
pub(super) enum Started {
    Connected(Socket),
    /// The socket becomes writable once it is decided.
    InProgress(Socket),
    /// The server's backlog is full, and there is nothing to poll for.
    Busy,
}

impl Target {
    pub(super) fn tcp(address: SocketAddr) -> Self {
        Self { name: address.to_string(), address: address.into() }
    }

    pub(super) fn unix(endpoint: &Endpoint, path: &Path) -> Result<Self, ConnectError> {
        let bytes = path.as_os_str().as_bytes();
        // An empty path, or one that begins with NUL, would address something else.
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(failed(endpoint, Errno::INVAL));
        }
        Self::unix_address(endpoint, path)
    }

    /// `name` is without its leading NUL.
    pub(super) fn unix_abstract(endpoint: &Endpoint, name: &[u8]) -> Result<Self, ConnectError> {
        if !cfg!(target_os = "linux") {
            return Err(failed(endpoint, Errno::NOTSUP));
        }
        if name.is_empty() {
            return Err(failed(endpoint, Errno::INVAL));
        }
        let bytes = [b"\0", name].concat();
        Self::unix_address(endpoint, Path::new(OsStr::from_bytes(&bytes)))
    }

    fn unix_address(endpoint: &Endpoint, path: &Path) -> Result<Self, ConnectError> {
        // Making the address fails for one reason only: the path is too long.
        let address = SockAddr::unix(path).map_err(|_| ConnectError::PathTooLong {
            path: path.to_owned(),
            len: path.as_os_str().len(),
        })?;
        Ok(Self { name: endpoint.to_string(), address })
    }

    #[cfg(target_os = "linux")]
    pub(super) fn vsock(endpoint: &Endpoint, cid: u32, port: u32) -> Result<Self, ConnectError> {
        Ok(Self { name: endpoint.to_string(), address: SockAddr::vsock(cid, port) })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn vsock(endpoint: &Endpoint, _: u32, _: u32) -> Result<Self, ConnectError> {
        Err(failed(endpoint, Errno::NOTSUP))
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    pub(super) fn connect(&self) -> io::Result<Started> {
        let socket = Socket::new(self.address.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.address) {
            Ok(()) => Ok(Started::Connected(socket)),
            Err(error) => match Errno::from_io_error(&error) {
                // Interrupted, it goes on by itself.
                Some(Errno::INPROGRESS | Errno::INTR) => Ok(Started::InProgress(socket)),
                Some(Errno::AGAIN) if self.address.is_unix() => Ok(Started::Busy),
                _ => Err(error),
            },
        }
    }

    pub(super) fn failed(self, error: io::Error) -> Attempt {
        Attempt { address: self.name, error }
    }
}

fn failed(endpoint: &Endpoint, errno: Errno) -> ConnectError {
    let attempt = Attempt { address: endpoint.to_string(), error: errno.into() };
    ConnectError::Failed { endpoint: endpoint.to_string(), attempts: vec![attempt] }
}
