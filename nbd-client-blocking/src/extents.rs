//! The extents of a whole range, however many requests and replies they take.
//!
//! ```text
//!   range   ├────────────────────────────────────────────────────┤
//!   windows ├──── 64 MiB ────┼────── 128 MiB ───────┼── ...        asked for at once
//!   replies ├─a─┼──b──┤ short: the rest is asked for again
//!   result  ├─a─┼─────────b─────────┼─c─┤                          neighbours merged
//! ```

use std::collections::VecDeque;
use std::ops::Range;

use nbd_proto::{Command, ContextId, Extent, HeaderStyle, RequestId, SubmitError};
use nbd_session::{Error, Request};

use crate::client::Client;
use crate::completion::Completion;
use crate::pipeline::Pipeline;

/// Requests in flight. Each reply may hold a million extents.
const DEPTH: usize = 4;

/// The first requests ask about this many bytes; those after replies that told little ask
/// about more.
const FIRST_WINDOW: u64 = 64 << 20;

/// A reply of so few extents tells little.
const FEW: usize = 64;

/// The longest range one block status can ask about in compact headers, kept a
/// multiple of any block size.
const MAX_COMPACT: u64 = (u32::MAX as u64 + 1) - (1 << 16);

/// The same of extended headers, where only the arithmetic sets a bound.
const MAX_EXTENDED: u64 = 1 << 62;

/// One extent and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedExtent {
    /// Where it starts, in bytes from the start of the export.
    pub offset: u64,
    /// Its length and status.
    pub extent: Extent,
}

/// A run of bytes for which no meta context changes its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts, in bytes from the start of the export.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// The status by each context, in the order of [`Survey::contexts`].
    pub statuses: Vec<u64>,
}

/// Extents of one meta context in order. Made by [`Client::extents`].
///
/// Neighbours of equal status are one, and nothing reaches beyond the range. After
/// an error it ends.
#[derive(Debug)]
pub struct Extents<'c>(pub(crate) Survey<'c>);

/// What several meta contexts say of a range, in order. Made by [`Client::survey`].
///
/// Several requests are in flight at any time. Neighbours of equal statuses are one, and
/// nothing reaches beyond the range. After an error it ends.
#[derive(Debug)]
pub struct Survey<'c> {
    pipeline: Pipeline<'c, Vec<u8>>,
    contexts: Vec<ContextId>,
    /// The server is asked for these contexts only.
    filtered: bool,
    windows: VecDeque<Window>,
    window: u64,
    max_window: u64,
    /// Where the next window starts.
    next: u64,
    end: u64,
    /// The last segment found: it may go on.
    last: Option<Segment>,
    fault: Option<Error>,
}

/// A part of the range that was asked about.
#[derive(Debug)]
struct Window {
    id: RequestId,
    /// Up to where its statuses are known.
    known: u64,
    end: u64,
    found: VecDeque<Segment>,
}

impl<'c> Survey<'c> {
    pub(crate) fn new(
        client: &'c mut Client,
        names: &[&str],
        range: Range<u64>,
    ) -> Result<Self, Error> {
        let facts = client.negotiated();
        let (granted, extended) = (facts.contexts.len(), facts.headers == HeaderStyle::Extended);
        let contexts: Option<Vec<ContextId>> = if names.is_empty() {
            let all = facts.contexts.iter();
            Some(all.map(|context| ContextId(context.id)).collect())
        } else {
            names.iter().map(|name| client.session().context(name)).collect()
        };
        let contexts = contexts.filter(|list| !list.is_empty()).ok_or_else(|| {
            let length = range.end.saturating_sub(range.start);
            let command = Command::block_status(range.start, length);
            Error::not_sent(command, SubmitError::NoMetaContext)
        })?;
        Ok(Self {
            filtered: contexts.len() < granted && client.export().can_block_status_payload(),
            pipeline: client.pipeline(),
            contexts,
            windows: VecDeque::with_capacity(DEPTH),
            window: FIRST_WINDOW,
            max_window: if extended { MAX_EXTENDED } else { MAX_COMPACT },
            next: range.start,
            end: range.end,
            last: None,
            fault: None,
        })
    }

    /// The contexts, in the order of [`Segment::statuses`].
    #[must_use]
    pub fn contexts(&self) -> &[ContextId] {
        &self.contexts
    }

