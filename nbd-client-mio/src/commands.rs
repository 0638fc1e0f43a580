//! From a command to its completion.

use std::time::Instant;

use nbd_proto::{Command, CommandFlags, RequestId};
use nbd_session::{Rejected, Request, Withdrawn};

use crate::completion::{Completion, OnDone};
use crate::connection::Connection;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Reads into the whole buffer, from `offset` on.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer comes back.
    #[doc(alias = "nbd_aio_pread")]
    pub fn read(&mut self, buffer: B, offset: u64) -> Result<RequestId, Rejected<B>> {
        // A length beyond 32 bits does not match the buffer's, which is refused.
        let length = buffer.as_ref().len() as u32;
        self.submit(Command::read(offset, length), Some(buffer))
    }

    /// Writes the whole buffer to `offset`, with flags such as [`CommandFlags::FUA`] or none.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer comes back.
    #[doc(alias = "nbd_aio_pwrite")]
    pub fn write(
        &mut self,
        buffer: B,
        offset: u64,
        flags: CommandFlags,
    ) -> Result<RequestId, Rejected<B>> {
        let length = buffer.as_ref().len() as u32;
        self.submit(Command::write(offset, length).with(flags), Some(buffer))
    }

    /// Submits any command; a read or write takes a buffer as long as it says.
    ///
    /// # Errors
    /// When the command cannot be sent. [`Error::is_full`](crate::Error::is_full) tells that it can be once a
    /// completion was taken. The buffer comes back.
    #[doc(alias("nbd_aio_flush", "nbd_aio_trim", "nbd_aio_cache", "nbd_aio_zero"))]
    #[doc(alias("nbd_aio_block_status"))]
    pub fn submit(
        &mut self,
        command: Command,
        buffer: Option<B>,
    ) -> Result<RequestId, Rejected<B>> {
        self.submit_request(Request::new(command), buffer)
    }

    /// As [`submit`](Self::submit), with what goes along with the command: a limit of its own,
    /// or the meta contexts that a block status is about.
    ///
    /// Where the session [keeps](nbd_session::Session::keeps_payload) what is written, the
    /// buffer of a write is copied, for it comes back before the copy is of no use any more. A
    /// write that shares its data by [`Request::payload`] has no buffer there, and nothing is
    /// copied.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    #[doc(alias = "nbd_aio_block_status_filter")]
    pub fn submit_request(
        &mut self,
        request: Request<'_>,
        buffer: Option<B>,
    ) -> Result<RequestId, Rejected<B>> {
        let lent = buffer.as_ref().map(AsRef::as_ref);
        match self.session.submit_lent(request, lent, Instant::now()) {
            Ok(id) => {
                if let Some(buffer) = buffer {
                    self.buffers.insert(id, buffer);
                }
                self.again = true;
                Ok(id)
            }
            Err(error) => Err(Rejected { error, buffer }),
        }
    }

    /// The same with an outcome that goes elsewhere than to
    /// [`next_completion`](Self::next_completion).
    pub(crate) fn submit_for(
        &mut self,
        request: Request<'_>,
        buffer: Option<B>,
        on_done: OnDone<B>,
    ) -> Option<RequestId> {
        match self.submit_request(request, buffer) {
            Ok(id) => {
                self.remote.insert(id, on_done);
                Some(id)
            }
            Err(rejected) => {
                on_done(Err(rejected));
                None
            }
        }
    }
}

impl<B> Connection<B> {
    /// Stops waiting for a command: there will be no completion. Returns its buffer
    /// unless that is still to be sent from; then it is kept until it was.
    pub fn withdraw(&mut self, id: RequestId) -> Option<B> {
        self.again = true;
        self.remote.remove(id);
        match self.session.withdraw(id, Instant::now()) {
            Withdrawn::Free => self.buffers.remove(id),
            Withdrawn::HalfSent => None,
        }
    }

    /// The next command that is finished. Those of other threads are passed on to them
    /// on the way.
    #[must_use]
    #[doc(alias("nbd_aio_command_completed", "nbd_aio_peek_command_completed"))]
    pub fn next_completion(&mut self) -> Option<Completion<B>> {
        loop {
            let done = self.session.next_completion()?;
            // There is room for one more.
            self.again |= !self.waiting.is_empty();
            let nbd_session::Completion { id, command, result, extents, chunks, held, .. } = done;
            let buffer = if held { None } else { self.buffers.remove(id) };
            let completion = Completion { id, command, buffer, extents, chunks, result };
            match self.remote.remove(id) {
                Some(on_done) => on_done(Ok(completion)),
                None => return Some(completion),
            }
        }
    }
}
