//! The extents of a whole range, however many commands and replies they take.
//!
//! ```text
//!   range    ├────────────────────────────────────────────────────┤
//!   windows  ├──── 64 MiB ────┼────── 128 MiB ───────┼── ...        asked for at once
//!   replies  ├─a─┼──b──┤ short: the rest is asked for again
//!   segments ├─a─┼─────────b─────────┼─c─┤                          neighbours merged
//! ```
//!
//! [`ExtentWalk`] says what to ask and makes one list of the answers; it sends nothing. A
//! client around it, whenever the next segment is wanted,
//!
//! 1. submits what there is to [ask](ExtentWalk::next_query); a query that found no room is
//!    [given back](ExtentWalk::not_sent);
//! 2. hands out the [next segment](ExtentWalk::next_segment);
//! 3. where that is pending, waits for an answer to one of the queries, gives it to
//!    [`answered`](ExtentWalk::answered), in whatever order they come, and begins again.
//!
//! A client that stops early withdraws the commands that are under way. What is held at a
//! time is bounded: a few windows, and no more of them while many segments wait to be taken.

use std::collections::VecDeque;
use std::ops::{Bound, Deref, Range, RangeBounds};
use std::task::Poll;

use nbd_proto::{
    Command, CommandError, CommandFailure, ContextId, Extent, HeaderStyle, Negotiated, ReplyFault,
    SubmitError,
};

use crate::error::Error;
use crate::session::Request;

/// Queries under way at a time. Each answer may hold a million extents.
const DEPTH: usize = 4;

/// Nothing more is asked ahead while so many segments wait to be taken.
const PLENTY: usize = 1 << 16;

/// The first queries are about this many bytes; those after answers that told little are
/// about more.
const FIRST_WINDOW: u64 = 64 << 20;

/// An answer of so few extents tells little.
const FEW: usize = 64;

/// The longest range one query can be about in compact headers, kept a multiple of any
/// block size (proto.md, "Request message": 32 bits of length).
const MAX_COMPACT: u64 = (u32::MAX as u64 + 1) - (1 << 16);

/// The same of extended headers, where only the arithmetic sets a bound.
const MAX_EXTENDED: u64 = 1 << 62;

/// One extent and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlacedExtent {
    /// Where it starts, in bytes from the start of the export.
    pub offset: u64,
    /// Its length in bytes, and its status.
    pub extent: Extent,
}

impl PlacedExtent {
    /// The bytes it stands for, from the start of the export.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.extent.length)
    }
}

/// It can be asked what an [`Extent`] can.
impl Deref for PlacedExtent {
    type Target = Extent;

    fn deref(&self) -> &Extent {
        &self.extent
    }
}

/// A run of bytes for which no meta context changes its status.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// Where it starts, in bytes from the start of the export.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// The status by each context, in the order in which they were named, or else were granted.
    pub statuses: Vec<u64>,
}

impl Segment {
    /// What the first of the contexts says of it.
    #[must_use]
    pub fn placed(&self) -> PlacedExtent {
        let status = self.statuses.first().copied().unwrap_or_default();
        PlacedExtent { offset: self.offset, extent: Extent { length: self.length, status } }
    }
}

/// A block status command that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusQuery {
    /// Names it in [`answered`](ExtentWalk::answered).
    pub number: u64,
    /// The command. It is about the contexts that
    /// [`asked_contexts`](ExtentWalk::asked_contexts) says.
    pub command: Command,
}

/// A walk over the extents of a range, by one meta context or by several at once.
///
/// Segments come in order, neighbours of equal statuses as one, and nothing reaches beyond
/// the range. See the [module](self) for how to drive it.
///
/// ```
/// # use nbd_session::extents::ExtentWalk;
/// # use nbd_session::Error;
/// # use std::task::Poll;
/// # fn ask(_: nbd_proto::Command) -> Result<Vec<(nbd_proto::ContextId, nbd_proto::Extent)>, Error> {
/// #     Ok(Vec::new())
/// # }
/// # fn example(facts: &nbd_proto::Negotiated) -> Result<(), Error> {
/// let mut walk = ExtentWalk::new(facts, &["base:allocation"], 0..1 << 30)?;
/// loop {
///     while let Some(query) = walk.next_query() {
///         let answer = ask(query.command);
///         walk.answered(query.number, answer.as_deref().map_err(Clone::clone));
///     }
///     match walk.next_segment() {
///         Poll::Ready(Some(segment)) => println!("{:?}", segment?.placed()),
///         Poll::Ready(None) => return Ok(()),
///         Poll::Pending => unreachable!("what is asked is answered at once"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct ExtentWalk {
    contexts: Vec<ContextId>,
    filtered: bool,
    /// Queries start and end at multiples of this, in bytes, but for the end of the export.
    block: u64,
    size: u64,
    longest: u64,
    window: u64,
    /// Where the next window starts.
    next: u64,
    end: u64,
    windows: VecDeque<Window>,
    /// A query found no room: nothing is asked until one is answered.
    full: bool,
    last_number: u64,
    /// Where the segments start that were found and not taken.
    start: u64,
    /// These, as far as there is no gap. The last one may go on.
    found: Runs,
    failed: Option<Error>,
}