    fn ask(&mut self, at: u64, end: u64) -> Result<RequestId, Error> {
        let command = Command::block_status(at, end - at);
        let request = Request::new(command);
        let request = if self.filtered { request.contexts(&self.contexts) } else { request };
        Ok(self.pipeline.submit_request(request, None)?)
    }

    fn ask_ahead(&mut self) -> Result<(), Error> {
        while self.windows.len() < DEPTH && self.next < self.end {
            let (known, end) = (self.next, self.next + self.window.min(self.end - self.next));
            let id = self.ask(known, end)?;
            self.next = end;
            self.windows.push_back(Window { id, known, end, found: VecDeque::new() });
        }
        Ok(())
    }

    fn take_in(&mut self, completion: Completion<Vec<u8>>) -> Result<(), Error> {
        completion.result?;
        let mut windows = self.windows.iter_mut();
        let Some(window) = windows.find(|window| window.id == completion.id) else {
            return Ok(());
        };
        let before = window.known;
        align(window, &self.contexts, &completion.extents);
        if window.known == window.end {
            if completion.extents.len() <= FEW {
                self.window = (self.window * 2).min(self.max_window);
            }
            return Ok(());
        }
        // Each context was reported with an extent that is not empty, or the command
        // would have failed; so every answer leads further.
        debug_assert!(window.known > before, "an answer that says nothing");
        let (id, known, end) = (window.id, window.known, window.end);
        let again = self.ask(known, end)?;
        if let Some(window) = self.windows.iter_mut().find(|window| window.id == id) {
            window.id = again;
        }
        Ok(())
    }

    /// The next segment found, not yet merged.
    fn advance(&mut self) -> Result<Option<Segment>, Error> {
        loop {
            self.ask_ahead()?;
            let Some(window) = self.windows.front_mut() else {
                return Ok(None);
            };
            if let Some(segment) = window.found.pop_front() {
                return Ok(Some(segment));
            }
            if window.known == window.end {
                self.windows.pop_front();
                continue;
            }
            match self.pipeline.wait() {
                Some(completion) => self.take_in(completion)?,
                None => return Ok(None),
            }
        }
    }
}

/// Cuts the extents of all contexts at each other's ends, as far as all of them reach
/// and the window goes.
fn align(window: &mut Window, contexts: &[ContextId], extents: &[(ContextId, Extent)]) {
    let mut lists: Vec<_> = contexts
        .iter()
        .map(|context| extents.iter().filter(move |(id, _)| id == context))
        .collect();
    let mut heads: Vec<Extent> = Vec::with_capacity(lists.len());
    for list in &mut lists {
        let Some((_, first)) = list.next() else {
            return;
        };
        heads.push(*first);
    }
    while window.known < window.end {
        let room = window.end - window.known;
        let length = heads.iter().map(|head| head.length).fold(room, u64::min);
        window.found.push_back(Segment {
            offset: window.known,
            length,
            statuses: heads.iter().map(|head| head.status).collect(),
        });
        window.known += length;
        for (head, list) in heads.iter_mut().zip(&mut lists) {
            head.length -= length;
            if head.length == 0 {
                let Some((_, next)) = list.next() else {
                    return;
                };
                *head = *next;
            }
        }
    }
}

impl Iterator for Survey<'_> {
    type Item = Result<Segment, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(fault) = self.fault.take() {
                return Some(Err(fault));
            }
            let segment = match self.advance() {
                Ok(Some(segment)) => segment,
                Ok(None) => return self.last.take().map(Ok),
                Err(fault) => {
                    self.next = self.end;
                    self.windows.clear();
                    self.fault = Some(fault);
                    match self.last.take() {
                        Some(last) => return Some(Ok(last)),
                        None => continue,
                    }
                }
            };
            match &mut self.last {
                Some(last) if last.statuses == segment.statuses => last.length += segment.length,
                last => {
                    if let Some(done) = last.replace(segment) {
                        return Some(Ok(done));
                    }
                }
            }
        }
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<PlacedExtent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let segment = self.0.next()?;
        Some(segment.map(|segment| PlacedExtent {
            offset: segment.offset,
            extent: Extent {
                length: segment.length,
                status: segment.statuses.first().copied().unwrap_or_default(),
            },
        }))
    }
}
