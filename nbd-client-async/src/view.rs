//! An export as a stream of bytes with a position, before a runtime gives it its traits.

use std::fmt;
use std::future::Future;
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use nbd_proto::TransmissionFlags;
use nbd_session::OldError as Error;

use crate::client::Client;

/// The most that is read or written at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// What a view is doing. A finished read brings what it read.
type Work = Pin<Box<dyn Future<Output = Result<BytesMut, Error>> + Send>>;

/// A position in an export, and reading and writing there in the form of polls.
///
/// This is what the adapters' `ExportFile` is made of. Ranges that do not fall on the
/// export's minimum block size are read as whole blocks, and written by reading the
/// blocks around them first. Reading ends, and writing stops, at the end of the export.
///
/// A write is accepted at once and takes place in the background; the next call waits
/// for it and tells if it failed. Only a flush that succeeded says that all went well.
///
/// ```
/// # use nbd_client_async::{Client, ExportView};
/// # async fn example(client: Client) -> std::io::Result<()> {
/// let mut view = ExportView::new(client);
/// view.seek(std::io::SeekFrom::Start(510))?;
/// let length = std::future::poll_fn(|cx| view.poll_fill(cx, 2).map_ok(<[u8]>::len)).await?;
/// view.consume(length);
/// # Ok(()) }
/// ```
pub struct ExportView {
    client: Client,
    position: u64,
    /// What was read at the position and is not consumed.
    ahead: BytesMut,
    work: Option<Work>,
    doing: Doing,
}

/// What the work under way is, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Read,
    Write,
    Flush,
}

impl ExportView {
    /// A view that starts at offset 0.
    ///
    /// ```
    /// # use nbd_client_async::{Client, ExportView};
    /// # fn example(client: &Client) {
    /// let view = ExportView::new(client.clone());
    /// # }
    /// ```
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, position: 0, ahead: BytesMut::new(), work: None, doing: Doing::Read }
    }

    /// The client behind it.
    ///
    /// ```
    /// # fn example(view: &nbd_client_async::ExportView) {
    /// println!("{} bytes", view.client().size());
    /// # }
    /// ```
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Bytes at the position: at least one and at most `want`, none at the end of the
    /// export. They stay until they are [consumed](Self::consume).
    ///
    /// ```
    /// # use nbd_client_async::ExportView;
    /// # async fn example(view: &mut ExportView) -> std::io::Result<()> {
    /// let first = std::future::poll_fn(|cx| {
    ///     view.poll_fill(cx, 1).map_ok(|bytes| bytes.first().copied())
    /// });
    /// println!("{:?}", first.await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server fails the command, the connection fails, or an earlier write
    /// failed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_work(cx))?;
        if self.ahead.is_empty() {
            let length = self.clamp(want);
            if length > 0 {
                let blocks = Blocks::around(&self.client, self.position, length);
                let client = self.client.clone();
                self.begin(Doing::Read, async move { read(&client, &blocks).await });
                ready!(self.poll_work(cx))?;
            }
        }
        let length = self.ahead.len().min(want);
        Poll::Ready(Ok(self.ahead.get(..length).unwrap_or_default()))
    }

    /// Moves the position over bytes that [`poll_fill`](Self::poll_fill) gave.
    ///
    /// ```
    /// # fn example(view: &mut nbd_client_async::ExportView) {
    /// view.consume(0);
    /// # }
    /// ```
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.ahead.len());
        drop(self.ahead.split_to(count));
        self.position += count as u64;
    }

    /// Accepts bytes to be written at the position; returns how many, none at the end of
    /// the export.
    ///
    /// ```
    /// # use nbd_client_async::ExportView;
    /// # async fn example(view: &mut ExportView) -> std::io::Result<()> {
    /// let written = std::future::poll_fn(|cx| view.poll_write(cx, b"hello")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When an earlier write failed.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_work(cx))?;
        let length = self.clamp(data.len());
        let Some(data) = data.get(..length).filter(|data| !data.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let blocks = Blocks::around(&self.client, self.position, length);
        let (client, data) = (self.client.clone(), Bytes::copy_from_slice(data));
        self.begin(Doing::Write, async move { write(&client, &blocks, data).await });
        self.position += length as u64;
        // A start; how it ends is for the next call.
        if let Poll::Ready(Err(error)) = self.poll_work(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(length))
    }

    /// Waits for the last write, then has the server make it durable, if it knows how to.
    ///
    /// ```
    /// # use nbd_client_async::ExportView;
    /// # async fn example(view: &mut ExportView) -> std::io::Result<()> {
    /// std::future::poll_fn(|cx| view.poll_flush(cx)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When a write or the flush failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // One that was begun and not waited for is as good.
        let begun = self.doing == Doing::Flush && self.work.is_some();
        ready!(self.poll_work(cx))?;
        if !begun && self.client.flags().contains(TransmissionFlags::SEND_FLUSH) {
            let client = self.client.clone();
            self.begin(Doing::Flush, async move { client.flush().await.map(|()| BytesMut::new()) });
            ready!(self.poll_work(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Moves the position; it may be beyond the end of the export. Returns the new one.
    ///
    /// ```
    /// # fn example(view: &mut nbd_client_async::ExportView) -> std::io::Result<()> {
    /// let size = view.seek(std::io::SeekFrom::End(0))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When it would be negative.
    pub fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.client.size().checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        let position = position.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek to a negative position")
        })?;
        if position != self.position {
            self.position = position;
            self.ahead.clear();
            if self.doing == Doing::Read {
                self.work = None;
            }
        }
        Ok(position)
    }

    fn begin(
        &mut self,
        doing: Doing,
        work: impl Future<Output = Result<BytesMut, Error>> + Send + 'static,
    ) {
        self.doing = doing;
        self.ahead.clear();
        self.work = Some(Box::pin(work));
    }

    /// Waits for what is under way.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(Ok(()));
        };
        let result = ready!(work.as_mut().poll(cx));
        self.work = None;
        self.ahead = result?;
        Poll::Ready(Ok(()))
    }

    /// At most as much as one command carries, and as the export holds.
    fn clamp(&self, length: usize) -> usize {
        let room = self.client.size().saturating_sub(self.position);
        let block = self.client.minimum_block() as usize;
        // Room for the blocks around an unaligned range.
        let max = self.client.max_request().min(CHUNK);
        let max = max.saturating_sub(2 * block).max(block);
        length.min(max).min(usize::try_from(room).unwrap_or(usize::MAX))
    }
}

