//! Connecting without waiting.
//!
//! | endpoint | how | event |
//! |---|---|---|
//! | IP address | the system connects | the socket is writable |
//! | path | is connected at once | |
//! | all others | a helper thread | its bell is readable |

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use mio::Registry;
use mio::event::Source;
use mio::unix::SourceFd;
use nbd_transport::{Attempt, ConnectError, Connection, Endpoint};
use rustix::io::Errno;
use rustix::net::{getpeername, sockopt};

/// A connection on its way.
#[derive(Debug)]
pub(crate) enum Dial {
    Socket {
        socket: OwnedFd,
        endpoint: Endpoint,
    },
    Helper {
        /// The helper holds the other end, and closes it to ring. When this end is closed
        /// first, the helper gives up.
        bell: UnixStream,
        result: Receiver<Result<Connection, ConnectError>>,
        endpoint: Endpoint,
    },
}

impl Dial {
    pub(crate) fn start(endpoint: &Endpoint, limit: Duration) -> Result<Self, ConnectError> {
        let started = match endpoint {
            Endpoint::Address(address) => tcp(*address),
            Endpoint::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(address) => tcp(SocketAddr::new(address, *port)),
                Err(_) => return Self::help(endpoint, limit),
            },
            Endpoint::Unix(path) => match mio::net::UnixStream::connect(path) {
                // The server's backlog is full, and there is nothing to poll for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Self::help(endpoint, limit);
                }
                started => started.map(OwnedFd::from),
            },
            _ => return Self::help(endpoint, limit),
        };
        let socket = started.map_err(|error| failed(endpoint, error))?;
        let endpoint = endpoint.clone();
        Ok(Self::Socket { socket, endpoint })
    }

    fn help(endpoint: &Endpoint, limit: Duration) -> Result<Self, ConnectError> {
        let system = |error| ConnectError::System { endpoint: endpoint.to_string(), error };
        let (bell, rope) = UnixStream::pair().map_err(system)?;
        let (sender, result) = mpsc::channel();
        let target = endpoint.clone();
        let deadline = Instant::now().checked_add(limit);
        thread::Builder::new()
            .name("nbd-connect".to_owned())
            .spawn(move || {
                // Nobody listens any more once the caller has given up.
                let _ = sender.send(target.connect_unless(rope.as_fd(), deadline));
            })
            .map_err(system)?;
        Ok(Self::Helper { bell, result, endpoint: endpoint.clone() })
    }

    /// The connection, or itself while that is still on its way.
    pub(crate) fn finish(
        self,
        registry: &Registry,
    ) -> Result<Result<Connection, Self>, ConnectError> {
        match self {
            Self::Socket { socket, endpoint } => {
                let outcome = sockopt::socket_error(&socket).and_then(|outcome| outcome);
                match outcome.and_then(|()| getpeername(&socket).map(drop)) {
                    Ok(()) => Ok(Ok(Connection::from_socket(socket)?)),
                    Err(Errno::NOTCONN) => Ok(Err(Self::Socket { socket, endpoint })),
                    Err(error) => Err(failed(&endpoint, error.into())),
                }
            }
            Self::Helper { bell, result, endpoint } => match result.try_recv() {
                Ok(connected) => {
                    // It may not have been registered; then there is nothing to undo.
                    let _ = SourceFd(&bell.as_raw_fd()).deregister(registry);
                    Ok(Ok(connected?))
                }
                Err(TryRecvError::Empty) => Ok(Err(Self::Helper { bell, result, endpoint })),
                Err(TryRecvError::Disconnected) => {
                    let error = io::Error::other("the helper thread ended without an answer");
                    Err(failed(&endpoint, error))
                }
            },
        }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        match self {
            Self::Socket { socket, .. } => socket.as_raw_fd(),
            Self::Helper { bell, .. } => bell.as_raw_fd(),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    mio::net::TcpStream::connect(address).map(OwnedFd::from)
}

fn failed(endpoint: &Endpoint, error: io::Error) -> ConnectError {
    let address = endpoint.to_string();
    ConnectError::Failed { endpoint: address.clone(), attempts: vec![Attempt { address, error }] }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use mio::{Events, Interest, Poll, Token};

    use super::*;
    use crate::connection::State;
    use crate::{Builder, Connection};

    const LONG: Duration = Duration::from_secs(20);

    fn begin(endpoint: &Endpoint) -> (Poll, Connection<Vec<u8>>) {
        let poll = Poll::new().unwrap();
        let mut disk = Builder::new().connect(endpoint).unwrap();
        poll.registry().register(&mut disk, Token(0), Interest::READABLE).unwrap();
        assert_eq!(disk.drive(poll.registry()).unwrap(), State::Connecting);
        (poll, disk)
    }

    /// The helper hangs up, but that is not the server.
    #[test]
    fn what_the_bell_tells_is_not_of_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint::Tcp { host: "localhost".to_owned(), port };
        let (mut poll, mut disk) = begin(&endpoint);
        let mut events = Events::with_capacity(8);
        while disk.state() == State::Connecting {
            poll.poll(&mut events, Some(LONG)).unwrap();
            assert!(!events.is_empty(), "nobody rings");
            events.iter().for_each(|event| disk.note(event));
            disk.drive(poll.registry()).unwrap();
        }
        assert_eq!((disk.state(), disk.peer_is_done), (State::Negotiating, false));
    }
}
