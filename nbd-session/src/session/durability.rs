//! What an acknowledged write is worth.

use crate::error::broken;
use nbd_proto::{Command, CommandFlags, CommandType, RequestId};

/// Counts writes that were acknowledged, and those that a flush has made durable, where no
/// replay log does.
#[derive(Debug, Default)]
pub(super) struct Durability {
    /// Writes acknowledged so far that were not durable by themselves.
    acknowledged: u64,
    /// How many of them have been flushed.
    settled: u64,
    /// What each flush under way covers.
    flushes: Vec<(RequestId, u64)>,
}

impl Durability {
    /// A flush vouches for everything that was acknowledged before it was submitted.
    #[inline]
    pub(super) fn submitted(&mut self, id: RequestId, kind: CommandType) {
        if kind == CommandType::Flush {
            self.flushes.push((id, self.acknowledged));
        }
    }

    #[inline]
    pub(super) fn completed(&mut self, id: RequestId, command: Command, done: bool) {
        self.acknowledged += u64::from(done && wants_flush(command));
        if command.kind == CommandType::Flush {
            self.flushed(id, done);
        }
    }

    fn flushed(&mut self, id: RequestId, done: bool) {
        let Some(at) = self.flushes.iter().position(|(flush, _)| *flush == id) else {
            return broken("a flush is known until it is finished");
        };
        let (_, covers) = self.flushes.swap_remove(at);
        if done {
            self.settled = self.settled.max(covers);
        }
    }

    /// Nobody waits for a flush any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.flushes.retain(|(flush, _)| *flush != id);
    }

    /// Nor for any.
    pub(super) fn forget_all(&mut self) {
        self.flushes.clear();
    }

    pub(super) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Somebody else's flush covers so many.
    pub(super) fn settle(&mut self, acknowledged: u64) {
        self.settled = self.settled.max(acknowledged.min(self.acknowledged));
    }

    /// Whether writes were acknowledged that no flush has made durable.
    pub(super) const fn has_unflushed(&self) -> bool {
        self.acknowledged > self.settled
    }
}

/// Whether a command has changed something, when it is done, that is not durable by itself.
pub(super) fn wants_flush(command: Command) -> bool {
    match command.kind {
        CommandType::Write | CommandType::WriteZeroes | CommandType::Trim => {
            !command.flags.contains(CommandFlags::FUA)
        }
        CommandType::Flush | CommandType::Read | CommandType::Cache | CommandType::BlockStatus => {
            false
        }
    }
}
