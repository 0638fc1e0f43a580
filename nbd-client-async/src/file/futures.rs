//! An export as a file, in the terms of futures-io.

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncBufRead, AsyncRead, AsyncSeek, AsyncWrite};

use super::{AHEAD, ExportFile};

impl AsyncRead for ExportFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(self.poll_fill(cx, buf.len()))?;
        let count = bytes.len();
        if let Some(to) = buf.get_mut(..count) {
            to.copy_from_slice(bytes);
        }
        self.view.consume(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncBufRead for ExportFile {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().poll_fill(cx, AHEAD)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.view.consume(count);
    }
}

impl AsyncWrite for ExportFile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sync(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sync(cx)
    }
}

impl AsyncSeek for ExportFile {
    fn poll_seek(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        to: SeekFrom,
    ) -> Poll<io::Result<u64>> {
        Poll::Ready(self.seek(to))
    }
}
