//! What becomes of commands in flight, and of waiting for them.

use nbd_proto::{Command, ContextId, Extent, ReadChunk, RequestId};
use nbd_session::OldError as Error;

#[cfg(doc)]
use crate::pipeline::Pipeline;

/// What [`Pipeline::poll`] ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub struct Completion<B> {
    /// The id its submission returned; it is free from now on.
    pub id: RequestId,
    /// What was asked for.
    pub command: Command,
    /// The buffer of a read or write.
    pub buffer: Option<B>,
    /// The extents of a block status.
    pub extents: Vec<(ContextId, Extent)>,
    /// The parts of a [structured read](Pipeline::read_structured), as they came.
    pub chunks: Vec<ReadChunk>,
    /// How it went.
    pub result: Result<(), Error>,
}
