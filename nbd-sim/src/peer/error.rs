//! Why a server could not be started or a tool did not do its work.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// A failure around a real program. Each message names the program and carries
/// what it printed, so that a failing test explains itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The program is not installed.
    #[error("`{program}` is not installed; it is in the Debian package {package}")]
    Missing {
        /// The program's name.
        program: String,
        /// The Debian package which has it.
        package: &'static str,
    },
    /// Our own program has not been built.
    #[error(
        "no `nbd` program near {looked_in}: run `cargo build -p nbd-cli`, or set NBD_PROGRAM to its path"
    )]
    NotBuilt {
        /// The directory that was searched.
        looked_in: String,
    },
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server ended before it could be used.
    #[error("`{program}` ended ({status}) before it was ready:\n{log}")]
    Exited {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        log: String,
    },
    /// The server runs but did not become usable in time.
    #[error("`{program}` was not ready within {waited:?}:\n{log}")]
    NotReady {
        /// The program's name.
        program: String,
        /// How long it was given.
        waited: Duration,
        /// What it printed.
        log: String,
    },
    /// This kind of server is only offered over a Unix socket here.
    #[error("`{program}` cannot be handed a TCP socket; start it over a Unix socket")]
    NoTcp {
        /// The program's name.
        program: String,
    },
    /// A program does not say in a known way of which version it is.
    #[error("`{program} --version` tells no version:\n{told}")]
    NoVersion {
        /// The program's name.
        program: String,
        /// What it printed.
        told: String,
    },
    /// A tool did not end in time, and was killed.
    #[error("`{program}` did not end within {limit:?} and was killed:\n{output}")]
    TimedOut {
        /// The program's name.
        program: String,
        /// How long it was given.
        limit: Duration,
        /// What it had printed.
        output: String,
    },
    /// A tool reported failure.
    #[error("`{program}` failed ({status}):\n{output}")]
    Failed {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
}

/// Turns an IO error into a [`PeerError::Io`] that says what was being done.
pub(super) fn while_doing(doing: impl Into<String>) -> impl FnOnce(io::Error) -> PeerError {
    move |source| PeerError::Io { doing: doing.into(), source }
}
