//! Many commands in flight.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nbd_proto::{
    Command, CommandError, CommandFailure, CommandFlags, CommandType, ContextId, Direction,
    Disconnect, Machine, RequestId, RequestStatus, SubmitError,
};
use nbd_transport::Error;

use crate::client::Client;
use crate::completion::{Completion, Woken};
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
/// The pipeline's [descriptor](AsFd) is watched for what [`direction`](Self::direction)
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
    pub fn read(&mut self, offset: u64, buffer: B) -> Result<RequestId, Error> {
        let length = self.length(&buffer)?;
        self.submit(Command::read(offset, length), Some(buffer))
    }

    /// Writes the whole buffer.
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer is lost.
    pub fn write(&mut self, offset: u64, buffer: B) -> Result<RequestId, Error> {
        let length = self.length(&buffer)?;
        self.submit(Command::write(offset, length), Some(buffer))
    }

    /// Writes the whole buffer with flags such as [`CommandFlags::FUA`].
    ///
    /// # Errors
    /// When the command cannot be sent; the buffer is lost.
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
    /// When the command cannot be sent, [`SubmitError::Full`] among the reasons; the
    /// buffer is lost.
    pub fn submit(&mut self, command: Command, buffer: Option<B>) -> Result<RequestId, Error> {
        if let Some(mut lasting) = self.lasting() {
            return lasting.submit(command, None, buffer);
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
    /// once: when the pipeline is dropped before, with [`CommandError::ConnectionLost`].
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

    fn submitted(
        &mut self,
        command: Command,
        submitted: Result<RequestId, SubmitError>,
        buffer: Option<B>,
    ) -> Result<RequestId, Error> {
        let id = submitted.map_err(|error| Error::not_sent(&self.client.core, command, error))?;
        self.client.pump.trace.submitted(id, &command);
        if let Some(buffer) = buffer {
            self.ports.buffers.insert(id, buffer);
        }
        Ok(id)
    }

    /// Commands that were submitted and whose completion has not been taken.
    #[must_use]
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
    pub fn wait(&mut self) -> Result<Option<Completion<B>>, Error> {
        if self.client.recovery.is_some() {
            return self.wait_lasting();
        }
        loop {
            if let Some(completion) = self.next_on_this() {
                return Ok(Some(completion));
            }
            if self.client.core.in_flight() == 0 {
                return Ok(None);
            }
            if let Err(error) = self.client.pump.round(&mut self.client.core, &mut self.ports) {
                if matches!(error, Error::TimedOut { .. }) {
                    return Err(error);
                }
                self.client.kill();
                return Err(error);
            }
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

    /// What a poller is to watch the [descriptor](AsFd) for. Nothing, while the connection
    /// is lost and to be made [again](crate::Builder::reconnect): [`wait`](Self::wait) and
    /// [`poll`](Self::poll) do that, and the descriptor is another one then.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.client.pump.link.direction(&self.client.core)
    }

    /// Receives as much as goes without waiting.
    ///
    /// # Errors
    /// When the connection fails. Every command is completed then.
    pub fn notify_read(&mut self) -> Result<(), Error> {
        if let Some(mut lasting) = self.lasting() {
            return lasting.receive();
        }
        if !self.direction().contains(Direction::READ) {
            return Ok(());
        }
        let Client { core, pump, .. } = &mut *self.client;
        let result = pump.receive(core, &mut self.ports, false);
        self.kill_unless(result)
    }

    /// Sends as much as goes without waiting.
    ///
    /// # Errors
    /// When the connection fails. Every command is completed then.
    pub fn notify_write(&mut self) -> Result<(), Error> {
        if let Some(mut lasting) = self.lasting() {
            return lasting.send();
        }
        let Client { core, pump, .. } = &mut *self.client;
        let result = pump.send(core, &self.ports);
        self.kill_unless(result)
    }

    /// Waits until something can be sent or received, does it, and returns; for ever
    /// without a timeout.
    ///
    /// # Errors
    /// When the connection fails, or is over so that there is nothing to wait for.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Woken, Error> {
        self.turn(None, timeout)
    }

    /// Waits as [`poll`](Self::poll) does, and also until another descriptor has
    /// something to read, such as a pipe by which another thread ends the wait.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_with(
        &mut self,
        other: impl AsFd,
        timeout: Option<Duration>,
    ) -> Result<Woken, Error> {
        self.turn(Some(other.as_fd()), timeout)
    }

    fn turn(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> Result<Woken, Error> {
        if let Some(mut lasting) = self.lasting() {
            return lasting.turn(other, timeout);
        }
        let direction = self.direction();
        if direction.is_empty() {
            return Err(Error::Protocol(nbd_proto::PeerMisbehaved::Closed.into()));
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let waited = self.client.pump.wait_either(direction, other, deadline);
        let Some(ready) = self.kill_unless(waited)? else {
            return Ok(Woken::TimedOut);
        };
        if ready.socket.contains(Direction::WRITE) {
            self.notify_write()?;
        }
        if ready.socket.contains(Direction::READ) {
            self.notify_read()?;
        }
        Ok(if ready.extra { Woken::Other } else { Woken::Progress })
    }

    /// Asks for the end of the session and returns at once; no command is accepted from
    /// now on. Those in flight go on to be completed as `when` says:
    /// [`wait`](Self::wait) for them, then [`Client::disconnect`].
    pub fn disconnect(&mut self, when: Disconnect) {
        match self.lasting() {
            Some(mut lasting) => lasting.disconnect(when),
            None => self.client.core.disconnect(when),
        }
    }

    /// The completion of a command that is finished, if there is one. Sends and receives
    /// nothing.
    pub fn next_completed(&mut self) -> Option<Completion<B>> {
        if self.client.recovery.is_some() {
            return self.next_lasting();
        }
        self.next_on_this()
    }

    /// [`next_completed`](Self::next_completed) where this connection is the only one.
    fn next_on_this(&mut self) -> Option<Completion<B>> {
        loop {
            let id = self.client.core.peek_completed()?;
            let completion = self.take_on_this(id)?;
            if self.callbacks.is_empty() {
                return Some(completion);
            }
            match self.callbacks.remove(&id) {
                Some(callback) => (callback.call)(completion),
                None => return Some(completion),
            }
        }
    }

    /// Takes the completion of one command, out of turn and past its callback; `None`
    /// unless [`status`](Self::status) says [`RequestStatus::Completed`].
    pub fn take(&mut self, id: RequestId) -> Option<Completion<B>> {
        match self.lasting() {
            Some(mut lasting) => lasting.take(id),
            None => self.take_on_this(id),
        }
    }

    fn take_on_this(&mut self, id: RequestId) -> Option<Completion<B>> {
        let (command, result) = self.client.core.take(id)?;
        let extents = if command.kind == CommandType::BlockStatus {
            self.ports.extents.remove(id).unwrap_or_default()
        } else {
            Vec::new()
        };
        let result = result.map_err(|error| {
            let remark = self.ports.remarks.remove(id);
            Error::failed(&self.client.core, command, error, remark)
        });
        self.client.pump.trace.finished(id, result.as_ref().copied());
        Some(Completion {
            id,
            command,
            buffer: self.ports.buffers.remove(id),
            extents,
            chunks: self.ports.chunks.remove(id).unwrap_or_default(),
            result,
        })
    }

    fn kill_unless<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.client.kill();
        }
        result
    }

    /// Commands that are finished: waiting for them would not wait.
    #[must_use]
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
            if pump.round(core, &mut self.ports).is_err() {
                self.client.kill();
            }
        }
    }

    fn length(&self, buffer: &B) -> Result<u32, Error> {
        let length = buffer.as_ref().len();
        u32::try_from(length).map_err(|_| Error::Submit {
            command: Command::read(0, u32::MAX),
            error: SubmitError::PayloadTooLong,
        })
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> AsFd for Pipeline<'_, B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
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
