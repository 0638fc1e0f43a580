//! Whether acknowledged writes have not been flushed.

use nbd_proto::{Command, CommandFlags, CommandType, RequestId};

/// What has been acknowledged on a connection, and how much of it a flush has covered. A
/// flush covers what was acknowledged before it was submitted.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    acknowledged: u64,
    flushed: u64,
    /// Flushes under way, and what they cover.
    flushes: Vec<(RequestId, u64)>,
}

impl Unflushed {
    pub(super) const fn any(&self) -> bool {
        self.acknowledged > self.flushed
    }

    pub(super) fn submitted(&mut self, id: RequestId, command: &Command) {
        if command.kind == CommandType::Flush {
            self.flushes.push((id, self.acknowledged));
        }
    }

    pub(super) fn finished(&mut self, id: RequestId, command: &Command, ok: bool) {
        if command.kind == CommandType::Flush {
            let place = self.flushes.iter().position(|(flush, _)| *flush == id);
            let covered = place.map(|place| self.flushes.swap_remove(place).1);
            self.flushed = self.flushed.max(covered.filter(|_| ok).unwrap_or_default());
        } else if ok && command.kind.modifies() && !command.flags.contains(CommandFlags::FUA) {
            self.acknowledged += 1;
        }
    }

    /// Something that was acknowledged may be lost.
    pub(super) const fn lose(&mut self) {
        self.acknowledged += 1;
    }

    /// Somebody was told that the rest may be lost.
    pub(super) const fn settle(&mut self) {
        self.flushed = self.acknowledged;
    }
}
