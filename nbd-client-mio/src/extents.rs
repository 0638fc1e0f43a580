//! The extents of a whole range, however many commands they take.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;

use nbd_proto::{ApiMisuse, ContextId, Extent, RequestId};
use nbd_session::Error;
use nbd_session::extents::{ExtentWalk, Segment, StatusQuery};

use crate::completion::Outcome;
use crate::connection::Connection;
use crate::submitter::WITHDRAWAL;

type Answer = (u64, Result<Vec<(ContextId, Extent)>, Error>);

/// What one or several meta contexts say of a range, in order. Made by
/// [`Connection::extents`].
///
/// Several commands are in flight at any time; none of them shows in
/// [`Connection::next_completion`], which has to be called all the same. Neighbours of equal
/// statuses are one, and nothing reaches beyond the range. When it is dropped, the connection's
/// next drive withdraws what is still in flight.
#[derive(Debug)]
pub struct Extents {
    walk: ExtentWalk,
    /// What is under way, by the walk's numbers.
    asked: Vec<(u64, RequestId)>,
    /// Who withdraws it, and is told to look.
    withdraw: (Sender<RequestId>, Arc<AtomicU8>),
    tell: Sender<Answer>,
    told: Receiver<Answer>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Begins to walk over a range, by the meta contexts of these names, in this order; by all
    /// that were granted, when none is named.
    ///
    /// ```no_run
    /// # use std::task::Poll;
    /// # fn turn(_: &mut nbd_client_mio::Connection<Vec<u8>>) {}
    /// # fn example(mut disk: nbd_client_mio::Connection<Vec<u8>>)
    /// #     -> Result<(), nbd_client_mio::Error> {
    /// let mut extents = disk.extents(&["base:allocation"], 0..1 << 30)?;
    /// loop {
    ///     match extents.next(&mut disk) {
    ///         Poll::Ready(Some(segment)) => println!("{:?}", segment?.placed()),
    ///         Poll::Ready(None) => break,
    ///         Poll::Pending => turn(&mut disk), // poll, drive, take completions
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the connection is not ready, and when a context was not asked for
    /// ([`meta_context`](nbd_session::ConnectOptions::meta_context)) or not granted, or none was.
    pub fn extents(&self, names: &[&str], range: Range<u64>) -> Result<Extents, Error> {
        let facts = self.session.negotiated().ok_or(ApiMisuse::WrongState)?;
        let walk = ExtentWalk::new(facts, names, range)?;
        let (tell, told) = channel();
        let withdraw = (self.withdrawn.0.clone(), Arc::clone(&self.submitter.rung));
        Ok(Extents { walk, asked: Vec::new(), withdraw, tell, told })
    }
}

impl Extents {
    /// The next segment; `None` after the last one, and after an error. While it is pending,
    /// drive the connection it was made by, and come again.
    pub fn next<B: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        disk: &mut Connection<B>,
    ) -> Poll<Option<Result<Segment, Error>>> {
        while let Ok((number, answer)) = self.told.try_recv() {
            self.asked.retain(|(asked, _)| *asked != number);
            match answer {
                Err(error) if error.is_full() => self.walk.not_sent(number),
                answer => self.walk.answered(number, answer.as_deref().map_err(Clone::clone)),
            }
        }
        while let Some(query) = self.walk.next_query() {
            self.ask(query, disk);
        }
        self.walk.next_segment()
    }

    fn ask<B: AsRef<[u8]> + AsMut<[u8]>>(&mut self, query: StatusQuery, disk: &mut Connection<B>) {
        let StatusQuery { number, .. } = query;
        let tell = self.tell.clone();
        let on_done = move |outcome: Outcome<B>| {
            let done = outcome.map_err(Error::from);
            let answer = done.and_then(|done| done.result.map(|()| done.extents));
            // Nobody may be interested any more.
            let _ = tell.send((number, answer));
        };
        let id = disk.submit_for(self.walk.request(&query), None, Box::new(on_done));
        self.asked.extend(id.map(|id| (number, id)));
    }
}

impl Drop for Extents {
    fn drop(&mut self) {
        // A connection that is gone has withdrawn everything.
        let _ = self.asked.iter().try_for_each(|(_, id)| self.withdraw.0.send(*id));
        self.withdraw.1.fetch_or(WITHDRAWAL, Ordering::AcqRel);
    }
}
