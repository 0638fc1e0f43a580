//! An export as a file, in the terms of futures-io.

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncBufRead, AsyncRead, AsyncSeek, AsyncWrite};
use nbd_client_async::{Client, ExportView};

/// How much is read ahead of a [`AsyncBufRead`] caller, in bytes.
const AHEAD: usize = 64 << 10;

/// [`AsyncRead`], [`AsyncBufRead`], [`AsyncWrite`] and [`AsyncSeek`] on an export.
///
/// Ranges that do not fall on the export's minimum block size are read as whole blocks,
/// and written by reading the blocks around them first. Reading ends, and writing stops,
/// at the end of the export.
///
/// A write is accepted when the server has acknowledged it; one that was not waited for
/// may have taken place. Flushing is the export's flush, where the server has one, and is
/// done at once when nothing was written through this file since the last one. Closing is
/// flushing.
///
/// ```
/// use nbd_client_futures::{Client, ExportFile};
/// use futures_io::AsyncBufRead;
/// use std::{future::poll_fn, pin::Pin};
///
/// async fn peek(client: Client) -> std::io::Result<()> {
///     let mut file = ExportFile::new(client);
///     let bytes = poll_fn(|cx| Pin::new(&mut file).poll_fill_buf(cx).map_ok(<[u8]>::len));
///     println!("{} bytes", bytes.await?);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct ExportFile {
    view: ExportView,
}

impl ExportFile {
    /// A view that starts at offset 0.
    ///
    /// ```no_run
    /// # fn example(client: nbd_client_futures::Client) {
    /// let file = nbd_client_futures::ExportFile::new(client.clone());
    /// # }
    /// ```
    #[must_use]
    pub fn new(client: Client) -> Self {
        let view = ExportView::new(client);
        Self { view }
    }
}

impl AsyncRead for ExportFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(self.view.poll_fill(cx, buf.len()))?;
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
        self.get_mut().view.poll_fill(cx, AHEAD)
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
        self.view.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.view.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.view.poll_flush(cx)
    }
}

impl AsyncSeek for ExportFile {
    fn poll_seek(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        to: SeekFrom,
    ) -> Poll<io::Result<u64>> {
        Poll::Ready(self.view.seek(to))
    }
}
