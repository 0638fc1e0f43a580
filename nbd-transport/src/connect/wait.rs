//! Connecting in a thread that may wait: the steps of a [`Dial`], done by poll(2).

use super::deadline::Deadline;
use super::dial::{Dial, DialStep};
use super::error::ConnectError;
use super::lookup::look_up;
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use nbd_proto::Direction;
use rustix::event::{PollFd, PollFlags};
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
            DialStep::Resolve { host, port } if deadline.is_never() => {
                dial.resolved(look_up(&host, port));
            }
            // The system's resolver cannot be told when to stop: it is left to itself then.
            DialStep::Resolve { host, port } => dial.look_up(host, port),
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

fn events(direction: Direction) -> PollFlags {
    let read = if direction.contains(Direction::READ) { PollFlags::IN } else { PollFlags::empty() };
    let write =
        if direction.contains(Direction::WRITE) { PollFlags::OUT } else { PollFlags::empty() };
    read | write
}
