//! An export as a stream of bytes with a position, before a runtime gives it its traits.

use std::fmt;
use std::future::Future;
use std::io::{self, SeekFrom};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Bytes, BytesMut};
use nbd_proto::TransmissionFlags;
use nbd_session::OldError as Error;

use crate::client::Client;

/// The most that is read or written at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// A position in an export, and reading and writing there in the form of polls.
///
/// This is what the adapters' `ExportFile` is made of. Ranges that do not fall on the
/// export's minimum block size are read as whole blocks, and written by reading the
/// blocks around them first. Reading ends, and writing stops, at the end of the export.
///
/// A write is accepted when the server has acknowledged it, so dropping the view loses
/// nothing that was accepted. A write that is given up before may have taken place.
/// One task may read from it while another one writes, as the halves of a split stream do:
/// one thing is under way at a time, and both are woken when it is done.
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
    waiting: Arc<Waiting>,
    /// How reads, writes and flushes ended that nobody was told of yet.
    read_failed: Option<io::Error>,
    written: Option<Written>,
    flush_failed: Option<io::Error>,
    /// Something may have been written that this view has not flushed.
    unflushed: bool,
}

/// What is under way, at a time.
enum Work {
    Read(Job<BytesMut>),
    Write(Job<()>, u64, Bytes),
    Flush(Job<()>),
}

type Job<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A write that is over, for whoever comes back to be told so.
struct Written {
    offset: u64,
    data: Bytes,
    result: io::Result<()>,
}

/// Who polls the view until the work under way is done: the last one to read from it, and
/// the last one to write to it.
#[derive(Default)]
struct Waiting(Mutex<[Option<Waker>; 2]>);

#[derive(Clone, Copy)]
enum Side {
    Reads,
    Writes,
}

impl Waiting {
    fn wakers(&self) -> MutexGuard<'_, [Option<Waker>; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, side: Side, waker: &Waker) {
        let [reads, writes] = &mut *self.wakers();
        let place = match side {
            Side::Reads => reads,
            Side::Writes => writes,
        };
        if !place.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }

    /// Wakes the other one; this one is there.
    fn wake_beside(&self, side: Side) {
        let [reads, writes] = mem::take(&mut *self.wakers());
        let other = match side {
            Side::Reads => writes,
            Side::Writes => reads,
        };
        if let Some(waker) = other {
            waker.wake();
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let wakers = mem::take(&mut *self.wakers());
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
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
        Self {
            client,
            position: 0,
            ahead: BytesMut::new(),
            work: None,
            waiting: Arc::default(),
            read_failed: None,
            written: None,
            flush_failed: None,
            // By others, before there was this view.
            unflushed: true,
        }
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
    /// When the server fails the command, or the connection fails.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_work(Side::Reads, cx));
        if self.ahead.is_empty() && self.read_failed.is_none() {
            let length = self.clamp(want);
            if length > 0 {
                let blocks = Blocks::around(&self.client, self.position, length);
                let client = self.client.clone();
                let job = async move { read(&client, &blocks).await };
                self.work = Some(Work::Read(Box::pin(job)));
                ready!(self.poll_work(Side::Reads, cx));
            }
        }
        if let Some(error) = self.read_failed.take() {
            return Poll::Ready(Err(error));
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

    /// Writes at the position; returns how much was written, which is nothing at the end
    /// of the export.
    ///
    /// While it is pending nothing is accepted, and the same bytes are to be given again;
    /// others begin another write once this one is over.
    ///
    /// ```
    /// # use nbd_client_async::ExportView;
    /// # async fn example(view: &mut ExportView) -> std::io::Result<()> {
    /// let written = std::future::poll_fn(|cx| view.poll_write(cx, b"hello")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the export is read-only, the server fails the command, or the connection fails.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_work(Side::Writes, cx));
        let length = self.clamp(data.len());
        let Some(data) = data.get(..length).filter(|data| !data.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        // The outcome for a caller who went away is for nobody.
        let position = self.position;
        self.written.take_if(|one| one.offset != position || one.data != data);
        if self.written.is_none() {
            self.begin_write(data);
            ready!(self.poll_work(Side::Writes, cx));
        }
        let Some(Written { result, .. }) = self.written.take() else {
            return Poll::Ready(Ok(0));
        };
        result?;
        // The other half may have read since.
        self.ahead.clear();
        self.position += length as u64;
        Poll::Ready(Ok(length))
    }

    fn begin_write(&mut self, data: &[u8]) {
        let blocks = Blocks::around(&self.client, self.position, data.len());
        let (client, data) = (self.client.clone(), Bytes::copy_from_slice(data));
        let copy = data.clone();
        let job = async move { write(&client, &blocks, copy).await };
        self.unflushed = true;
        // Not what is there any more, whoever waits for the end of this.
        self.ahead.clear();
        self.work = Some(Work::Write(Box::pin(job), self.position, data));
    }

    /// Has the server make durable what was written, if it knows how to. A view through
    /// which nothing was written since its last flush is ready at once.
    ///
    /// ```
    /// # use nbd_client_async::ExportView;
    /// # async fn example(view: &mut ExportView) -> std::io::Result<()> {
    /// std::future::poll_fn(|cx| view.poll_flush(cx)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the flush failed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_work(Side::Writes, cx));
        let can = self.client.flags().contains(TransmissionFlags::SEND_FLUSH);
        if can && self.unflushed && self.flush_failed.is_none() {
            let client = self.client.clone();
            self.work = Some(Work::Flush(Box::pin(async move { client.flush().await })));
            ready!(self.poll_work(Side::Writes, cx));
        }
        Poll::Ready(self.flush_failed.take().map_or(Ok(()), Err))
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
            self.read_failed = None;
            if let Some(Work::Read(_)) = self.work {
                self.work = None;
                // Somebody may have waited for it.
                Arc::clone(&self.waiting).wake();
            }
        }
        Ok(position)
    }

    /// Waits for what is under way, whoever began it, and puts down what came of it.
    fn poll_work(&mut self, side: Side, cx: &Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(());
        };
        self.waiting.set(side, cx.waker());
        let waker = Waker::from(Arc::clone(&self.waiting));
        let cx = &mut Context::from_waker(&waker);
        match work {
            Work::Read(job) => match ready!(job.as_mut().poll(cx)) {
                Ok(data) => self.ahead = data,
                Err(error) => self.read_failed = Some(error.into()),
            },
            Work::Write(job, offset, data) => {
                let result = ready!(job.as_mut().poll(cx)).map_err(io::Error::from);
                self.written = Some(Written { offset: *offset, data: mem::take(data), result });
            }
            Work::Flush(job) => match ready!(job.as_mut().poll(cx)) {
                Ok(()) => self.unflushed = false,
                Err(error) => self.flush_failed = Some(error.into()),
            },
        }
        self.work = None;
        self.waiting.wake_beside(side);
        Poll::Ready(())
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

async fn write(client: &Client, blocks: &Blocks, data: Bytes) -> Result<(), Error> {
    if blocks.whole == blocks.length {
        client.write_at(blocks.start, data).await?;
    } else {
        let mut around = client.read_at(blocks.start, blocks.whole).await?;
        if let Some(to) = around.get_mut(blocks.skip..blocks.skip + blocks.length) {
            to.copy_from_slice(&data);
        }
        client.write_at(blocks.start, around).await?;
    }
    Ok(())
}

impl fmt::Debug for ExportView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportView")
            .field("client", &self.client)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
