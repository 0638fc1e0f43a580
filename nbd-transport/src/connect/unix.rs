//! Unix domain sockets, by path and by abstract name.

use super::{ConnectError, Deadline, Step};
use crate::connection::{Connection, Stream};
use crate::endpoint::Endpoint;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(super) fn connect_path(
    endpoint: &Endpoint,
    path: &Path,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    let bytes = path.as_os_str().as_bytes();
    // An empty path, or one that begins with NUL, would address something else.
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(ConnectError::failed(endpoint, Errno::INVAL.into()));
    }
    connect(endpoint, path, deadline)
}

pub(super) fn connect_abstract(
    endpoint: &Endpoint,
    name: &[u8],
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    if !cfg!(target_os = "linux") {
        return Err(ConnectError::failed(endpoint, Errno::NOTSUP.into()));
    }
    if name.is_empty() {
        return Err(ConnectError::failed(endpoint, Errno::INVAL.into()));
    }
    let bytes = [b"\0", name].concat();
    connect(endpoint, Path::new(OsStr::from_bytes(&bytes)), deadline)
}

fn connect(
    endpoint: &Endpoint,
    path: &Path,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    // Making the address fails for one reason only: the path is too long.
    let address = SockAddr::unix(path).map_err(|_| ConnectError::PathTooLong {
        path: path.to_owned(),
        len: path.as_os_str().len(),
    })?;
    let system = |error| ConnectError::system(endpoint, error);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(system)?;
    loop {
        // A server whose backlog is full makes connect wait. A non-blocking connect would fail
        // with nothing to poll for; the send timeout bounds a blocking one.
        socket.set_write_timeout(deadline.slice()).map_err(system)?;
        match socket.connect(&address) {
            Ok(()) => break,
            Err(error) if !is_too_soon(&error) => {
                return Err(ConnectError::failed(endpoint, error));
            }
            Err(_) if deadline.has_passed() => {
                return Err(ConnectError::timed_out(endpoint, Step::Connect));
            }
            Err(_) => {}
        }
    }
    socket.set_write_timeout(None).map_err(system)?;
    Stream::unix(socket).map(Connection::new).map_err(system)
}

/// Whether the call ended before anything was decided.
fn is_too_soon(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
