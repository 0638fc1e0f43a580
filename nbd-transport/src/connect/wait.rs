//! Connecting in a thread that may wait: the steps of a [`Dial`], done by poll(2).

use super::deadline::Deadline;
use super::dial::{Dial, DialStep};
use super::error::ConnectError;
use super::lookup::{Lookup, look_up};
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use nbd_proto::Direction;
use rustix::event::{PollFd, PollFlags};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

pub(crate) fn connect(
    endpoint: &Endpoint,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    go(endpoint, deadline).map_err(|error| {
        // Whatever came of it then.
        if deadline.is_stopped() {
            ConnectError::GivenUp { endpoint: endpoint.to_string() }
        } else {
            error
        }
    })
}

fn go(endpoint: &Endpoint, deadline: Deadline<'_>) -> Result<Connection, ConnectError> {
    let system = |error| ConnectError::System { endpoint: endpoint.to_string(), error };
    let mut dial = Dial::new(endpoint.clone()).await_greeting(true);
    if deadline.has_passed() {
        return Err(dial.timed_out());
    }
    loop {
        match dial.advance(Instant::now())? {
            DialStep::Connected(connection) => return Ok(connection),
            DialStep::Resolve { host, port } => {
                match resolve(host, port, deadline).map_err(system)? {
                    Some(answer) => dial.resolved(answer),
                    None => return Err(dial.timed_out()),
                }
            }
            DialStep::Spawn(spawn) => dial.spawned(spawn.start()),
            DialStep::Wait if deadline.has_passed() => return Err(dial.timed_out()),
            DialStep::Wait => {
                let mut fds: Vec<_> = dial
                    .fds()
                    .map(|waited| PollFd::from_borrowed_fd(waited.fd, events(waited.direction)))
                    .collect();
                deadline.min(dial.next_deadline().into()).poll(&mut fds).map_err(system)?;
            }
        }
    }
}

type Answer = io::Result<Vec<SocketAddr>>;

/// The system's resolver cannot be told when to stop. With a deadline it therefore works in a
/// thread, which is left to itself when time runs out. `None` when it does.
fn resolve(host: String, port: u16, deadline: Deadline<'_>) -> io::Result<Option<Answer>> {
    if deadline.is_never() {
        return Ok(Some(look_up(&host, port)));
    }
    let mut lookup = Lookup::start(host, port)?;
    deadline.poll(&mut vec![PollFd::new(&lookup, PollFlags::IN)])?;
    Ok(lookup.answer())
}

fn events(direction: Direction) -> PollFlags {
    let read = if direction.contains(Direction::READ) { PollFlags::IN } else { PollFlags::empty() };
    let write =
        if direction.contains(Direction::WRITE) { PollFlags::OUT } else { PollFlags::empty() };
    read | write
}
