//! A stream to a server, and how it closes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use nbd_proto::io::IoMode;

use crate::runtime::{Socket, Watched};

/// A stream to a server.
pub(crate) enum Stream {
    /// One of the system's sockets.
    Os(Box<dyn Watched>),
    /// One of which nothing is known.
    Any(Box<dyn Socket>),
}

impl Stream {
    /// Whether vectored calls are real.
    pub(crate) const fn mode(&self) -> IoMode {
        match self {
            Self::Os(_) => IoMode::Vectored,
            Self::Any(_) => IoMode::Single,
        }
    }

    /// Tells the other end that nothing more will be sent.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Os(socket) => {
                Poll::Ready(Ok(rustix::net::shutdown(&*socket, rustix::net::Shutdown::Write)?))
            }
            Self::Any(stream) => Pin::new(&mut **stream).poll_close(cx),
        }
    }
}
