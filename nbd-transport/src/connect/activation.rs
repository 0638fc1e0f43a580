//! Programs started by systemd socket activation.
//!
//! ```text
//!   fresh directory, mode 0700 ── sock ── listener ── descriptor 3 of the program
//!                                  ▲
//!                                  └── connect
//! ```

use super::child::{await_greeting, closed};
use super::{ConnectError, Deadline, unix};
use crate::command::Activation;
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::process::PeerProcess;
use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

/// `LISTEN_PID` must be the program's own id, which only the new process knows: a shell sets it
/// and then becomes the program. The listener comes as standard input and moves to descriptor 3.
/// Standard output joins standard error, for the caller's own may carry data.
const SCRIPT: &str = r#"exec 3<&0 </dev/null >&2; export LISTEN_PID=$$; exec "$@""#;

pub(super) fn connect(
    endpoint: &Endpoint,
    activation: &Activation,
    deadline: Deadline<'_>,
) -> Result<Connection, ConnectError> {
    let system = |error| ConnectError::system(endpoint, error);
    let directory = tempfile::Builder::new()
        .prefix("nbd-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .map_err(system)?;
    let path = directory.path().join("sock");
    // Of all that can fail here only the length of the path is found before the system is asked.
    let listener = UnixListener::bind(&path).map_err(|error| match error.raw_os_error() {
        None => ConnectError::PathTooLong { len: path.as_os_str().len(), path: path.clone() },
        Some(_) => system(error),
    })?;
    let spec = activation.command();
    let peer = {
        // The command, and with it our copy of the listener, goes at the end of this block: when
        // the program dies nobody must be left to hold a connection nobody accepts.
        let mut command = spec.to_scripted_command(SCRIPT);
        command
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", activation.name().to_string())
            .stdin(OwnedFd::from(listener));
        PeerProcess::spawn(command)
    };
    let mut peer =
        peer.map_err(|error| ConnectError::Spawn { program: spec.program().to_owned(), error })?;
    peer.keep(directory);
    match unix::connect_path(endpoint, &path, deadline) {
        Ok(connection) => await_greeting(endpoint, spec, connection.stream, peer, deadline),
        // The listener went with the program.
        Err(ConnectError::Failed { .. }) => Err(closed(endpoint, spec, peer, deadline)),
        Err(error) => Err(error),
    }
}
