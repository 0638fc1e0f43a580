//! What the server owes, and whether it gets on with it.

use super::Client;
use super::pending::{Pending, Stage};
use crate::types::{Command, RequestId};
use crate::wire::request::CommandType;

/// Commands in flight, told apart by what may be concluded from a server's silence.
///
/// Abandoned commands count: the server does not know that nobody waits for them, works on
/// them like on any other, and owes a reply to each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outstanding {
    /// Reads, writes and block status: a server that works answers these, part by part if
    /// they are long.
    pub transfers: usize,
    /// Flush, trim, write zeroes and cache: these may take as long as they like, and a server
    /// that does one thing after the other says nothing meanwhile.
    pub operations: usize,
    /// How many of the operations are not sent whole: the server does not know of them, so it
    /// is not for their sake that it says nothing.
    pub unsent: usize,
    /// How many of all these were abandoned.
    pub abandoned: usize,
    /// The most operations that an answer has overtaken so far on this connection: while no
    /// more than so many are in flight, this server can be expected to answer other commands.
    /// 0 from one that does one thing after the other.
    pub overtaken: usize,
}

impl Outstanding {
    /// All of them: [`Client::in_flight`].
    #[must_use]
    pub const fn all(self) -> usize {
        self.transfers.saturating_add(self.operations)
    }

    /// Those that somebody waits for.
    #[must_use]
    pub const fn wanted(self) -> usize {
        self.all().saturating_sub(self.abandoned)
    }

    /// Operations that the server knows of, and may be busy with.
    #[must_use]
    pub const fn sent_operations(self) -> usize {
        self.operations.saturating_sub(self.unsent)
    }
}

impl Client {
    /// The command behind an id: what was submitted, whether it is in flight, abandoned or
    /// finished. `None` when its slot is free: its completion was taken, or it was abandoned
    /// and nothing more is to come for it.
    #[must_use]
    #[inline]
    pub fn command(&self, id: RequestId) -> Option<Command> {
        self.core.slots.get(id).map(|pending| pending.command)
    }

    /// What the server owes.
    #[must_use]
    #[inline]
    pub fn outstanding(&self) -> Outstanding {
        let core = &self.core;
        Outstanding {
            transfers: core.unfinished.saturating_sub(core.operations),
            operations: core.operations,
            unsent: core.unsent_operations.len(),
            abandoned: core.abandoned,
            overtaken: core.overtaken,
        }
    }

    /// Whether bytes of a command's payload may still be asked of the
    /// [`PayloadSource`](crate::PayloadSource). When not, its buffer is free, whether or not
    /// the reply has come.
    ///
    /// Of the commands that were abandoned this is true of one at most: requests leave in the
    /// order of their submission, and one of which no byte has left is taken back. So whoever
    /// keeps buffers of abandoned writes has one to ask about, after
    /// [`sent`](crate::Machine::sent), [`send_failed`](crate::Machine::send_failed) and at
    /// the end of the connection.
    #[must_use]
    pub fn needs_payload(&self, id: RequestId) -> bool {
        let outbox = &self.core.outbox;
        self.core.slots.get(id).is_some_and(|pending| {
            pending.command.kind == CommandType::Write
                && pending.command.length > 0
                && pending.stage != Stage::Done
                && pending.sequence >= outbox.first_unsent()
                && !outbox.is_closed()
        })
    }

    /// A number that grows whenever the server has brought a command forward, and never
    /// otherwise: by data of a read, a hole in it, an extent further on, or the end of a
    /// reply. It says nothing but that it is larger than before; how much is of no meaning.
    ///
    /// What a server can send for ever without ending anything leaves it alone: error chunks,
    /// replies to nothing, empty chunks, data and extents that were told already. Nor does it
    /// tell of payload that leaves: a socket takes bytes that no server will ever read. A
    /// transport that takes more after it had no room is a sign of life, too, and known to
    /// whoever writes.
    #[must_use]
    #[inline]
    pub fn progress(&self) -> u64 {
        self.core.progress
    }
}

impl super::Core {
    /// A command is queued.
    #[inline]
    pub(super) fn count_in(&mut self, kind: CommandType, sequence: u64) {
        // One for each slot in use at most.
        self.unfinished = self.unfinished.wrapping_add(1);
        if is_operation(kind) {
            self.operations = self.operations.wrapping_add(1);
            self.unsent_operations.push_back(sequence);
        }
    }

    /// Something has been sent, perhaps all of an operation.
    #[inline]
    pub(super) fn count_sent(&mut self) {
        while let Some(sequence) = self.unsent_operations.front()
            && *sequence < self.outbox.first_unsent()
        {
            self.unsent_operations.pop_front();
        }
    }

    /// Takes a request back of which nothing has been sent; false if something has.
    pub(super) fn take_back(&mut self, sequence: u64) -> bool {
        let is_back = self.outbox.cancel(sequence);
        if is_back && let Ok(place) = self.unsent_operations.binary_search(&sequence) {
            self.unsent_operations.remove(place);
        }
        is_back
    }

    /// A command is answered. Which operations were to be done before it?
    #[cold]
    pub(super) fn overtakes(&mut self, id: RequestId) {
        let mut overtaken = 0_usize;
        let mut next = self.slots.front(&self.in_flight);
        while let Some(earlier) = next.filter(|earlier| *earlier != id) {
            let command = self.slots.get(earlier).map(|pending| pending.command);
            let is_operation = command.is_some_and(|command| is_operation(command.kind));
            overtaken = overtaken.saturating_add(is_operation.into());
            next = self.slots.after(earlier);
        }
        self.overtaken = self.overtaken.max(overtaken);
    }

    /// A command is in flight no longer.
    pub(super) fn count_out(&mut self, kind: CommandType, abandoned: bool) {
        count_down(&mut self.unfinished, 1);
        if is_operation(kind) {
            count_down(&mut self.operations, 1);
        }
        if abandoned {
            count_down(&mut self.abandoned, 1);
        }
    }

    /// The server has brought a command forward.
    #[inline]
    pub(super) fn advance(&mut self, by: usize) {
        self.progress = self.progress.wrapping_add(by as u64);
    }
}

impl Pending {
    /// Marks it as abandoned; false if it was already.
    pub(super) fn abandon(&mut self) -> bool {
        !core::mem::replace(&mut self.abandoned, true)
    }
}

/// Counts out what was counted in.
#[inline]
pub(super) fn count_down(count: &mut usize, by: usize) {
    debug_assert!(*count >= by, "more is counted out than was counted in");
    *count = count.saturating_sub(by);
}

const fn is_operation(kind: CommandType) -> bool {
    match kind {
        CommandType::Read | CommandType::Write | CommandType::BlockStatus => false,
        CommandType::Flush | CommandType::Trim | CommandType::Cache | CommandType::WriteZeroes => {
            true
        }
    }
}
