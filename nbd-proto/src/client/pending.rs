//! One command between submission and completion.

use crate::error::CommandError;
use crate::reply::ReplyProgress;
use crate::types::Command;

/// Where a command is in its life.
///
/// ```text
///             reply first                sent
///   InFlight ─────────────► Held ──────────────────┐
///      │                                            ▼
///      └── sent, then reply ─────────────────────► Done ──► taken
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The final reply is still to come.
    #[default]
    InFlight,
    /// The final reply overtook the command's own request; the rest of that, payload and
    /// all, is still to be sent, and the caller's buffer is still in use.
    Held,
    /// Finished; nobody has taken the result yet.
    Done,
}

/// The state of a slot.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) command: Command,
    pub(crate) stage: Stage,
    /// The request's place in the outbox, which knows how far it has sent; 0 for a
    /// request that was taken back.
    pub(crate) sequence: u64,
    /// Nobody waits for it any more.
    pub(crate) abandoned: bool,
    /// The first error that was reported; later ones never replace it.
    pub(crate) error: Option<CommandError>,
    pub(crate) reply: ReplyProgress,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            command: Command::flush(),
            stage: Stage::InFlight,
            sequence: 0,
            abandoned: false,
            error: None,
            reply: ReplyProgress::default(),
        }
    }
}

impl Pending {
    /// Makes a used slot ready for the next command; keeps what it has allocated.
    #[inline]
    pub(crate) fn reset(&mut self, command: Command) {
        self.command = command;
        self.stage = Stage::InFlight;
        self.abandoned = false;
        self.error = None;
        self.reply.reset();
    }

    pub(crate) fn fail(&mut self, error: impl Into<CommandError>) {
        self.error.get_or_insert_with(|| error.into());
    }

    pub(crate) fn result(&self) -> Result<(), CommandError> {
        self.error.map_or(Ok(()), Err)
    }
}
