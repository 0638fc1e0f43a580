//! What leads to a server: a socket of the system's, or any stream of the caller's.

use std::fmt;

use futures_io::{AsyncRead, AsyncWrite};
use nbd_session::Error;
use nbd_transport::Connection;

/// What leads to a server: see [`IntoStream`].
pub struct Stream(pub(crate) Kind);

pub(crate) enum Kind {
    /// One of the system's sockets.
    Os(Connection),
    /// One of which nothing is known.
    Own(Box<dyn Duplex>),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// Both directions of a stream of the caller's.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for S {}

/// What a connection can be made over: a [`Connection`], a socket of the standard library's, or
/// any stream in the terms of futures-io, or with feature `tokio` of tokio: a TLS stream, a
/// tunnel, one end of a pipe in memory. The compiler finds the `Terms`.
///
/// ```
/// use nbd_client_async::{Client, Connector, Error, IntoStream, Runtime};
///
/// async fn connect<T>(
///     connector: Connector<impl Runtime + Clone>,
///     stream: impl IntoStream<T>,
/// ) -> Result<Client, Error> {
///     connector.connect_over(stream).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a connection cannot be made over `{Self}`",
    note = "it takes a `Connection`, a socket of the standard library's, or a stream that is \
            `AsyncRead + AsyncWrite + Send + Unpin + 'static` in the terms of futures-io or, with \
            feature `tokio` or in nbd-client-tokio, of tokio",
    note = "a stream of compio's stays with its thread: give `std::net::TcpStream` or \
            `std::os::unix::net::UnixStream` in its place"
)]
pub trait IntoStream<Terms> {
    /// Takes it over.
    ///
    /// # Errors
    /// When it is not connected, or of no use for other reasons that the system knows.
    fn into_stream(self) -> Result<Stream, Error>;
}

/// A stream in the terms of the system: see [`IntoStream`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct System;

/// A stream in the terms of futures-io: see [`IntoStream`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FuturesIo;

impl IntoStream<System> for Connection {
    fn into_stream(self) -> Result<Stream, Error> {
        Ok(Stream(Kind::Os(self)))
    }
}

impl IntoStream<System> for std::net::TcpStream {
    fn into_stream(self) -> Result<Stream, Error> {
        Connection::from_socket(self.into())?.into_stream()
    }
}

impl IntoStream<System> for std::os::unix::net::UnixStream {
    fn into_stream(self) -> Result<Stream, Error> {
        Connection::from_socket(self.into())?.into_stream()
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> IntoStream<FuturesIo> for S {
    fn into_stream(self) -> Result<Stream, Error> {
        Ok(Stream(Kind::Own(Box::new(self))))
    }
}
