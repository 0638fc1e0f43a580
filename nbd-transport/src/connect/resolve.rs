//! Names to addresses, within the deadline.

use super::{ConnectError, Deadline, Step};
use crate::endpoint::Endpoint;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

/// All addresses of `host`, in the order the system prefers.
///
/// The system's resolver cannot be told when to stop. With a deadline it therefore works in a
/// thread of its own, which is left to itself when time runs out and ends when the resolver does.
pub(super) fn resolve(
    endpoint: &Endpoint,
    host: &str,
    port: u16,
    deadline: Deadline,
) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let answer = match deadline.remaining() {
        None => look_up(host, port),
        Some(left) => {
            let (sender, receiver) = mpsc::channel();
            let name = host.to_owned();
            thread::Builder::new()
                .name("nbd-resolver".to_owned())
                .spawn(move || {
                    // Nobody listens any more once the deadline has passed.
                    let _ = sender.send(look_up(&name, port));
                })
                .map_err(|error| ConnectError::system(endpoint, error))?;
            match receiver.recv_timeout(left) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(ConnectError::timed_out(endpoint, Step::Resolve));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    Err(io::Error::other("the resolver's thread ended without an answer"))
                }
            }
        }
    };
    answer.map_err(|error| ConnectError::Resolve { host: host.to_owned(), error })
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}
