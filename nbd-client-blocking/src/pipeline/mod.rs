//! Many commands in flight.

mod poll;

use std::collections::BTreeMap;
use std::fmt;

use nbd_proto::{
    Command, CommandError, CommandFailure, CommandFlags, CommandType, ContextId, Direction,
    Disconnect, Machine, RequestId, RequestStatus, SubmitError,
};
use nbd_session::OldError as Error;

use crate::client::Client;
use crate::completion::Completion;
use crate::ports::Many;

/// Keeps many commands in flight on one connection.
///
/// Submitting queues a command and returns at once. Waiting sends everything that is
/// queued in as few system calls as possible and takes in every reply that has come.
/// So a loop that submits until the pipeline is as deep as it likes, then waits for one
/// completion, batches by nature.
///
/// Buffers are given up on submission and come back with the completion: `Vec<u8>`,
/// `Box<[u8]>`, `&mut [u8]`, or anything else that is bytes.
///
/// ```no_run
/// # let mut client = nbd_client_blocking::Client::connect("nbd://localhost")?;
/// let size = client.size();
/// let mut pipeline = client.pipeline();
/// let mut offset = 0;
/// loop {
///     while offset < size && pipeline.in_flight() < 64 {
///         let length = 65536.min(size - offset);
///         pipeline.read(offset, vec![0; length as usize])?;
///         offset += length;
///     }
///     let Some(done) = pipeline.wait()? else { break };
///     done.result?;
///     println!("{} bytes at {}", done.command.length, done.command.offset);
/// }
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
///
/// # In a poll loop of one's own
///
/// The pipeline's [descriptor](std::os::fd::AsFd) is watched for what [`direction`](Self::direction)
/// says, which changes whenever something was submitted, sent or received. When it is
/// ready, [`notify_read`](Self::notify_read) or [`notify_write`](Self::notify_write) do
/// what goes without waiting, and [`next_completed`](Self::next_completed) tells what
/// came of it.
///
/// Dropping it abandons what is in flight.
#[derive(Debug)]
pub struct Pipeline<'c, B: AsRef<[u8]> + AsMut<[u8]>> {
    pub(crate) client: &'c mut Client,
    pub(crate) ports: Many<B>,
    pub(crate) callbacks: BTreeMap<RequestId, Callback<'c, B>>,
}

/// What is called with a command's completion, in place of giving it back.
pub(crate) struct Callback<'c, B> {
    command: Command,
    pub(crate) call: Box<dyn FnOnce(Completion<B>) + 'c>,
}

impl<B> fmt::Debug for Callback<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").field("command", &self.command).finish_non_exhaustive()
    }
}

impl<'c, B: AsRef<[u8]> + AsMut<[u8]>> Pipeline<'c, B> {
    pub(crate) const fn new(client: &'c mut Client) -> Self {
        Self { client, ports: Many::new(), callbacks: BTreeMap::new() }
    }

    /// Reads into the whole buffer.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer is lost.
    #[inline]
    pub fn read(&mut self, offset: u64, buffer: B) -> Result<RequestId, Error> {
        let length = self.length(&buffer)?;
        self.submit(Command::read(offset, length), Some(buffer))
    }

    /// Writes the whole buffer.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer is lost.
    #[inline]
    pub fn write(&mut self, offset: u64, buffer: B) -> Result<RequestId, Error> {
        self.write_with(offset, buffer, CommandFlags::empty())
    }

    /// Writes the whole buffer with flags such as [`CommandFlags::FUA`].
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer is lost.
    #[inline]
    pub fn write_with(
        &mut self,
        offset: u64,
        buffer: B,
        flags: CommandFlags,
    ) -> Result<RequestId, Error> {
        let length = self.length(&buffer)?;
        self.submit(Command::write(offset, length).with(flags), Some(buffer))
    }

