//! The extents of a whole range, however many replies they take.

use std::collections::VecDeque;
use std::ops::Range;

use nbd_proto::{Command, CommandFlags, ContextId, Extent, HeaderStyle, SubmitError};

use crate::client::Client;
use crate::error::Error;

/// The longest range one block status can ask about in compact headers, kept a
/// multiple of any block size.
const MAX_COMPACT: u64 = (u32::MAX as u64 + 1) - (1 << 16);

/// Extents of one meta context in order. Made by [`Client::extents`].
///
/// Neighbours of equal status are one, and nothing reaches beyond the range. After
/// an error it ends.
#[derive(Debug)]
pub struct Extents<'c> {
    client: &'c mut Client,
    context: ContextId,
    /// Where the next extent starts.
    next: u64,
    /// Up to where extents have been asked for and received.
    known: u64,
    end: u64,
    ready: VecDeque<Extent>,
}

/// One extent and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedExtent {
    /// Where it starts, in bytes from the start of the export.
    pub offset: u64,
    /// Its length and status.
    pub extent: Extent,
}

impl<'c> Extents<'c> {
    pub(crate) fn new(
        client: &'c mut Client,
        context: &str,
        range: Range<u64>,
    ) -> Result<Self, Error> {
        let command = Command::block_status(range.start, range.end.saturating_sub(range.start));
        let context = client.context(context).ok_or(Error::Submit {
            command,
            error: SubmitError::NoMetaContext,
        })?;
        Ok(Self {
            client,
            context,
            next: range.start,
            known: range.start,
            end: range.end,
            ready: VecDeque::new(),
        })
    }

    fn ask(&mut self) -> Result<(), Error> {
        let left = self.end - self.known;
        let extended = self.client.negotiated().headers == HeaderStyle::Extended;
        let length = if extended {
            left
        } else {
            left.min(MAX_COMPACT)
        };
        let (context, ready) = (self.context, &mut self.ready);
        let mut told = 0;
        self.client.block_status(
            self.known,
            length,
            CommandFlags::empty(),
            |id, mut extent| {
                if id != context || told >= length {
                    return;
                }
                extent.length = extent.length.min(length - told);
                told += extent.length;
                match ready.back_mut() {
                    Some(last) if last.status == extent.status => last.length += extent.length,
                    _ => ready.push_back(extent),
                }
            },
        )?;
        self.known += told;
        Ok(())
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<PlacedExtent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        // The last one known may go on in the next reply.
        while self.ready.len() < 2 && self.known < self.end {
            if let Err(error) = self.ask() {
                self.end = self.known;
                self.ready.clear();
                return Some(Err(error));
            }
        }
        let extent = self.ready.pop_front()?;
        let offset = self.next;
        self.next += extent.length;
        Some(Ok(PlacedExtent { offset, extent }))
    }
}
