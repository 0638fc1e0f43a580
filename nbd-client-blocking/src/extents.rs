//! The extents of a whole range, however many requests and replies they take.

use std::ops::RangeBounds;
use std::task::Poll;

use nbd_proto::{ContextId, RequestId};
use nbd_session::Error;
use nbd_session::extents::{ExtentWalk, PlacedExtent, Segment, StatusQuery};

use crate::client::Client;
use crate::pipeline::Pipeline;

/// Extents of one meta context in order. Made by [`Client::extents`].
///
/// Neighbours of equal status are one, and nothing reaches beyond the range. After
/// an error it ends.
#[derive(Debug)]
pub struct Extents<'c>(ContextExtents<'c>);

/// What several meta contexts say of a range, in order. Made by [`Client::context_extents`].
///
/// Several requests are in flight at any time. Neighbours of equal statuses are one, and
/// nothing reaches beyond the range. After an error it ends.
#[derive(Debug)]
pub struct ContextExtents<'c> {
    pipeline: Pipeline<'c, Vec<u8>>,
    walk: ExtentWalk,
    /// The walk's numbers of the queries under way, which are few.
    asked: Vec<(RequestId, u64)>,
}

impl Client {
    /// All extents of a range in bytes, `..` being the whole export, for one meta context, in
    /// order, neighbours of equal status merged. Several requests are in flight at any time.
    ///
    /// # Errors
    /// When the context was not asked for
    /// ([`meta_context`](nbd_session::ConnectOptions::meta_context)) or not granted.
    #[doc(alias("nbd_block_status", "nbd_block_status_64"))]
    pub fn extents(
        &mut self,
        context: &str,
        range: impl RangeBounds<u64>,
    ) -> Result<Extents<'_>, Error> {
        self.context_extents(&[context], range).map(Extents)
    }

    /// What several meta contexts say of a range, in order and cut where any of them
    /// changes; of all contexts that were granted, when none is named.
    ///
    /// # Errors
    /// When one of the contexts was not granted.
    #[doc(alias("nbd_block_status", "nbd_block_status_64", "nbd_block_status_filter"))]
    pub fn context_extents(
        &mut self,
        contexts: &[&str],
        range: impl RangeBounds<u64>,
    ) -> Result<ContextExtents<'_>, Error> {
        let walk = ExtentWalk::new(self.negotiated(), contexts, range)?;
        Ok(ContextExtents { pipeline: self.pipeline(), walk, asked: Vec::new() })
    }
}

impl ContextExtents<'_> {
    /// The contexts, in the order of [`Segment::statuses`].
    #[must_use]
    pub fn contexts(&self) -> &[ContextId] {
        self.walk.contexts()
    }

    fn ask(&mut self, query: StatusQuery) {
        if self.asked.is_empty() && self.pipeline.is_full() {
            // Commands that were given up hold all the room. Nothing is in flight.
            drop(self.pipeline.wait());
        }
        match self.pipeline.submit_request(self.walk.request(&query), None) {
            Ok(id) => self.asked.push((id, query.number)),
            Err(rejected) if rejected.error.is_full() && !self.asked.is_empty() => {
                self.walk.not_sent(query.number);
            }
            Err(rejected) => self.walk.answered(query.number, Err(rejected.error)),
        }
    }
}

impl Iterator for ContextExtents<'_> {
    type Item = Result<Segment, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(query) = self.walk.next_query() {
                self.ask(query);
            }
            if let Poll::Ready(next) = self.walk.next_segment() {
                return next;
            }
            let Some(done) = self.pipeline.wait() else { return Some(Err(Error::stopped())) };
            if let Some(place) = self.asked.iter().position(|(id, _)| *id == done.id) {
                let (_, number) = self.asked.swap_remove(place);
                self.walk.answered(number, done.result.map(|()| &done.extents[..]));
            }
        }
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<PlacedExtent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let segment = self.0.next()?;
        Some(segment.map(|segment| segment.placed()))
    }
}
