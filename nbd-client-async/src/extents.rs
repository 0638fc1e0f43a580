//! The extents of a whole range, however many replies they take.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use nbd_proto::{Command, ContextId, Extent, HeaderStyle, SubmitError};
use nbd_session::OldError as Error;

use crate::buffer::Buffer;
use crate::calls::Matter;
use crate::client::Client;
use crate::pending::{Handle, Pending};

/// The longest range one block status can ask about in compact headers, kept a
/// multiple of any block size.
const MAX_COMPACT: u64 = (u32::MAX as u64 + 1) - (1 << 16);

/// Extents of one meta context in order, as a [`Stream`]. Made by [`Client::extents`].
///
/// Neighbours of equal status are one, and nothing reaches beyond the range. After
/// an error it ends.
///
/// ```
/// # use nbd_client_async::{Client, Error};
/// # async fn example(client: &Client) -> Result<(), Error> {
/// let mut data = 0;
/// let mut extents = client.extents("base:allocation", 0..client.size())?;
/// while let Some(placed) = extents.next().await {
///     let extent = placed?.extent;
///     data += if extent.is_hole() { 0 } else { extent.length };
/// }
/// # Ok(()) }
/// ```
pub struct Extents {
    client: Client,
    context: ContextId,
    /// Where the next extent starts.
    next: u64,
    /// Up to where extents have been asked for and received.
    known: u64,
    end: u64,
    ready: VecDeque<Extent>,
    call: Option<Pending<Arc<Handle>, Matter>>,
}

/// One extent and where it is.
///
/// ```
/// use nbd_client_async::{PlacedExtent, proto::Extent};
///
/// let extent = Extent { length: 4096, status: Extent::HOLE | Extent::ZERO };
/// let placed = PlacedExtent { offset: 8192, extent };
/// assert!(placed.extent.is_hole());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedExtent {
    /// Where it starts, in bytes from the start of the export.
    pub offset: u64,
    /// Its length and status.
    pub extent: Extent,
}

impl Extents {
    pub(crate) fn new(client: &Client, context: &str, range: Range<u64>) -> Result<Self, Error> {
        let command = Command::block_status(range.start, range.end.saturating_sub(range.start));
        let context = client
            .context(context)
            .ok_or(Error::Submit { command, error: SubmitError::NoMetaContext })?;
        Ok(Self {
            client: client.clone(),
            context,
            next: range.start,
            known: range.start,
            end: range.end,
            ready: VecDeque::new(),
            call: None,
        })
    }

    /// The next extent; `None` after the last one.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let first = client.extents("base:allocation", 0..4096)?.next().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::block_status`].
    pub async fn next(&mut self) -> Option<Result<PlacedExtent, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn ask(&self) -> Pending<Arc<Handle>, Matter> {
        let left = self.end - self.known;
        let length = match self.client.negotiated().headers {
            HeaderStyle::Extended => left,
            HeaderStyle::Simple | HeaderStyle::Structured => left.min(MAX_COMPACT),
        };
        let command = Command::block_status(self.known, length);
        self.client.keep(Matter::new(command, Buffer::None))
    }

    fn take_in(&mut self, mut matter: Matter) {
        let mut left = matter.command.length;
        for (context, mut extent) in matter.account().extents {
            extent.length = extent.length.min(left);
            if context != self.context || extent.length == 0 {
                continue;
            }
            left -= extent.length;
            self.known += extent.length;
            match self.ready.back_mut() {
                Some(last) if last.status == extent.status => last.length += extent.length,
                _ => self.ready.push_back(extent),
            }
        }
    }
}

impl Stream for Extents {
    type Item = Result<PlacedExtent, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // The last one known may go on in the next reply.
        while this.ready.len() < 2 && this.known < this.end {
            if this.call.is_none() {
                this.call = Some(this.ask());
            }
            let Some(call) = &mut this.call else { break };
            let result = ready!(Pin::new(&mut *call).poll(cx));
            let matter = mem::replace(&mut call.matter, Matter::nothing());
            this.call = None;
            if let Err(error) = result {
                this.end = this.known;
                this.ready.clear();
                return Poll::Ready(Some(Err(error)));
            }
            this.take_in(matter);
        }
        Poll::Ready(this.ready.pop_front().map(|extent| {
            let offset = this.next;
            this.next += extent.length;
            Ok(PlacedExtent { offset, extent })
        }))
    }
}

impl fmt::Debug for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents")
            .field("next", &self.next)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
