//! Connecting without waiting.
//!
//! | endpoint | how | event |
//! |---|---|---|
//! | IP address | the system connects | the socket is writable |
//! | path | is connected at once | |
//! | all others | a helper thread | its bell is readable |

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
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
        /// The helper holds the other end. Writing to it rings, and so does closing it.
        bell: UnixStream,
        result: Receiver<Result<Connection, ConnectError>>,
        endpoint: Endpoint,
    },
}

/// A connection, and what keeps the thread alive that started the program behind it.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    pub(crate) keeper: Option<UnixStream>,
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
        let (bell, mut rope) = UnixStream::pair().map_err(system)?;
        let (sender, result) = mpsc::channel();
        let target = endpoint.clone();
        let deadline = Instant::now().checked_add(limit);
        thread::Builder::new()
            .name("nbd-connect".to_owned())
            .spawn(move || {
                let connected = target.connect(deadline);
                let program = connected.as_ref().is_ok_and(|one| one.peer.is_some());
                // Nobody listens any more once the caller has given up.
                let _ = sender.send(connected);
                if program && rope.write_all(&[0]).is_ok() {
                    // Linux tells a program which wants to end with its parent about the
                    // end of the thread that started it. So this one stays until
                    // the bell is taken down.
                    let _ = rope.read(&mut [0]);
                }
            })
            .map_err(system)?;
        Ok(Self::Helper { bell, result, endpoint: endpoint.clone() })
    }

    /// The connection, or itself while that is still on its way.
    pub(crate) fn finish(self, registry: &Registry) -> Result<Result<Dialled, Self>, ConnectError> {
        match self {
            Self::Socket { socket, endpoint } => {
                let outcome = sockopt::socket_error(&socket).and_then(|outcome| outcome);
                match outcome.and_then(|()| getpeername(&socket).map(drop)) {
                    Ok(()) => Ok(Ok(Dialled {
                        connection: Connection::from_socket(socket)?,
                        keeper: None,
                    })),
                    Err(Errno::NOTCONN) => Ok(Err(Self::Socket { socket, endpoint })),
                    Err(error) => Err(failed(&endpoint, error.into())),
                }
            }
            Self::Helper { bell, result, endpoint } => match result.try_recv() {
                Ok(connected) => {
                    // It may not have been registered; then there is nothing to undo.
                    let _ = SourceFd(&bell.as_raw_fd()).deregister(registry);
                    let connection = connected?;
                    let keeper = connection.peer.is_some().then_some(bell);
                    Ok(Ok(Dialled { connection, keeper }))
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
