//! A command with what goes with it, and what came of it.

use bytes::Bytes;
use nbd_proto::{Command, ContextId, Extent, ReadChunk, RequestId};

use crate::error::Error;
use crate::limit::Limit;
use crate::waiters::Ticket;

/// A command and all that may go with it.
///
/// ```
/// use nbd_proto::{Command, ContextId};
/// use nbd_session::{Limit, Request};
///
/// let request = Request::new(Command::block_status(0, 4096))
///     .contexts(&[ContextId(1)])
///     .limit(Limit::Never);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Request<'a> {
    pub(super) command: Command,
    pub(super) limit: Limit,
    pub(super) contexts: Option<&'a [ContextId]>,
    pub(super) payload: Option<Bytes>,
    pub(super) ticket: Option<Ticket>,
    pub(super) report_chunks: bool,
}

impl<'a> Request<'a> {
    /// Nothing but the command.
    pub const fn new(command: Command) -> Self {
        Self {
            command,
            limit: Limit::Default,
            contexts: None,
            payload: None,
            ticket: None,
            report_chunks: false,
        }
    }

    /// The command.
    #[must_use]
    pub const fn command(&self) -> &Command {
        &self.command
    }

    /// How long it may take.
    pub const fn limit(mut self, limit: Limit) -> Self {
        self.limit = limit;
        self
    }

    /// A block status about some of the meta contexts only, by the numbers that
    /// [`Session::context`](super::Session::context) tells; needs
    /// [`BLOCK_STATUS_PAYLOAD`](nbd_proto::TransmissionFlags::BLOCK_STATUS_PAYLOAD).
    #[doc(alias = "nbd_aio_block_status_filter")]
    pub const fn contexts(mut self, contexts: &'a [ContextId]) -> Self {
        self.contexts = Some(contexts);
        self
    }

    /// The data of a write, for the session to keep: needed if it
    /// [says so](super::Session::keeps_payload), and taken in any case.
    pub fn payload(mut self, payload: Bytes) -> Self {
        self.payload = Some(payload);
        self
    }

    /// Reports the parts of a read in [`Completion::chunks`].
    #[doc(alias = "nbd_aio_pread_structured")]
    pub const fn report_chunks(mut self) -> Self {
        self.report_chunks = true;
        self
    }

    /// The data that was given to be kept.
    #[must_use]
    pub const fn kept_payload(&self) -> Option<&Bytes> {
        self.payload.as_ref()
    }

    /// In the room that is kept for this ticket, under the limit with which it was
    /// [waited for](super::Session::wait_for_room); or to be told why there is none.
    pub const fn ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }
}

impl From<Command> for Request<'_> {
    fn from(command: Command) -> Self {
        Self::new(command)
    }
}

/// A command that is finished.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Completion {
    /// The id its submission returned; it is free from now on, unless its payload is still
    /// [held](Self::held).
    pub id: RequestId,
    /// What was asked for.
    pub command: Command,
    /// How it went.
    pub result: Result<(), Error>,
    /// The extents of a block status, in order for each context; at most 2^20, and at least
    /// one for each context.
    pub extents: Vec<(ContextId, Extent)>,
    /// The parts of the answer to a read that was to [report](Request::report_chunks) them:
    /// data or holes, in whatever order the server sent them; at most 2^20.
    pub chunks: Vec<ReadChunk>,
    /// The payload of this write may still be asked for, because its time was over when it was
    /// half sent: keep it until [`Session::next_released`](super::Session::next_released) says its id, or let the session
    /// [copy](super::Session::copy_held) it.
    pub held: bool,
}