/// A range and the whole blocks around it.
struct Blocks {
    start: u64,
    whole: usize,
    /// Bytes before the range.
    skip: usize,
    /// Bytes of the range.
    length: usize,
}

impl Blocks {
    fn around(client: &Client, offset: u64, length: usize) -> Self {
        let block = u64::from(client.minimum_block());
        let skip = offset % block;
        let start = offset - skip;
        let whole = (skip + length as u64).next_multiple_of(block);
        // The tail of an export that is no multiple of its own block size cannot be
        // asked for in whole blocks.
        let whole = whole.min(client.size().saturating_sub(start));
        Self { start, whole: whole as usize, skip: skip as usize, length }
    }
}

async fn read(client: &Client, blocks: &Blocks) -> Result<BytesMut, Error> {
    let mut data = client.read_at(blocks.start, blocks.whole).await?;
    let mut data = data.split_off(blocks.skip.min(data.len()));
    data.truncate(blocks.length);
    Ok(data)
}

async fn write(client: &Client, blocks: &Blocks, data: Bytes) -> Result<BytesMut, Error> {
    if blocks.whole == blocks.length {
        client.write_at(blocks.start, data).await?;
    } else {
        let mut around = client.read_at(blocks.start, blocks.whole).await?;
        if let Some(to) = around.get_mut(blocks.skip..blocks.skip + blocks.length) {
            to.copy_from_slice(&data);
        }
        client.write_at(blocks.start, around).await?;
    }
    Ok(BytesMut::new())
}

impl fmt::Debug for ExportView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportView")
            .field("client", &self.client)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
