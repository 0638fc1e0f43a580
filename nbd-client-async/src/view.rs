//! An export as a stream of bytes with a position, before a runtime gives it its traits.

use std::fmt;
use std::future::Future;
use std::io::{self, SeekFrom};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::BytesMut;
use nbd_proto::CommandType;
use nbd_session::Error;
use nbd_session::file::{FileView, Next, Send as ToSend};

use crate::buffer::Buffer;
use crate::calls::Exchange;
use crate::client::Client;
use crate::pending::{Handle, Pending};

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
    view: FileView,
    /// The command under way.
    call: Option<Pending<Arc<Handle>, Exchange>>,
    waiting: Arc<Waiting>,
}

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
        let view = FileView::new(client.export(), client.max_request());
        Self { client, view, call: None, waiting: Arc::default() }
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
        ready!(self.poll_next(Side::Reads, cx, |view| view.read(want)))?;
        Poll::Ready(Ok(self.view.ahead(want)))
    }

    /// Moves the position over bytes that [`poll_fill`](Self::poll_fill) gave.
    ///
    /// ```
    /// # fn example(view: &mut nbd_client_async::ExportView) {
    /// view.consume(0);
    /// # }
    /// ```
    pub fn consume(&mut self, count: usize) {
        self.view.consume(count);
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
        self.poll_next(Side::Writes, cx, |view| view.write(data))
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
        self.poll_next(Side::Writes, cx, FileView::flush)
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
        let position = self.view.seek(to)?;
        if self.view.take_stale() {
            self.call = None;
            // Somebody may have waited for it.
            Arc::clone(&self.waiting).wake();
        }
        Ok(position)
    }

    /// Waits until the view has something to tell.
    fn poll_next<T>(
        &mut self,
        side: Side,
        cx: &Context<'_>,
        mut step: impl FnMut(&mut FileView) -> Result<Next<T>, Error>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_call(side, cx));
            match step(&mut self.view)? {
                Next::Ready(told) => return Poll::Ready(Ok(told)),
                Next::Send(send) => self.send(send),
                _ => return Poll::Pending,
            }
        }
    }

    fn send(&mut self, send: ToSend) {
        let ToSend { command, payload, .. } = send;
        let buffer = match (command.kind, payload) {
            (_, Some(data)) => Buffer::Write(data),
            (CommandType::Read, None) => {
                Buffer::BytesMut(BytesMut::zeroed(command.length as usize))
            }
            (_, None) => Buffer::None,
        };
        self.call = Some(self.client.keep(Exchange::new(command, buffer)));
    }

    /// Waits for what is under way.
    fn poll_call(&mut self, side: Side, cx: &Context<'_>) -> Poll<()> {
        while let Some(call) = &mut self.call {
            self.waiting.set(side, cx.waker());
            let waker = Waker::from(Arc::clone(&self.waiting));
            let result = ready!(Pin::new(&mut *call).poll(&mut Context::from_waker(&waker)));
            let data = call.exchange.data();
            self.call = None;
            match self.view.completed(result, data) {
                Some(send) => self.send(send),
                None => self.waiting.wake_beside(side),
            }
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for ExportView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportView")
            .field("client", &self.client)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}
