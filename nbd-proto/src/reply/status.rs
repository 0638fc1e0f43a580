//! Which extents of a block status have been told (proto.md, "NBD_CMD_BLOCK_STATUS",
//! "NBD_REPLY_TYPE_BLOCK_STATUS").

use alloc::vec::Vec;

use crate::error::ReplyFault;
use crate::negotiate::MAX_CONTEXTS;
use crate::types::{Command, ContextId, Extent};
use crate::wire::flags::CommandFlags;
use crate::wire::option::MetaContext;

/// A set of negotiated contexts, by their place in [`Contexts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContextSet([u64; MAX_CONTEXTS / 64]);

impl ContextSet {
    /// Adds a member; false if it was one already.
    pub(crate) fn insert(&mut self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        match self.0.get_mut(index / 64) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & 1 << (index % 64) != 0)
    }
}

/// The negotiated contexts, found by their number.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    /// Sorted.
    ids: Vec<ContextId>,
}

impl Contexts {
    pub(crate) fn new(contexts: &[MetaContext]) -> Self {
        let mut ids: Vec<ContextId> = contexts.iter().map(|context| context.id).collect();
        ids.sort_unstable();
        Self { ids }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn index(&self, id: ContextId) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// Those of a filter; all if it is empty.
    pub(crate) fn set(&self, filter: &[ContextId]) -> ContextSet {
        if filter.is_empty() {
            return self.all();
        }
        let mut set = ContextSet::default();
        for index in filter.iter().filter_map(|context| self.index(*context)) {
            set.insert(index);
        }
        set
    }

    pub(crate) fn all(&self) -> ContextSet {
        let mut set = ContextSet::default();
        for index in 0..self.ids.len() {
            set.insert(index);
        }
        set
    }
}

/// What a block status command still waits for, and where its current chunk is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StatusProgress {
    /// Contexts asked for.
    wanted: ContextSet,
    /// Contexts reported.
    seen: ContextSet,
    /// Bytes the current chunk's extents cover so far.
    covered: u64,
    /// Extents in the current chunk so far.
    count: u64,
}

impl StatusProgress {
    pub(crate) fn new(wanted: ContextSet) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// A chunk about this context starts.
    pub(crate) fn begin(&mut self, index: Option<usize>) -> Result<(), ReplyFault> {
        let index = index.filter(|i| self.wanted.contains(*i));
        let index = index.ok_or(ReplyFault::UnknownContext)?;
        if !self.seen.insert(index) {
            return Err(ReplyFault::DuplicateContext);
        }
        self.covered = 0;
        self.count = 0;
        Ok(())
    }

    /// The next extent. Only the last one may reach beyond the request, and none
    /// beyond the export.
    pub(crate) fn add(
        &mut self,
        extent: Extent,
        command: &Command,
        export_size: u64,
    ) -> Result<(), ReplyFault> {
        if extent.length == 0 {
            return Err(ReplyFault::EmptyExtent);
        }
        let one = command.flags.contains(CommandFlags::REQ_ONE);
        if self.covered >= command.length || (one && self.count > 0) {
            return Err(ReplyFault::ExcessExtent);
        }
        self.covered = self.covered.saturating_add(extent.length);
        self.count = self.count.saturating_add(1);
        let room = export_size.saturating_sub(command.offset);
        if self.covered > room || (one && self.covered > command.length) {
            return Err(ReplyFault::ExcessExtent);
        }
        Ok(())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.seen == self.wanted
    }
}
