//! Sockets between a virtual machine and its host.

use super::{ConnectError, Deadline};
use crate::connection::Connection;
use crate::endpoint::Endpoint;

#[cfg(target_os = "linux")]
pub(super) fn connect(
    endpoint: &Endpoint,
    cid: u32,
    port: u32,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    use super::Step;
    use crate::connection::Stream;
    use rustix::event::{PollFd, PollFlags};
    use rustix::io::Errno;
    use socket2::{Domain, SockAddr, Socket, Type};

    let system = |error| ConnectError::system(endpoint, error);
    let failed = |error| Err(ConnectError::failed(endpoint, error));
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None).map_err(system)?;
    socket.set_nonblocking(true).map_err(system)?;
    match socket.connect(&SockAddr::vsock(cid, port)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
            let mut fds = vec![PollFd::new(&socket, PollFlags::OUT)];
            if !deadline.poll(&mut fds).map_err(system)? {
                return Err(ConnectError::timed_out(endpoint, Step::Connect));
            }
            match socket.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return failed(error),
            }
        }
        Err(error) => return failed(error),
    }
    socket.set_nonblocking(false).map_err(system)?;
    Ok(Connection::new(Stream::Vsock(socket.into())))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn connect(
    endpoint: &Endpoint,
    _cid: u32,
    _port: u32,
    _deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    Err(ConnectError::failed(endpoint, rustix::io::Errno::NOTSUP.into()))
}
