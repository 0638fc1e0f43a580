//! An export as a file: a stream of bytes with a position.

mod traits;

use std::fmt;
use std::future::Future;
use std::io::{self, SeekFrom};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use nbd_proto::CommandType;
use nbd_session::Error;
use nbd_session::file::{FileView, Next, Send as ToSend};

use crate::buffer::Buffer;
use crate::calls::Exchange;
use crate::client::Client;
use crate::pending::{Handle, Pending};

/// `AsyncRead`, `AsyncBufRead`, `AsyncWrite` and `AsyncSeek` on an export: those of futures-io,
/// and with feature `tokio` those of tokio.
///
/// A flush covers what was written through this file: it is the export's flush, where the server
/// has one, and is done at once when nothing was written since the last one. Closing, or shutting
/// down, is flushing. A write is accepted when the server has acknowledged it, so dropping the
/// file loses nothing that was accepted; one that is given up before may have taken place.
///
/// Ranges that do not fall on the export's minimum block size are read as whole blocks, and
/// written by reading the blocks around them first. Reading ends, and writing stops, at the end
/// of the export. What is read is read ahead for `AsyncBufRead` only, 64 KiB at a time. One task
/// may read while another one writes, as the halves of a split stream do: one thing is under way
/// at a time, and both are woken when it is done. Both move the same position: which comes first is
/// open, and a write that is done may be made once more behind what was read meanwhile. For
/// reading and writing at an offset, without the position, there is [`client`](Self::client).
///
/// ```
/// use futures_io::AsyncBufRead;
/// use nbd_client_async::{Client, ExportFile};
/// use std::{future::poll_fn, pin::Pin};
///
/// async fn peek(client: Client) -> std::io::Result<()> {
///     let mut file = ExportFile::new(client);
///     let bytes = poll_fn(|cx| Pin::new(&mut file).poll_fill_buf(cx).map_ok(<[u8]>::len));
///     println!("{} bytes", bytes.await?);
///     Ok(())
/// }
/// ```
pub struct ExportFile {
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
        if let Some(place) = self.wakers().get_mut(side as usize) {
            place.get_or_insert_with(|| waker.clone()).clone_from(waker);
        }
    }

    /// Wakes the other one; this one is there.
    fn wake_beside(&self, side: Side) {
        let mut wakers = mem::take(&mut *self.wakers());
        if let Some(own) = wakers.get_mut(side as usize) {
            *own = None;
        }
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let wakers = mem::take(&mut *self.wakers());
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl ExportFile {
    /// A file that starts at offset 0.
    ///
    /// ```
    /// # use nbd_client_async::{Client, ExportFile};
    /// # fn example(client: &Client) {
    /// let file = ExportFile::new(client.clone());
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
    /// # async fn example(file: &nbd_client_async::ExportFile) -> std::io::Result<()> {
    /// let sector = file.client().read(0, 512).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The client, without the file. What is under way is given up.
    ///
    /// ```
    /// # async fn example(file: nbd_client_async::ExportFile) -> std::io::Result<()> {
    /// file.into_inner().disconnect().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn into_inner(self) -> Client {
        self.client
    }

    /// Bytes at the position: at least one and at most `want`, none at the end of the
    /// export. They stay until they are consumed.
    fn poll_fill(&mut self, cx: &Context<'_>, want: usize) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_next(Side::Reads, cx, |view| view.read(want)))?;
        Poll::Ready(Ok(self.view.ahead(want)))
    }

    /// While it is pending nothing is accepted, and the same bytes are to be given again;
    /// others begin another write once this one is over.
    fn poll_put(&mut self, cx: &Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_next(Side::Writes, cx, |view| view.write(data))
    }

    fn poll_sync(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.poll_next(Side::Writes, cx, FileView::flush)
    }

    /// Moves the position; it may be beyond the end of the export. Returns the new one.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
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
            (CommandType::Read, None) => Buffer::Late(command.length as usize),
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
            let data = mem::take(&mut call.exchange.buffer).give_back().unwrap_or_default();
            self.call = None;
            match self.view.completed(result, data) {
                Some(send) => self.send(send),
                None => self.waiting.wake_beside(side),
            }
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for ExportFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportFile")
            .field("client", &self.client)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}
