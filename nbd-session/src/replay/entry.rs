//! One command between its submission and the moment it can be forgotten.

use nbd_proto::CommandType;
use nbd_proto::{Command, RequestId};

/// Who wants a command done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner<T> {
    /// A caller, who waits for it.
    Caller(T),
    /// Nobody any more: it was acknowledged, and is repeated.
    Acknowledged,
    /// The log: a flush to make room.
    Log,
}

/// Where a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// With the log: not sent on this connection, or given back unanswered.
    Waiting,
    /// With the client, on its way or with the server.
    Sent {
        /// The client's name for it.
        id: RequestId,
        /// Writes that had been acknowledged by then: what a flush covers.
        covers: u64,
    },
}

/// A command that is not answered.
#[derive(Clone, Debug)]
pub(super) struct Entry<T, P> {
    pub(super) command: Command,
    pub(super) payload: Option<P>,
    pub(super) owner: Owner<T>,
    pub(super) stage: Stage,
    /// It was sent before on a connection that was lost: what it does may have shown.
    pub(super) again: bool,
    /// It has the room it needs among the kept ones, or needs none.
    pub(super) has_room: bool,
    /// How many earlier commands have to be answered before this one is sent.
    pub(super) waits: usize,
}

impl<T, P> Entry<T, P> {
    pub(super) const fn new(command: Command, payload: Option<P>, owner: Owner<T>) -> Self {
        Self {
            command,
            payload,
            owner,
            stage: Stage::Waiting,
            again: false,
            has_room: true,
            waits: 0,
        }
    }

    /// Whether this command must not be sent before `earlier`, which was submitted first,
    /// has been answered.
    pub(super) fn depends_on(&self, earlier: &Self) -> bool {
        if !earlier.command.kind.modifies() {
            return false;
        }
        match self.command.kind {
            // Two changes of the same bytes keep their order, always: so there is one.
            CommandType::Write | CommandType::WriteZeroes | CommandType::Trim => {
                overlap(&self.command, &earlier.command)
            }
            // On one connection they may go side by side. But what was sent before may have
            // been seen, or acknowledged; nobody shall see what was there before it again.
            CommandType::Read | CommandType::BlockStatus => {
                earlier.again && overlap(&self.command, &earlier.command)
            }
            // It vouches for everything acknowledged, which has to be there again.
            CommandType::Flush => matches!(earlier.owner, Owner::Acknowledged),
            CommandType::Cache => false,
        }
    }
}

fn overlap(a: &Command, b: &Command) -> bool {
    // What has no length is about no byte.
    a.length > 0
        && b.length > 0
        && a.offset < b.offset.saturating_add(b.length)
        && b.offset < a.offset.saturating_add(a.length)
}