/// A part of the range, of which not all is known, or not all before it.
#[derive(Debug)]
struct Window {
    /// The query under way: its number, its offset in bytes, and its length.
    asked: Option<(u64, Range<u64>)>,
    /// Up to where statuses are known.
    known: u64,
    end: u64,
    /// What was found; it ends at `known`.
    found: Runs,
}

/// Lengths and statuses of parts that follow each other.
#[derive(Debug, Default)]
struct Runs {
    lengths: VecDeque<u64>,
    /// The statuses of each, one context after the other.
    statuses: VecDeque<u64>,
}

/// A range of an export of this size, with what was left open filled in.
fn within(size: u64, range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => size,
    };
    start..end
}

impl ExtentWalk {
    /// A walk over a range in bytes, `..` being the whole export, by the contexts of these
    /// names; by all that were granted, when none is named.
    ///
    /// # Errors
    /// When one of the contexts was not granted, or none was.
    pub fn new(
        facts: &Negotiated,
        names: &[&str],
        range: impl RangeBounds<u64>,
    ) -> Result<Self, Error> {
        let export = facts.export.as_ref();
        let size = export.map_or(0, |export| export.size);
        let range = within(size, &range);
        let granted = &facts.contexts;
        let id = |name: &&str| granted.iter().find(|one| one.name == *name).map(|one| one.id);
        let contexts: Vec<ContextId> = if names.is_empty() {
            granted.iter().map(|context| context.id).collect()
        } else {
            names.iter().map(id).collect::<Option<_>>().unwrap_or_default()
        };
        if contexts.is_empty() {
            let length = range.end.saturating_sub(range.start);
            let command = Command::block_status(range.start, length);
            return Err(Error::not_sent(command, SubmitError::NoMetaContext));
        }
        let longest =
            if facts.headers == HeaderStyle::Extended { MAX_EXTENDED } else { MAX_COMPACT };
        Ok(Self {
            filtered: contexts.len() < granted.len()
                && export.is_some_and(|export| export.can_block_status_payload()),
            contexts,
            block: export.map_or(1, |export| u64::from(export.minimum_block())),
            size,
            longest,
            window: FIRST_WINDOW,
            next: range.start,
            end: range.end,
            windows: VecDeque::with_capacity(DEPTH),
            full: false,
            last_number: 0,
            start: range.start,
            found: Runs::default(),
            failed: None,
        })
    }

    /// The contexts, in the order of [`Segment::statuses`].
    #[must_use]
    pub fn contexts(&self) -> &[ContextId] {
        &self.contexts
    }

    /// What is to be submitted for a query.
    pub fn request(&self, query: &StatusQuery) -> Request<'_> {
        let request = Request::new(query.command);
        match self.asked_contexts() {
            Some(contexts) => request.contexts(contexts),
            None => request,
        }
    }

    /// The contexts that every query is about, to be given with it: `None` when it is about
    /// all that were granted, as it is where the server knows no filter.
    #[must_use]
    pub fn asked_contexts(&self) -> Option<&[ContextId]> {
        self.filtered.then_some(&self.contexts)
    }

    /// The next segment; `None` after the last one, and after an error, which is that of a query
    /// and comes once, after the segments that are known to lie before. Pending while an answer
    /// has to come first: when there is no [query](Self::next_query) left to be sent, one is
    /// under way.
    pub fn next_segment(&mut self) -> Poll<Option<Result<Segment, Error>>> {
        let is_last = self.failed.is_some() || self.windows.is_empty() && self.next >= self.end;
        if (is_last || self.found.len() > 1)
            && let Some((length, statuses)) = self.found.take(self.contexts.len())
        {
            let offset = self.start;
            self.start += length;
            return Poll::Ready(Some(Ok(Segment { offset, length, statuses })));
        }
        match self.failed.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None if is_last => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// What to ask now, if anything. It counts as sent from now on.
    pub fn next_query(&mut self) -> Option<StatusQuery> {
        if self.full && self.windows.iter().any(|window| window.asked.is_some()) {
            return None;
        }
        self.full = false;
        let waits = |window: &Window| window.asked.is_none() && window.known < window.end;
        let place = self.windows.iter().position(waits).or_else(|| self.open_window())?;
        let window = self.windows.get_mut(place)?;
        // In whole blocks, as far as the export has them (proto.md, "Block size constraints").
        let start = window.known - window.known % self.block;
        let end = window.end.checked_next_multiple_of(self.block).unwrap_or(window.end);
        let end = if window.end <= self.size { end.min(self.size) } else { end };
        self.last_number += 1;
        window.asked = Some((self.last_number, start..end));
        let command = Command::block_status(start, end - start);
        Some(StatusQuery { number: self.last_number, command })
    }

    /// One window more, if there is room for it and something left to ask.
    fn open_window(&mut self) -> Option<usize> {
        let waiting = self.windows.iter().map(|window| window.found.len());
        let found = self.found.len() + waiting.sum::<usize>();
        if self.windows.len() >= DEPTH || self.next >= self.end || found >= PLENTY {
            return None;
        }
        let known = self.next;
        // So that the next window starts with a block, whatever this one starts with.
        let aligned = (known - known % self.block).saturating_add(self.window);
        self.next = aligned.min(self.end);
        let window = Window { asked: None, known, end: self.next, found: Runs::default() };
        self.windows.push_back(window);
        Some(self.windows.len() - 1)
    }

    /// A query could not be sent for want of room, or was withdrawn. It is asked again when
    /// another one is answered; at once, where none is under way: wait for room first.
    pub fn not_sent(&mut self, number: u64) {
        if let Some(window) = self.asked(number) {
            window.asked = None;
            self.full = true;
        }
    }

    fn asked(&mut self, number: u64) -> Option<&mut Window> {
        let is_it = |window: &&mut Window| window.asked.as_ref().is_some_and(|one| one.0 == number);
        self.windows.iter_mut().find(is_it)
    }

    /// Takes in the answer to a query: extents of each context, in order for each. One to a
    /// query that nobody waits for any more is ignored.
    pub fn answered(&mut self, number: u64, answer: Result<&[(ContextId, Extent)], Error>) {
        let contexts = std::mem::take(&mut self.contexts);
        if let Some(window) = self.asked(number)
            && let Some((_, range)) = window.asked.take()
        {
            let taken = answer.and_then(|extents| window.answered(range, &contexts, extents));
            let whole = window.known == window.end;
            self.full = false;
            match taken {
                Ok(few) if few && whole => self.window = (self.window * 2).min(self.longest),
                Ok(_) => {}
                // The walk ends where what is known without a gap does.
                Err(error) => self.failed = Some(error),
            }
            self.close_gaps(contexts.len());
            if self.failed.is_some() {
                self.windows.clear();
                self.next = self.end;
            }
        }
        self.contexts = contexts;
    }

    /// What is known from the start on is to be taken.
    fn close_gaps(&mut self, contexts: usize) {
        while let Some(window) = self.windows.front_mut() {
            self.found.append(&mut window.found, contexts);
            if window.known < window.end {
                break;
            }
            self.windows.pop_front();
        }
    }
}

