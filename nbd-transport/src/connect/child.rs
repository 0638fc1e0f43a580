//! Programs that speak NBD on their standard input and output.

use super::{ConnectError, Deadline, Step};
use crate::command::CommandSpec;
use crate::connection::{Connection, Stream};
use crate::endpoint::Endpoint;
use crate::process::PeerProcess;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a program that closed its socket may take to end, so that its status can be told.
const ENDING: Duration = Duration::from_secs(3);

pub(super) fn connect(
    endpoint: &Endpoint,
    spec: &CommandSpec,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    let system = |error| ConnectError::system(endpoint, error);
    let (ours, theirs) = UnixStream::pair().map_err(system)?;
    let stream = Stream::unix(OwnedFd::from(ours).into()).map_err(system)?;
    let mut command = spec.to_command();
    let their_input = theirs.try_clone().map_err(system)?;
    command.stdin(OwnedFd::from(their_input)).stdout(OwnedFd::from(theirs));
    let peer = PeerProcess::spawn(command)
        .map_err(|error| ConnectError::Spawn { program: spec.program().to_owned(), error })?;
    await_greeting(endpoint, spec, stream, peer, deadline)
}

/// Waits until the program has sent something. Servers speak first (proto.md, "Newstyle
/// negotiation" and "Oldstyle negotiation"), and a program that cannot start never does.
pub(super) fn await_greeting(
    endpoint: &Endpoint,
    spec: &CommandSpec,
    stream: Stream,
    peer: PeerProcess,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    let system = |error| ConnectError::system(endpoint, error);
    let mut fds = vec![PollFd::new(&stream, PollFlags::IN)];
    if !deadline.poll(&mut fds).map_err(system)? {
        return Err(ConnectError::timed_out(endpoint, Step::Greeting));
    }
    match peek(&stream) {
        Ok(1..) => Ok(Connection { stream, peer: Some(peer) }),
        Ok(0) | Err(Errno::CONNRESET) => Err(closed(endpoint, spec, peer, deadline)),
        Err(error) => Err(system(error.into())),
    }
}

/// The error for a program that is gone, or at least its socket.
pub(super) fn closed(
    endpoint: &Endpoint,
    spec: &CommandSpec,
    mut peer: PeerProcess,
    deadline: Deadline<'_>,
) -> ConnectError {
    match peer.wait(deadline.min(Deadline::after(ENDING))) {
        Ok(status) => ConnectError::PeerClosed {
            program: spec.program().to_owned(),
            status,
            stderr: peer.stderr_tail(),
        },
        Err(error) => ConnectError::system(endpoint, error),
    }
}

/// How many bytes can be read, of one.
fn peek(stream: &Stream) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| {
        let mut byte = [0; 1];
        recv(stream, &mut byte, RecvFlags::PEEK).map(|(read, _)| read)
    })
}
