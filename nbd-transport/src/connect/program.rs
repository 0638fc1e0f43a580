//! Programs to be started, and where they are met.
//!
//! ```text
//!   command      our end ── socket pair ── standard input and output of the program
//!
//!   activation   fresh directory, mode 0700 ── sock ── listener ── descriptor 3 of the program
//!                                               ▲
//!                                               └── connect
//! ```

use super::error::ConnectError;
use crate::command::{Activation, CommandSpec};
use crate::endpoint::Endpoint;
use crate::process::{OwnDirectory, PeerProcess, Spawn};
use socket2::Socket;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// `LISTEN_PID` must be the program's own id, which only the new process knows: a shell sets it
/// and then becomes the program. The listener comes as standard input and moves to descriptor 3.
/// Standard output joins standard error, for the caller's own may carry data.
const SCRIPT: &str = r#"exec 3<&0 </dev/null >&2; export LISTEN_PID=$$; exec "$@""#;

/// Where a program is met once it runs.
#[derive(Debug)]
pub(super) enum Meeting {
    /// At the other end of this socket.
    Pair(Socket),
    /// At a socket it listens on.
    Listener { directory: OwnDirectory, path: PathBuf },
}

/// A program that runs, and what it is called.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) program: OsString,
    pub(super) peer: PeerProcess,
}

/// A program that speaks on its standard input and output.
pub(super) fn on_socket_pair(spec: &CommandSpec) -> io::Result<(Meeting, Spawn)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = spec.to_command();
    command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs));
    Ok((Meeting::Pair(OwnedFd::from(ours).into()), Spawn::new(spec, command)))
}

/// A program that takes its listening socket by systemd's convention.
pub(super) fn by_activation(
    endpoint: &Endpoint,
    activation: &Activation,
) -> Result<(Meeting, Spawn), ConnectError> {
    let system = |error| ConnectError::System { endpoint: endpoint.to_string(), error };
    let directory = OwnDirectory::new().map_err(system)?;
    let path = directory.path().join("sock");
    // Of all that can fail here only the length of the path is found before the system is asked.
    let listener = UnixListener::bind(&path).map_err(|error| match error.raw_os_error() {
        None => ConnectError::PathTooLong { len: path.as_os_str().len(), path: path.clone() },
        Some(_) => system(error),
    })?;
    let spec = activation.command();
    let mut command = spec.to_scripted_command(SCRIPT);
    command
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", activation.name().to_string())
        .stdin(OwnedFd::from(listener));
    Ok((Meeting::Listener { directory, path }, Spawn::new(spec, command)))
}
