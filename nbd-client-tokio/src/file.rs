//! An export as a file, in tokio's terms.

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nbd_client_async::{Client, ExportView};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

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
/// done at once when nothing was written through this file since the last one. Shutting down is
/// flushing.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use nbd_client_tokio::{ExportFile, connect};
/// use std::io::SeekFrom;
/// use tokio::io::{AsyncReadExt, AsyncSeekExt};
///
/// let mut file = ExportFile::new(connect("nbd://localhost").await?);
/// let mut signature = [0; 2];
/// file.seek(SeekFrom::Start(510)).await?;
/// file.read_exact(&mut signature).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ExportFile {
    view: ExportView,
}

impl ExportFile {
    /// A view that starts at offset 0.
    ///
    /// ```no_run
    /// # fn example(client: nbd_client_tokio::Client) {
    /// let file = nbd_client_tokio::ExportFile::new(client.clone());
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
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.view.poll_fill(cx, buf.remaining()))?;
        buf.put_slice(bytes);
        let count = bytes.len();
        self.view.consume(count);
        Poll::Ready(Ok(()))
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

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.view.poll_flush(cx)
    }
}

impl AsyncSeek for ExportFile {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        self.view.seek(to).map(drop)
    }

    fn poll_complete(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(self.view.seek(SeekFrom::Current(0)))
    }
}