    /// Reads as [`read`](Self::read), and reports each part of the reply in
    /// [`Completion::chunks`]: data or hole, in whatever order the server sends them.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer is lost.
    pub fn read_structured(
        &mut self,
        offset: u64,
        buffer: B,
        flags: CommandFlags,
    ) -> Result<RequestId, Error> {
        let length = self.length(&buffer)?;
        let id = self.submit(Command::read(offset, length).with(flags), Some(buffer))?;
        self.ports.chunks.insert(id, Vec::new());
        Ok(id)
    }

    /// Submits any command; a read or write takes a buffer as long as it says.
    ///
    /// # Errors
    /// When the command cannot be sent, [`SubmitError::Full`] among the reasons, and
    /// [`Error::BufferLength`]; the buffer is lost.
    #[inline(always)]
    pub fn submit(&mut self, command: Command, buffer: Option<B>) -> Result<RequestId, Error> {
        let length = buffer.as_ref().map_or(0, |buffer| buffer.as_ref().len());
        self.client.check_buffer(command, length)?;
        if self.client.recovery.is_some() {
            return self.submit_lasting(command, buffer);
        }
        let submitted = self.client.core.submit(command);
        self.submitted(command, submitted, buffer)
    }

    /// Submits a block status command that asks for some of the meta contexts only.
    ///
    /// # Errors
    /// As [`Client::block_status_filtered`].
    pub fn submit_filtered(
        &mut self,
        command: Command,
        contexts: &[ContextId],
    ) -> Result<RequestId, Error> {
        if let Some(mut lasting) = self.lasting() {
            return lasting.submit(command, Some(contexts), None);
        }
        let submitted = self.client.core.submit_filtered(command, contexts);
        self.submitted(command, submitted, None)
    }

    /// Submits any command whose completion goes to `call`, and is not given back by
    /// [`wait`](Self::wait) and its like, from which `call` is called. It is called exactly
    /// once, unless the completion is [taken](Self::take): when the pipeline is dropped
    /// before, with [`CommandError::ConnectionLost`].
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer is lost, and `call` is not called.
    pub fn submit_then(
        &mut self,
        command: Command,
        buffer: Option<B>,
        call: impl FnOnce(Completion<B>) + 'c,
    ) -> Result<RequestId, Error> {
        let id = self.submit(command, buffer)?;
        let call = Box::new(call);
        self.callbacks.insert(id, Callback { command, call });
        Ok(id)
    }

    #[inline(always)]
    fn submitted(
        &mut self,
        command: Command,
        submitted: Result<RequestId, SubmitError>,
        buffer: Option<B>,
    ) -> Result<RequestId, Error> {
        let id = submitted.map_err(|error| self.client.not_sent(command, error))?;
        self.client.pump.trace.submitted(id, &command);
        if let Some(buffer) = buffer {
            self.ports.buffers.insert(id, buffer);
        }
        Ok(id)
    }

    /// Commands that were submitted and whose completion has not been taken.
    #[must_use]
    #[inline]
    pub fn in_flight(&self) -> usize {
        match &self.client.recovery {
            Some(recovery) => recovery.ledger().in_flight(),
            None => self.client.core.in_flight() + self.client.core.completed(),
        }
    }

