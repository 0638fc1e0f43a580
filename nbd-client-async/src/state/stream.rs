//! What is known of the stream to a server.

use nbd_proto::io::IoMode;

use crate::runtime::{OsSocket, Socket};

/// A stream to a server.
pub(crate) enum Stream {
    /// One of the system's sockets.
    Os(Box<dyn OsSocket>),
    /// One of which nothing is known.
    Any(Box<dyn Socket>),
}

impl Stream {
    pub(crate) fn socket(&mut self) -> &mut dyn Socket {
        match self {
            Self::Os(socket) => &mut **socket,
            Self::Any(socket) => &mut **socket,
        }
    }

    /// Whether vectored calls are real.
    pub(crate) const fn mode(&self) -> IoMode {
        match self {
            Self::Os(_) => IoMode::Vectored,
            Self::Any(_) => IoMode::Single,
        }
    }
}
