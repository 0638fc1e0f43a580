//! Names to addresses, within the deadline.

use super::{ConnectError, Deadline, Step};
use crate::endpoint::Endpoint;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, pipe};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;

/// All addresses of `host`, in the order the system prefers.
///
/// The system's resolver cannot be told when to stop. With a deadline it therefore works in a
/// thread of its own, which is left to itself when time runs out and ends when the resolver does.
/// It has one end of a pipe meanwhile.
pub(super) fn resolve(
    endpoint: &Endpoint,
    host: &str,
    port: u16,
    deadline: Deadline<'_>,
) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let answer = if deadline.is_never() {
        look_up(host, port)
    } else {
        let system = |error| ConnectError::system(endpoint, error);
        let (through, end) = pipe().map_err(system)?;
        let name = host.to_owned();
        let look_up = move || {
            let _end = end;
            look_up(&name, port)
        };
        let resolver = thread::Builder::new().name("nbd-resolver".to_owned());
        let resolver = resolver.spawn(look_up).map_err(system)?;
        if !deadline.poll(&mut vec![PollFd::new(&through, PollFlags::IN)]).map_err(system)? {
            return Err(ConnectError::timed_out(endpoint, Step::Resolve));
        }
        let ended = || Err(io::Error::other("the resolver's thread ended without an answer"));
        resolver.join().unwrap_or_else(|_| ended())
    };
    answer.map_err(|error| ConnectError::Resolve { host: host.to_owned(), error })
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}
