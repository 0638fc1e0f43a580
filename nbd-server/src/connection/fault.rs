//! Why a connection ended before its time.

use std::io;
use std::time::Duration;

use nbd_proto::{ApiMisuse, Error};
use nbd_session::LinkError;
use nbd_transport::tls::TlsError;

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client broke the protocol.
    #[error(transparent)]
    Protocol(#[from] Error),
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client vanished.
    #[error("the client left while it had requests open")]
    Gone,
    /// The negotiation came to a halt.
    #[error("the client said nothing for {} s during the negotiation", .0.as_secs())]
    Silent(Duration),
    /// The negotiation led nowhere.
    #[error("the client had not chosen an export after {} s", .0.as_secs())]
    Undecided(Duration),
    /// Others came that were quicker to choose an export.
    #[error("the client had chosen no export, and others wait")]
    Displaced,
    /// The client sent a part of a request, or took a part of a reply, and no more.
    #[error("the client neither sent nor took anything for {} s in the middle of a request", .0.as_secs())]
    Stalled(Duration),
    /// The client kept memory that others needed.
    #[error("the client was too slow to send or take what it asked for, and memory was short")]
    MemoryShort,
    /// The server stops, and the client does not take its replies, or its export does not come
    /// back from a request.
    #[error("the server stopped before the client had its last replies")]
    Abandoned,
}

impl ConnectionError {
    /// Whether the client is told why, by an alert, which takes the socket a moment to deliver.
    pub(crate) const fn is_told(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl From<ApiMisuse> for ConnectionError {
    fn from(misuse: ApiMisuse) -> Self {
        Self::Protocol(misuse.into())
    }
}

impl From<LinkError> for ConnectionError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => Self::Io(error),
            LinkError::Protocol(error) => Self::Protocol(error),
            LinkError::Tls(error) => Self::Tls(error),
            other => Self::Io(other.into()),
        }
    }
}
