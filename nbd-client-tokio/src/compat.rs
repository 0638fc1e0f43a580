//! Streams in tokio's terms.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Any stream of tokio's kind, for
/// [`Connector::connect_stream`](nbd_client_async::Connector::connect_stream): a TLS stream, a
/// tunnel, one end of a `tokio::io::duplex`.
///
/// ```no_run
/// # async fn example() -> Result<(), nbd_client_tokio::Error> {
/// use nbd_client_tokio::{Compat, ConnectOptions, Connector};
///
/// let stream = tokio::net::TcpStream::connect("localhost:10809").await?;
/// let connector = Connector::new(ConnectOptions::new());
/// let client = connector.connect_stream(Compat(stream)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Compat<S>(
    /// The stream.
    pub S,
);

impl<S: AsyncRead + Unpin> futures_io::AsyncRead for Compat<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl<S: AsyncWrite + Unpin> futures_io::AsyncWrite for Compat<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