impl Window {
    /// Takes in an answer. Returns whether it told little.
    fn answered(
        &mut self,
        asked: Range<u64>,
        contexts: &[ContextId],
        extents: &[(ContextId, Extent)],
    ) -> Result<bool, Error> {
        let before = self.known;
        self.take_in(asked.start, contexts, extents);
        if self.known > before {
            return Ok(extents.len() <= FEW);
        }
        // The core has seen to it that each context has an extent that is not empty; one that
        // does not reach the end of its first block leads nowhere all the same.
        let command = Command::block_status(asked.start, asked.end - asked.start);
        let fault = CommandError::Fault(ReplyFault::MissingContext);
        Err(CommandFailure::new(command, fault, None).into())
    }

    /// Cuts the extents of all contexts at each other's ends, as far as all of them reach and
    /// the window goes; `start` is where they begin, at or before what is known.
    fn take_in(&mut self, start: u64, contexts: &[ContextId], extents: &[(ContextId, Extent)]) {
        let mut lists: Vec<_> = contexts
            .iter()
            .map(|context| extents.iter().filter(move |(id, _)| id == context))
            .collect();
        let mut heads: Vec<Extent> = Vec::with_capacity(lists.len());
        for list in &mut lists {
            let Some((_, first)) = list.next() else { return };
            heads.push(*first);
        }
        let mut at = start;
        while at < self.end {
            let room = self.end - at;
            let length = heads.iter().map(|head| head.length).fold(room, u64::min);
            at += length;
            // What lies before was known already.
            if at > self.known {
                self.found.push(at - self.known, heads.iter().map(|head| head.status));
                self.known = at;
            }
            for (head, list) in heads.iter_mut().zip(&mut lists) {
                head.length -= length;
                while head.length == 0 {
                    let Some((_, next)) = list.next() else { return };
                    *head = *next;
                }
            }
        }
    }
}

impl Runs {
    fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Adds a part to the end; one with the statuses of the last makes it longer.
    fn push(&mut self, length: u64, statuses: impl ExactSizeIterator<Item = u64> + Clone) {
        let before = self.statuses.len().saturating_sub(statuses.len());
        if let Some(last) = self.lengths.back_mut()
            && self.statuses.range(before..).copied().eq(statuses.clone())
        {
            *last += length;
            return;
        }
        self.lengths.push_back(length);
        self.statuses.extend(statuses);
    }

    /// Moves all of what follows to the end.
    fn append(&mut self, next: &mut Self, contexts: usize) {
        if let Some((length, statuses)) = next.take(contexts) {
            self.push(length, statuses.into_iter());
        }
        self.lengths.append(&mut next.lengths);
        self.statuses.append(&mut next.statuses);
    }

    /// Takes the first part.
    fn take(&mut self, contexts: usize) -> Option<(u64, Vec<u64>)> {
        let length = self.lengths.pop_front()?;
        let statuses = self.statuses.drain(..contexts.min(self.statuses.len())).collect();
        Some((length, statuses))
    }
}
