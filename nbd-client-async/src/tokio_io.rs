//! Streams in the terms of tokio.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nbd_session::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::into_stream::{IntoStream, Stream};

/// A stream in the terms of tokio: see [`IntoStream`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TokioIo;

impl<S> IntoStream<TokioIo> for S
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn into_stream(self) -> Result<Stream, Error> {
        Compat(self).into_stream()
    }
}

/// A stream of tokio's, in the terms of futures-io.
struct Compat<S>(S);

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
