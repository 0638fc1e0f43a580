//! Why a connection could not be made.

use rustix::io::Errno;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use thiserror::Error;

/// What was going on when time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Asking for the addresses of the host.
    Resolve,
    /// Starting a program.
    Spawn,
    /// Connecting the socket.
    Connect,
    /// Waiting for the first byte of a program that was started.
    Greeting,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolving the host name",
            Self::Spawn => "starting the program",
            Self::Connect => "connecting",
            Self::Greeting => "waiting for the program to greet",
        })
    }
}

/// One address that was tried in vain.
#[derive(Debug, Error)]
#[error("{address}: {error}")]
#[non_exhaustive]
pub struct Attempt {
    /// The address.
    pub address: String,
    /// Why it failed.
    pub error: io::Error,
}

/// A connection that could not be made. The text is complete: there is no further source.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host name could not be resolved.
    #[error("cannot resolve host {host:?}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// Every address failed.
    #[error("cannot connect to {endpoint}: {}", list(attempts))]
    Failed {
        /// What was to be connected to.
        endpoint: String,
        /// What became of each address, in the order of failing.
        attempts: Vec<Attempt>,
    },
    /// The deadline passed.
    #[error("cannot connect to {endpoint}: timed out while {step}{}", and_list(attempts))]
    TimedOut {
        /// What was to be connected to.
        endpoint: String,
        /// What was going on.
        step: Step,
        /// Addresses which had failed by then.
        attempts: Vec<Attempt>,
    },
    /// Nobody wanted the connection any more: see
    /// [`Endpoint::connect_unless`](crate::Endpoint::connect_unless).
    #[error("connecting to {endpoint} was given up")]
    GivenUp {
        /// What was to be connected to.
        endpoint: String,
    },
    /// The path of a Unix socket does not fit into a socket address.
    #[error(
        "socket path {path:?} has {len} bytes, too long for a socket: use a shorter or relative one"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// A program could not be started.
    #[error("cannot start {program:?}: {error}")]
    Spawn {
        /// The program.
        program: OsString,
        /// What the system said.
        error: io::Error,
    },
    /// A program closed the connection, usually by ending, before it spoke NBD.
    #[error(
        "{program:?} closed the connection before it spoke NBD{}{}",
        ended(*status),
        wrote(stderr)
    )]
    PeerClosed {
        /// The program.
        program: OsString,
        /// How it ended; `None` when it is still running.
        status: Option<ExitStatus>,
        /// The last it wrote to a captured standard error.
        stderr: String,
    },
    /// A host or user name which `ssh` could take for an option or hand to a shell.
    #[error("the {part} {value:?} starts with \"-\" or holds a character special to a shell")]
    SshUnsafe {
        /// Which part.
        part: &'static str,
        /// The text given.
        value: String,
    },
    /// The socket handed over cannot be used.
    #[error("the socket handed over is not a connected stream: {error}")]
    Socket {
        /// What the system said.
        error: io::Error,
    },
    /// The system refused something it usually grants: a socket, a thread, a directory.
    #[error("cannot prepare to connect to {endpoint}: {error}")]
    System {
        /// What was to be connected to.
        endpoint: String,
        /// What the system said.
        error: io::Error,
    },
}

impl ConnectError {
    /// The errno that a C interface would report. For several addresses it is that of the first
    /// which failed.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Resolve { .. } => Errno::HOSTUNREACH.raw_os_error(),
            Self::Failed { attempts, .. } => {
                attempts.first().map_or(Errno::HOSTUNREACH.raw_os_error(), |a| raw(&a.error))
            }
            Self::TimedOut { .. } => Errno::TIMEDOUT.raw_os_error(),
            Self::GivenUp { .. } => Errno::CANCELED.raw_os_error(),
            Self::PathTooLong { .. } => Errno::NAMETOOLONG.raw_os_error(),
            Self::SshUnsafe { .. } => Errno::INVAL.raw_os_error(),
            Self::PeerClosed { .. } => Errno::NOTCONN.raw_os_error(),
            Self::Spawn { error, .. } | Self::Socket { error } | Self::System { error, .. } => {
                raw(error)
            }
        }
    }
}

fn raw(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}

fn list(attempts: &[Attempt]) -> String {
    match attempts {
        [] => "the host has no address".to_owned(),
        // The address of a single attempt would repeat the endpoint.
        [only] => only.error.to_string(),
        _ => attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

fn and_list(attempts: &[Attempt]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        text.push_str("; ");
        text.push_str(&attempt.to_string());
    }
    text
}

fn ended(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return String::new();
    };
    // What a shell says for a program it cannot run.
    let hint = match status.code() {
        Some(126) => " (not executable?)",
        Some(127) => " (not found?)",
        _ => "",
    };
    format!(" and ended: {status}{hint}")
}

fn wrote(stderr: &str) -> String {
    match stderr.trim_end() {
        "" => String::new(),
        text => format!("; it wrote: {text}"),
    }
}
