//! What becomes of commands in flight, and of waiting for them.

use nbd_proto::{Command, ContextId, Extent, ReadChunk, RequestId};
use nbd_session::Error;
#[cfg(doc)]
use nbd_session::Request;

/// What [`Pipeline::poll`](crate::Pipeline::poll) ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "nbd_poll2")]
pub enum Woken {
    /// Something was sent or received.
    Progress,
    /// The other descriptor has something to read.
    Other,
    /// The time is over.
    TimedOut,
}

/// A command that is finished.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion<B> {
    /// The id its submission returned; it is free from now on.
    pub id: RequestId,
    /// What was asked for.
    pub command: Command,
    /// The buffer of a read or write.
    #[doc(alias = "NBD.Buffer")]
    pub buffer: Option<B>,
    /// The extents of a block status, in order for each context; at most 2^20, and at least
    /// one for each context.
    #[doc(alias("nbd_aio_block_status", "nbd_aio_block_status_64"))]
    pub extents: Vec<(ContextId, Extent)>,
    /// The parts of the answer to a read that was to [report](Request::report_chunks) them:
    /// data or holes, in whatever order the server sent them; at most 2^20.
    #[doc(alias = "nbd_aio_pread_structured")]
    pub chunks: Vec<ReadChunk>,
    /// How it went.
    pub result: Result<(), Error>,
}
