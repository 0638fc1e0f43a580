//! What lies between a protocol machine and its transport.

use nbd_proto::io::{DriveError, IoMode, Progress};
use nbd_proto::{Direction, Machine, PayloadSink, PayloadSource};
use std::io::{self, Read, Write};

/// Why moving bytes between a machine and its transport failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The protocol ended the connection.
    #[error(transparent)]
    Protocol(#[from] nbd_proto::Error),
}

impl From<DriveError> for LinkError {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Io(error) => Self::Io(error),
            DriveError::Protocol(error) => Self::Protocol(error),
        }
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => error,
            LinkError::Protocol(error) => error.into(),
        }
    }
}

/// Carries bytes between a machine and a transport, in clear.
///
/// Every adapter moves its bytes through here, whatever it waits with, so that what stands
/// between machine and transport is decided in one place.
#[derive(Debug, Default)]
pub struct Link {
    _private: (),
}

impl Link {
    /// Bytes go as they are.
    #[must_use]
    pub const fn plain() -> Self {
        Self { _private: () }
    }

    /// Reads once.
    ///
    /// # Errors
    /// When the transport fails, and when the peer's bytes end the connection.
    pub fn read<M, R, S>(
        &mut self,
        machine: &mut M,
        io: &mut R,
        sink: &mut S,
        mode: IoMode,
    ) -> Result<Progress, LinkError>
    where
        M: Machine,
        R: Read + ?Sized,
        S: PayloadSink,
    {
        Ok(machine.read_from(io, sink, mode)?)
    }

    /// Writes once.
    ///
    /// # Errors
    /// When the transport fails, and when the source lacks the payload that is due.
    pub fn write<M, W, P>(
        &mut self,
        machine: &mut M,
        io: &mut W,
        source: &P,
        mode: IoMode,
    ) -> Result<Progress, LinkError>
    where
        M: Machine,
        W: Write + ?Sized,
        P: PayloadSource + ?Sized,
    {
        Ok(machine.write_to(io, source, mode)?)
    }

    /// What to wait for on the transport.
    #[must_use]
    pub fn direction<M: Machine>(&self, machine: &M) -> Direction {
        machine.get_direction()
    }
}
