//! What errors are made from, and what they are made into.

use std::convert::Infallible;
use std::io;

use nbd_proto::{ApiMisuse, CommandFailure, SubmitError};
use nbd_transport::tls::{TlsConfigError, TlsError};
use nbd_transport::{ConnectError, UriError};

use super::{Error, ErrorKind, Fault};
use crate::link::LinkError;
use crate::replay::RecoveryError;

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<UriError> for Error {
    fn from(error: UriError) -> Self {
        Self::new(Fault::Uri(error))
    }
}

impl From<TlsConfigError> for Error {
    fn from(error: TlsConfigError) -> Self {
        Self::new(Fault::TlsConfig(error))
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::new(Fault::Connect(error))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(Fault::Io(error))
    }
}

impl From<nbd_proto::Error> for Error {
    fn from(error: nbd_proto::Error) -> Self {
        Self::new(Fault::Protocol(error))
    }
}

impl From<TlsError> for Error {
    fn from(error: TlsError) -> Self {
        Self::new(Fault::Tls(error))
    }
}

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => error.into(),
            LinkError::Protocol(error) => error.into(),
            LinkError::Tls(error) => error.into(),
        }
    }
}

impl From<CommandFailure> for Error {
    fn from(failure: CommandFailure) -> Self {
        Self::new(Fault::Command(failure))
    }
}

impl From<RecoveryError> for Error {
    fn from(error: RecoveryError) -> Self {
        Self::new(Fault::Recovery(error))
    }
}

impl From<ApiMisuse> for Error {
    fn from(misuse: ApiMisuse) -> Self {
        Self::new(Fault::Misuse(misuse))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.fault() {
            Some(Fault::Io(inner)) => inner.kind(),
            Some(Fault::Protocol(inner)) => inner.errno().into(),
            Some(Fault::Recovery(inner)) => inner.errno().into(),
            Some(Fault::Command(failure)) => failure.error.errno().into(),
            Some(Fault::NotSent { error, .. }) => error.errno().into(),
            None => SubmitError::Full.errno().into(),
            Some(_) => match error.kind() {
                ErrorKind::Usage | ErrorKind::NotSent => io::ErrorKind::InvalidInput,
                ErrorKind::TimedOut => io::ErrorKind::TimedOut,
                _ => io::ErrorKind::NotConnected,
            },
        };
        Self::new(kind, error)
    }
}