    /// Whether one more command would find no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match &self.client.recovery {
            Some(recovery) => recovery.ledger().is_full(),
            None => self.client.core.is_full(),
        }
    }

    /// What is known about a command.
    #[must_use]
    pub fn status(&self, id: RequestId) -> RequestStatus {
        match &self.client.recovery {
            Some(recovery) => recovery.ledger().status(id),
            None => self.client.core.status(id),
        }
    }

    /// The command that finished first among those whose completion has not been taken.
    #[must_use]
    #[inline]
    pub fn peek_completed(&self) -> Option<RequestId> {
        match &self.client.recovery {
            Some(recovery) => recovery.ledger().first_completed(),
            None => self.client.core.peek_completed(),
        }
    }

    /// The export's connection, for questions.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.client
    }

    /// The next command that is finished, or `None` when nothing is in flight. Waits as
    /// long as it takes, or as long as the client's timeout allows.
    ///
    /// # Errors
    /// When the connection fails, or the server was silent for too long. After a failure
    /// of the connection, waiting goes on to give back every command with its buffer.
    #[inline]
    pub fn wait(&mut self) -> Result<Option<Completion<B>>, Error> {
        loop {
            if let Some(completion) = self.next_completed() {
                return Ok(Some(completion));
            }
            if self.in_flight() == 0 {
                return Ok(None);
            }
            self.round()?;
        }
    }

    /// Waits until `least` commands are finished, or all that are in flight if those are
    /// fewer; returns how many are. [`next_completed`](Self::next_completed) gives them
    /// back without waiting.
    ///
    /// Whoever submits the next commands for several completions at a time makes fewer
    /// and larger writes. The first of those completions waits for the last one, and so
    /// do the commands that follow it: with 64 commands in flight and `least` 8, between
    /// 57 and 64 of them are with the server.
    ///
    /// ```no_run
    /// # let mut client = nbd_client_blocking::Client::connect("nbd://localhost")?;
    /// let mut pipeline = client.pipeline();
    /// for block in 0..64 {
    ///     pipeline.read(block * 4096, vec![0; 4096])?;
    /// }
    /// while pipeline.wait_for(8)? > 0 {
    ///     while let Some(done) = pipeline.next_completed() {
    ///         done.result?;
    ///         println!("block {} is here", done.command.offset / 4096);
    ///     }
    /// }
    /// # Ok::<(), nbd_client_blocking::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for(&mut self, least: usize) -> Result<usize, Error> {
        while self.completed() < least.min(self.in_flight()) {
            self.round()?;
        }
        Ok(self.completed())
    }

    /// Sends what is queued, and in the next round waits for something to come; where
    /// connections are made again, until that has finished a command.
    fn round(&mut self) -> Result<(), Error> {
        if self.client.recovery.is_some() {
            return self.lasting_round();
        }
        let Client { core, pump, .. } = &mut *self.client;
        match pump.round(core, &mut self.ports) {
            Err(error @ Error::TimedOut { .. }) => Err(error),
            result => self.kill_unless(result),
        }
    }

    /// A command that is finished, if there is one, after sending and receiving as much as
    /// goes without waiting.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn try_wait(&mut self) -> Result<Option<Completion<B>>, Error> {
        if let Some(completion) = self.next_completed() {
            return Ok(Some(completion));
        }
        self.notify_write()?;
        self.notify_read()?;
        Ok(self.next_completed())
    }

    /// Asks for the end of the session and returns at once; no command is accepted from
    /// now on. Those in flight go on to be completed as `when` says:
    /// [`wait`](Self::wait) for them, then [`Client::disconnect`].
    pub fn disconnect(&mut self, when: Disconnect) {
        self.client.leaving = true;
        match self.lasting() {
            Some(mut lasting) => lasting.disconnect(when),
            None => self.client.core.disconnect(when),
        }
    }

    /// The completion of a command that is finished, if there is one. Sends and receives
    /// nothing.
    #[inline(always)]
    pub fn next_completed(&mut self) -> Option<Completion<B>> {
        if self.client.recovery.is_some() {
            return self.next_lasting().map(|completion| *completion);
        }
        if !self.callbacks.is_empty() {
            return self.next_without_callback().map(|completion| *completion);
        }
        let (id, command, result) = self.client.core.take_next()?;
        Some(self.completion(id, command, result))
    }

    /// [`next_completed`](Self::next_completed) where some commands have callbacks. It is
    /// returned in a box so that the way without them keeps it in registers.
    #[cold]
    #[inline(never)]
    fn next_without_callback(&mut self) -> Option<Box<Completion<B>>> {
        loop {
            let id = self.client.core.peek_completed()?;
            let completion = self.take_finished(id)?;
            match self.callbacks.remove(&id) {
                Some(callback) => (callback.call)(completion),
                None => return Some(Box::new(completion)),
            }
        }
    }

    /// Takes the completion of one command, out of turn; `None` unless
    /// [`status`](Self::status) says [`RequestStatus::Completed`]. If the command has a
    /// callback, that is dropped and not called.
    pub fn take(&mut self, id: RequestId) -> Option<Completion<B>> {
        let completion = self.take_finished(id)?;
        self.callbacks.remove(&id);
        Some(completion)
    }

    fn take_finished(&mut self, id: RequestId) -> Option<Completion<B>> {
        match self.lasting() {
            Some(mut lasting) => lasting.take(id),
            None => {
                let (command, result) = self.client.core.take(id)?;
                Some(self.completion(id, command, result))
            }
        }
    }

    #[inline(always)]
    fn completion(
        &mut self,
        id: RequestId,
        command: Command,
        result: Result<(), CommandError>,
    ) -> Completion<B> {
        let extents = if command.kind == CommandType::BlockStatus {
            self.ports.extents.remove(id).unwrap_or_default()
        } else {
            Vec::new()
        };
        Completion {
            id,
            command,
            buffer: self.ports.buffers.remove(id),
            extents,
            chunks: self.ports.chunks.remove(id).unwrap_or_default(),
            result: self.outcome(id, command, result),
        }
    }

    #[inline(always)]
    fn outcome(
        &mut self,
        id: RequestId,
        command: Command,
        result: Result<(), CommandError>,
    ) -> Result<(), Error> {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(*self.failure(id, command, error)),
        };
        self.client.pump.trace.finished(id, result.as_ref().copied());
        result
    }

    /// In a box, as above.
    #[cold]
    fn failure(&mut self, id: RequestId, command: Command, error: CommandError) -> Box<Error> {
        let remark = self.ports.remarks.remove(id);
        let Client { core, lost, .. } = &*self.client;
        Box::new(Error::failed(core, lost.as_ref(), command, error, remark))
    }

    fn kill_unless<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.client.fail(error);
        }
        result
    }

    /// Commands that are finished: waiting for them would not wait.
    #[must_use]
    #[inline]
    pub fn completed(&self) -> usize {
        match &self.client.recovery {
            Some(recovery) => recovery.ledger().completed(),
            None => self.client.core.completed(),
        }
    }

    /// Waits no longer for what is in flight.
    fn abandon_all(&mut self) {
        if let Some(mut lasting) = self.lasting() {
            return lasting.leave();
        }
        self.client.core.abandon_all();
        // A write that is partly sent still needs its buffer, which goes with us.
        while self.client.core.in_flight() > 0
            && self.client.core.get_direction().contains(Direction::WRITE)
        {
            let Client { core, pump, .. } = &mut *self.client;
            if let Err(error) = pump.round(core, &mut self.ports) {
                self.client.fail(&error);
            }
        }
    }

    #[inline]
    fn length(&self, buffer: &B) -> Result<u32, Error> {
        let length = buffer.as_ref().len();
        u32::try_from(length).map_err(|_| Error::Submit {
            command: Command::read(0, u32::MAX),
            error: SubmitError::PayloadTooLong,
        })
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Drop for Pipeline<'_, B> {
    fn drop(&mut self) {
        // Completions nobody took are nobody's any more, but for the callbacks.
        while self.next_completed().is_some() {}
        self.abandon_all();
        for (id, Callback { command, call }) in std::mem::take(&mut self.callbacks) {
            let failure = CommandFailure::new(command, CommandError::ConnectionLost, None);
            call(Completion {
                id,
                command,
                buffer: self.ports.buffers.remove(id),
                extents: Vec::new(),
                chunks: Vec::new(),
                result: Err(failure.into()),
            });
        }
    }
}
