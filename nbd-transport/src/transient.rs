//! Which faults may pass, so that connecting again is worth trying.
//!
//! | tried again | not tried again |
//! |---|---|
//! | nobody listens there (any more, or yet) | access to a socket is denied |
//! | the host or the network cannot be reached | a program cannot be started |
//! | time was up | certificates, keys, alerts |
//! | this system is short of descriptors, memory or processes | |
//!
//! A server that does not accept a client's key closes the connection in the middle of the TLS
//! handshake, as one does that is being stopped: the two cannot be told apart, and are tried
//! again.

use crate::ConnectError;
use crate::tls::TlsError;
use rustix::io::Errno;
use std::io::{self, ErrorKind};

impl ConnectError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            // The name was found once; whom to ask is not there, perhaps.
            Self::Resolve { .. } | Self::TimedOut { .. } | Self::PeerClosed { .. } => true,
            Self::Failed { attempts, .. } => {
                attempts.iter().any(|one| may_answer(&one.error) || is_shortage(&one.error))
            }
            Self::Spawn { error, .. } | Self::System { error, .. } => is_shortage(error),
            Self::GivenUp { .. }
            | Self::PathTooLong { .. }
            | Self::SshUnsafe { .. }
            | Self::Socket { .. } => false,
        }
    }
}

/// Whether the system may grant later what it has refused.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN)
    )
}

/// Whether somebody may listen there later.
fn may_answer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotFound
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
            | ErrorKind::TimedOut
            | ErrorKind::WouldBlock
            | ErrorKind::Interrupted
    )
}

impl TlsError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::ClosedInHandshake { .. }
            | Self::ClosedAfterHandshake { .. }
            | Self::Truncated => true,
            Self::NotConfigured
            | Self::ServerName(_)
            | Self::NoServerName
            | Self::Certificate { .. }
            | Self::Alert { .. }
            | Self::Misbehaved { .. }
            | Self::Incompatible { .. }
            | Self::NotByKey { .. }
            | Self::Library(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Step};

    fn failed(kinds: &[ErrorKind]) -> ConnectError {
        let attempt = |kind: &ErrorKind| Attempt { address: String::new(), error: (*kind).into() };
        ConnectError::Failed {
            endpoint: String::new(),
            attempts: kinds.iter().map(attempt).collect(),
        }
    }

    #[test]
    fn nobody_there_is_tried_again() {
        for kind in [
            ErrorKind::ConnectionRefused,
            ErrorKind::NotFound,
            ErrorKind::NetworkUnreachable,
            ErrorKind::TimedOut,
        ] {
            assert!(failed(&[kind]).is_transient(), "{kind}");
            assert!(failed(&[ErrorKind::PermissionDenied, kind]).is_transient(), "{kind}");
        }
        let (endpoint, step, attempts) = (String::new(), Step::Connect, Vec::new());
        assert!(ConnectError::TimedOut { endpoint, step, attempts }.is_transient());
        let (program, status, stderr) = ("nbdkit".into(), None, String::new());
        assert!(ConnectError::PeerClosed { program, status, stderr }.is_transient());
        let (host, error) = ("disk".to_owned(), io::Error::other("no resolver"));
        assert!(ConnectError::Resolve { host, error }.is_transient());
    }

    #[test]
    fn a_shortage_passes() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN] {
            let (endpoint, program) = (String::new(), "nbdkit".into());
            for error in [
                ConnectError::System { endpoint: endpoint.clone(), error: errno.into() },
                ConnectError::Spawn { program, error: errno.into() },
                ConnectError::Failed {
                    endpoint,
                    attempts: vec![Attempt { address: String::new(), error: errno.into() }],
                },
            ] {
                assert!(error.is_transient(), "{error}");
            }
        }
    }

    #[test]
    fn what_stays_as_it_is_is_not() {
        let error = || io::Error::from(ErrorKind::PermissionDenied);
        for error in [
            failed(&[ErrorKind::PermissionDenied]),
            failed(&[ErrorKind::InvalidInput]),
            failed(&[]),
            ConnectError::Spawn { program: "nbdkit".into(), error: error() },
            ConnectError::PathTooLong { path: "/".into(), len: 200 },
            ConnectError::GivenUp { endpoint: String::new() },
            ConnectError::SshUnsafe { part: "host", value: "-x".to_owned() },
            ConnectError::Socket { error: error() },
            ConnectError::System { endpoint: String::new(), error: error() },
        ] {
            assert!(!error.is_transient());
        }
    }
}
