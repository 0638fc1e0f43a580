//! What becomes of a command.

use nbd_proto::{Command, ContextId, Extent, ReadChunk, RequestId};
use nbd_session::{Error, Rejected};

/// A command that is finished.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion<B> {
    /// The id its submission returned; it is free from now on.
    pub id: RequestId,
    /// What was asked for.
    pub command: Command,
    /// The buffer of a read or write; `None` of a write whose time was over when it was half
    /// sent, for the rest is still to be sent from it.
    pub buffer: Option<B>,
    /// The extents of a block status.
    pub extents: Vec<(ContextId, Extent)>,
    /// The parts of the answer to a read that was to
    /// [report](nbd_session::Request::report_chunks) them: data or holes, in whatever order the
    /// server sent them; at most 2^20.
    #[doc(alias = "nbd_aio_pread_structured")]
    pub chunks: Vec<ReadChunk>,
    /// How it went.
    pub result: Result<(), Error>,
}

/// What came of a command.
pub(crate) type Outcome<B> = Result<Completion<B>, Rejected<B>>;

/// What to do with the outcome of a command that is not for
/// [`next_completion`](crate::Connection::next_completion).
pub(crate) type OnDone<B> = Box<dyn FnOnce(Outcome<B>) + Send>;
