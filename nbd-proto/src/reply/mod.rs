//! The rules of a reply, for whoever receives it and for whoever sends it.
//!
//! A client finds a server's faults by them, and a server does not let its caller make any.
//! proto.md, "Structured reply types", "NBD_CMD_READ", "NBD_CMD_BLOCK_STATUS".
//!
//! | file | what |
//! |---|---|
//! | `mod` | one reply, from its first chunk to its last |
//! | `form` | which chunks can answer which commands |
//! | `coverage` | which bytes of a read have been told |
//! | `status` | which extents of a block status have |

pub(crate) mod coverage;
pub(crate) mod form;
pub(crate) mod status;

use crate::error::ReplyFault;
use crate::types::Command;
use crate::wire::flags::CommandFlags;
use crate::wire::request::CommandType;

use coverage::Coverage;
use status::StatusProgress;

/// How far the reply to one command is.
#[derive(Debug, Default)]
pub(crate) struct ReplyProgress {
    pub(crate) coverage: Coverage,
    /// Chunks of a read that told of its content.
    pub(crate) pieces: u32,
    /// Of a block status; left from an earlier one in any other command.
    pub(crate) status: StatusProgress,
}

impl ReplyProgress {
    /// Nothing has been told yet. Keeps what it has allocated.
    #[inline]
    pub(crate) fn reset(&mut self) {
        self.coverage.reset();
        self.pieces = 0;
    }

    /// A piece of a read, of `length` bytes from `at` bytes into it; it is inside the request.
    pub(crate) fn piece(
        &mut self,
        command: &Command,
        at: u64,
        length: u64,
        max_fragments: usize,
    ) -> Result<(), ReplyFault> {
        if command.flags.contains(CommandFlags::DF) && self.pieces > 0 {
            return Err(ReplyFault::Fragmented);
        }
        if length > 0 {
            self.coverage.add(at..at.saturating_add(length), max_fragments)?;
        }
        self.pieces = self.pieces.saturating_add(1);
        Ok(())
    }

    /// What is missing if the reply ends here, without an error.
    pub(crate) fn missing(&self, command: &Command) -> Option<ReplyFault> {
        match command.kind {
            CommandType::Read => {
                let complete = self.coverage.is_complete(command.length);
                (!complete).then_some(ReplyFault::Incomplete)
            }
            CommandType::BlockStatus => {
                (!self.status.is_complete()).then_some(ReplyFault::MissingContext)
            }
            CommandType::Write
            | CommandType::Flush
            | CommandType::Trim
            | CommandType::Cache
            | CommandType::WriteZeroes => None,
        }
    }
}

/// Where in a request a range of the export is, in bytes; `None` if it is not inside.
pub(crate) fn place(command: &Command, offset: u64, length: u64) -> Option<u64> {
    let at = offset.checked_sub(command.offset)?;
    (at.checked_add(length)? <= command.length).then_some(at)
}
