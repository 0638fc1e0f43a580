//! TCP to the first address that answers: "Happy Eyeballs", RFC 8305.
//!
//! ```text
//!   time     0 ms        250 ms       500 ms
//!   v6 #1    SYN ─────────────────────────────▶ (silent)
//!   v4 #1                SYN ── connected: the winner, the others are closed
//!   v6 #2                             never started
//! ```
//!
//! An attempt that fails starts the next at once.

use super::error::Attempt;
use super::{ConnectError, Deadline, Step};
use crate::connection::{Connection, Stream};
use crate::endpoint::Endpoint;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long an attempt runs alone (RFC 8305 section 5, "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

struct Pending {
    address: SocketAddr,
    socket: Socket,
}

pub(super) fn connect(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    let mut queue = interleave(addresses);
    let mut pending: Vec<Pending> = Vec::new();
    let mut failures: Vec<Attempt> = Vec::new();
    let mut next_start = Deadline::after(Duration::ZERO);

    let winner = loop {
        if pending.is_empty() || next_start.has_passed() {
            if let Some(address) = queue.pop_front() {
                match start(address) {
                    Ok(Started::Connected(socket)) => break socket,
                    Ok(Started::InProgress(socket)) => {
                        pending.push(Pending { address, socket });
                        next_start = Deadline::after(STAGGER);
                    }
                    Err(error) => {
                        failures.push(Attempt { address: address.to_string(), error });
                        continue;
                    }
                }
            } else if pending.is_empty() {
                let endpoint = endpoint.to_string();
                return Err(ConnectError::Failed { endpoint, attempts: failures });
            }
        }
        if deadline.has_passed() {
            let (endpoint, step) = (endpoint.to_string(), Step::Connect);
            return Err(ConnectError::TimedOut { endpoint, step, attempts: failures });
        }
        let until = if queue.is_empty() { deadline } else { deadline.min(next_start) };
        let ready = poll(&pending, until).map_err(|error| ConnectError::system(endpoint, error))?;
        let Some(index) = ready else { continue };
        let Pending { address, socket } = pending.remove(index);
        match outcome(&socket) {
            Ok(()) => break socket,
            Err(error) => {
                failures.push(Attempt { address: address.to_string(), error });
                next_start = Deadline::after(Duration::ZERO);
            }
        }
    };
    let stream = Stream::tcp(winner).map_err(|error| ConnectError::system(endpoint, error))?;
    Ok(Connection::new(stream))
}

enum Started {
    Connected(Socket),
    InProgress(Socket),
}

fn start(address: SocketAddr) -> io::Result<Started> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(Started::Connected(socket)),
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
            Ok(Started::InProgress(socket))
        }
        Err(error) => Err(error),
    }
}

/// How a connect in progress ended, once the socket is writable.
fn outcome(socket: &Socket) -> io::Result<()> {
    socket.take_error()?.map_or(Ok(()), Err)
}

/// The first of `pending` to be decided, or `None` when `until` passes.
fn poll(pending: &[Pending], until: Deadline<'_>) -> io::Result<Option<usize>> {
    let mut fds: Vec<PollFd<'_>> =
        pending.iter().map(|one| PollFd::new(&one.socket, PollFlags::OUT)).collect();
    until.poll(&mut fds)?;
    Ok(fds.iter().position(|fd| !fd.revents().is_empty()))
}

/// Alternates between the families, beginning with that of the first address (RFC 8305
/// section 4), and drops repetitions.
fn interleave(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let mut queue: VecDeque<SocketAddr> = VecDeque::with_capacity(addresses.len());
    let mut preferred = addresses.iter().filter(|a| a.is_ipv6() == first_is_v6);
    let mut others = addresses.iter().filter(|a| a.is_ipv6() != first_is_v6);
    loop {
        let pair = [preferred.next(), others.next()];
        if pair == [None, None] {
            return queue;
        }
        for &address in pair.into_iter().flatten() {
            if !queue.contains(&address) {
                queue.push_back(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_beginning_with_the_systems_preference() {
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let wanted = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(interleave(&given), wanted);
        let given = addresses(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"]);
        let wanted = addresses(&["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]);
        assert_eq!(interleave(&given), wanted);
    }

    #[test]
    fn repeated_addresses_are_tried_once() {
        let given = addresses(&["1.1.1.1:1", "1.1.1.1:1", "[::1]:1"]);
        assert_eq!(interleave(&given), addresses(&["1.1.1.1:1", "[::1]:1"]));
        assert!(interleave(&[]).is_empty());
    }

    fn listener(address: &str) -> (std::net::TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Bound but not listening: the port stays closed, and nobody else gets it.
    fn closed_port() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    fn endpoint() -> Endpoint {
        Endpoint::Tcp { host: "host".to_owned(), port: 1 }
    }

    fn peer(connection: Connection) -> SocketAddr {
        match connection.stream {
            Stream::Tcp(stream) => stream.peer_addr().unwrap(),
            other => panic!("not TCP: {other:?}"),
        }
    }

    #[test]
    fn refusal_moves_on_to_the_next_address() {
        let (_listener, good) = listener("[::1]:0");
        let deadline = Deadline::after(Duration::from_secs(20));
        let ((_one, one), (_two, two)) = (closed_port(), closed_port());
        let addresses = [one, two, good];
        assert_eq!(peer(connect(&endpoint(), &addresses, deadline).unwrap()), good);
    }

    #[test]
    fn silence_is_overtaken_by_the_next_address() {
        let (silent, mute) = closed_port();
        silent.listen(0).unwrap();
        // With the backlog full, the system drops what else arrives.
        let mut waiting = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&mute, STAGGER) {
            waiting.push(stream);
        }
        let (_listener, good) = listener("[::1]:0");
        let start = std::time::Instant::now();
        let won = connect(&endpoint(), &[mute, good], Deadline::from(None)).unwrap();
        assert_eq!(peer(won), good);
        assert!(start.elapsed() >= STAGGER);
        // The system itself gives up after two minutes.
        assert!(start.elapsed() < Duration::from_secs(60), "waited for the silent address");
    }

    #[test]
    fn every_failure_is_told() {
        let ((_one, one), (_two, two)) = (closed_port(), closed_port());
        let error = connect(&endpoint(), &[one, two], Deadline::from(None)).unwrap_err();
        let text = error.to_string();
        for address in [one, two] {
            assert!(text.contains(&format!("{address}: Connection refused")), "{text}");
        }
        assert_eq!(error.errno(), Errno::CONNREFUSED.raw_os_error());
        let none = connect(&endpoint(), &[], Deadline::from(None)).unwrap_err();
        assert_eq!(none.to_string(), "cannot connect to host:1: the host has no address");
    }
}
