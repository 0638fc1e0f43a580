//! What lies between a protocol machine and its transport.

use crate::tls::TlsSession;
use nbd_proto::io::{DriveError, IoMode, Progress};
use nbd_proto::{Direction, Machine, PayloadSink, PayloadSource};
use nbd_transport::tls::stage::{StageError, TlsStage};
use nbd_transport::tls::{TlsError, TlsInfo};
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
    /// TLS failed. The connection is over; it never goes on in clear.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<StageError> for LinkError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Tls(error) => Self::Tls(error),
            StageError::Protocol(error) => Self::Protocol(error),
        }
    }
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
            LinkError::Tls(error @ TlsError::Truncated) => {
                Self::new(io::ErrorKind::UnexpectedEof, error)
            }
            LinkError::Tls(error) => Self::other(error),
        }
    }
}

/// Carries bytes between a machine and a transport, in clear or through TLS.
///
/// Every adapter moves its bytes through here, whatever it waits with, so that what stands
/// between machine and transport is decided in one place.
#[derive(Debug, Default)]
pub struct Link {
    tls: Option<TlsSession>,
}

impl Link {
    /// Bytes go as they are.
    #[must_use]
    pub const fn plain() -> Self {
        Self { tls: None }
    }

    /// From now on bytes go through TLS. To be called once the peers have agreed to it and
    /// everything before it has been sent.
    ///
    /// [`read`](Self::read), [`write`](Self::write) and [`direction`](Self::direction) then drive
    /// the TLS handshake, and no byte reaches the machine until
    /// [`is_handshaking`](Self::is_handshaking) says that it is done and the machine has been told
    /// (`tls_ready`).
    pub fn start_tls(&mut self, stage: Box<dyn TlsStage>) {
        self.tls = Some(TlsSession::new(stage));
    }

    /// Whether the TLS handshake is under way.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsSession::is_handshaking)
    }

    /// Whether bytes go through TLS, from the start of its handshake.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What was agreed on for TLS, once its handshake is done.
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.tls.as_ref().and_then(TlsSession::info)
    }

    /// Whether something has been received that the machine did not take. No poller tells: once
    /// the machine waits for bytes again, read without waiting first. Only under TLS, and only on
    /// a server, whose client has sent one message behind the other.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsSession::is_behind)
    }

    /// Tells the peer that nothing more comes, so that it can tell the end from a truncation;
    /// [`write`](Self::write) sends it. For servers, after the last reply. A client's link does so
    /// by itself when the client disconnects. In clear there is nothing to tell.
    pub fn close(&mut self) {
        if let Some(session) = &mut self.tls {
            session.close();
        }
    }

    /// Takes what the peer may still be told after an error, such as why TLS failed.
    pub fn last_word(&mut self) -> Vec<u8> {
        self.tls.as_mut().map(TlsSession::take_unsent).unwrap_or_default()
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
        match &mut self.tls {
            Some(session) => session.read(machine, io, sink),
            None => Ok(machine.read_from(io, sink, mode)?),
        }
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
        match &mut self.tls {
            Some(session) => session.write(machine, io, source),
            None => Ok(machine.write_to(io, source, mode)?),
        }
    }

    /// What to wait for on the transport.
    #[must_use]
    pub fn direction<M: Machine>(&self, machine: &M) -> Direction {
        match &self.tls {
            Some(session) => session.direction(machine),
            None => machine.get_direction(),
        }
    }
}
