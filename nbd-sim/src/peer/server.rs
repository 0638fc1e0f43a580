//! A running server.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;

use super::builder::READY_WITHIN;
use super::process::{Process, wait_until};
use super::{PeerError, Scratch, ServerBuilder};

/// The file in the scratch directory that gets all the server prints.
pub(super) const LOG: &str = "log";

/// Where a server listens.
#[derive(Debug)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A real server, ready for connections. Dropping it ends the process with all
/// its children (SIGTERM, then SIGKILL), reaps it, and removes its directory.
#[derive(Debug)]
pub struct Server {
    // Order matters: the process must be gone before its directory goes.
    process: Process,
    endpoint: Endpoint,
    scratch: Scratch,
    builder: ServerBuilder,
}

impl Server {
    pub(super) const fn new(
        process: Process,
        endpoint: Endpoint,
        scratch: Scratch,
        builder: ServerBuilder,
    ) -> Self {
        Self { process, endpoint, scratch, builder }
    }

    /// Waits until a client can connect, the server's early end, or the deadline.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), PeerError> {
        let ended = wait_until(READY_WITHIN, || {
            let status = self.try_wait();
            let ready = || self.builder.is_ready(&self.endpoint, &self.scratch);
            (status.is_some() || ready()).then_some(status)
        });
        let program = self.process.program().to_owned();
        match ended {
            Some(None) => {
                if let Some(address) = self.builder.printed_address(&self.scratch)
                    && let Endpoint::Tcp(told) = &mut self.endpoint
                {
                    *told = address;
                }
                Ok(())
            }
            Some(Some(status)) => Err(PeerError::Exited { program, status, log: self.log() }),
            None => Err(PeerError::NotReady { program, waited: READY_WITHIN, log: self.log() }),
        }
    }

    /// The NBD URI of the default export.
    #[must_use]
    pub fn uri(&self) -> String {
        self.export_uri("")
    }

    /// The NBD URI of the export called `name`.
    #[must_use]
    pub fn export_uri(&self, name: &str) -> String {
        let name = percent_encode(name);
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let path = percent_encode(&path.to_string_lossy());
                format!("nbd+unix:///{name}?socket={path}")
            }
            Endpoint::Tcp(address) => format!("nbd://{address}/{name}"),
        }
    }

    /// The Unix socket, unless the server listens on TCP.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.endpoint {
            Endpoint::Unix(path) => Some(path),
            Endpoint::Tcp(_) => None,
        }
    }

    /// The TCP address, unless the server listens on a Unix socket.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self.endpoint {
            Endpoint::Unix(_) => None,
            Endpoint::Tcp(address) => Some(address),
        }
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The server's own directory, which `{dir}` stands for in its arguments.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// All that the server has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.scratch.join(LOG))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Freezes the server (SIGSTOP): it keeps its connections and, from this call on,
    /// answers nothing.
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`] when the server has ended.
    pub fn stop(&self) -> Result<(), PeerError> {
        self.process.freeze()
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// [`PeerError::Io`] when the server has ended.
    pub fn cont(&self) -> Result<(), PeerError> {
        self.process.signal(Signal::CONT)
    }

    /// Kills the server at once (SIGKILL), as a crash would, and reaps it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the same server at the same address once more, after [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// Those of [`ServerBuilder::start`].
    pub fn start_again(&mut self) -> Result<(), PeerError> {
        self.kill();
        self.process = self.builder.start_again(&self.endpoint, &self.scratch)?;
        self.wait_until_ready()
    }

    /// How the server ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.process.try_wait()
    }

    /// Waits until the server ends by itself, for at most `limit`.
    pub fn wait_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait_within(limit)
    }
}

/// Escapes all but the unreserved characters of RFC 3986 and the slash.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
