//! The extents of a whole range, however many commands they take.

use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::RangeBounds;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use nbd_proto::ContextId;
use nbd_session::Error;
use nbd_session::extents::{ExtentWalk, PlacedExtent, Segment};

use crate::buffer::Buffer;
use crate::calls::Exchange;
use crate::client::Client;
use crate::pending::{Handle, Pending};

/// Extents of one meta context in order, as a [`Stream`]. Made by [`Client::extents`].
///
/// Several commands are in flight at any time. Neighbours of equal status are one, and nothing
/// reaches beyond the range. After an error it ends.
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
#[derive(Debug)]
pub struct Extents(pub(crate) ContextExtents);

/// What several meta contexts say of a range, in order, as a [`Stream`]. Made by
/// [`Client::context_extents`].
///
/// As [`Extents`], cut where any of the contexts changes.
///
/// ```
/// # use nbd_client_async::{Client, Error};
/// # async fn example(client: &Client) -> Result<(), Error> {
/// let mut walk = client.context_extents(&["base:allocation"], 0..client.size())?;
/// while let Some(segment) = walk.next().await {
///     println!("{:?}", segment?);
/// }
/// # Ok(()) }
/// ```
pub struct ContextExtents {
    client: Client,
    walk: ExtentWalk,
    /// What was asked, by the walk's number.
    calls: Vec<(u64, Pending<Arc<Handle>, Exchange>)>,
}

impl Client {
    /// All extents of a range in bytes, `..` being the whole export, for one meta context, in
    /// order, neighbours of equal status merged, asked for as far as they are taken.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let mut extents = client.extents("base:allocation", 0..client.size())?;
    /// while let Some(placed) = extents.next().await {
    ///     let placed = placed?;
    ///     println!("{} bytes at {}", placed.extent.length, placed.offset);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the context was not asked for
    /// ([`meta_context`](nbd_session::ConnectOptions::meta_context)) or not granted.
    pub fn extents(&self, context: &str, range: impl RangeBounds<u64>) -> Result<Extents, Error> {
        Ok(Extents(self.context_extents(&[context], range)?))
    }

    /// What several meta contexts say of a range, in order and cut where any of them changes;
    /// of all contexts that were granted, when none is named.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let mut walk = client.context_extents(&[], 0..client.size())?;
    /// while let Some(segment) = walk.next().await {
    ///     let segment = segment?;
    ///     println!("{} bytes at {}: {:?}", segment.length, segment.offset, segment.statuses);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When one of the contexts was not granted, or none was.
    pub fn context_extents(
        &self,
        contexts: &[&str],
        range: impl RangeBounds<u64>,
    ) -> Result<ContextExtents, Error> {
        let walk = ExtentWalk::new(&self.negotiated(), contexts, range)?;
        Ok(ContextExtents { client: self.clone(), walk, calls: Vec::new() })
    }
}

impl Extents {
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
}

impl Stream for Extents {
    type Item = Result<PlacedExtent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let segment = ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(segment.map(|segment| segment.map(|segment| segment.placed())))
    }
}

impl ContextExtents {
    /// The contexts, in the order of [`Segment::statuses`].
    ///
    /// ```
    /// # fn example(walk: &nbd_client_async::ContextExtents) {
    /// println!("{} contexts", walk.contexts().len());
    /// # }
    /// ```
    #[must_use]
    pub fn contexts(&self) -> &[ContextId] {
        self.walk.contexts()
    }

    /// The next segment; `None` after the last one.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let first = client.context_extents(&[], 0..4096)?.next().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::block_status`].
    pub async fn next(&mut self) -> Option<Result<Segment, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ContextExtents {
    type Item = Result<Segment, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            while let Some(query) = this.walk.next_query() {
                let mut exchange = Exchange::new(query.command, Buffer::None);
                exchange.contexts = this.walk.asked_contexts().map(<[_]>::to_vec);
                this.calls.push((query.number, this.client.keep(exchange)));
            }
            if let Poll::Ready(next) = this.walk.next_segment() {
                if !matches!(next, Some(Ok(_))) {
                    // Of no use any more.
                    this.calls.clear();
                }
                return Poll::Ready(next);
            }
            let waiting = this.calls.len();
            this.calls.retain_mut(|(number, call)| {
                let Poll::Ready(result) = Pin::new(&mut *call).poll(cx) else { return true };
                this.walk.answered(*number, result.map(|()| &*call.exchange.extents));
                false
            });
            if this.calls.len() == waiting {
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for ContextExtents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextExtents")
            .field("contexts", &self.contexts())
            .field("in_flight", &self.calls.len())
            .finish_non_exhaustive()
    }
}
