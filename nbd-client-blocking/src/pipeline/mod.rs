//! Many commands in flight.

mod poll;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use nbd_proto::{Buffers, Command, CommandFlags, Disconnect, RequestId, RequestStatus};
#[cfg(doc)]
use nbd_session::Session;
use nbd_session::{Error, Rejected, Request, Withdrawn};

use crate::client::Client;
use crate::completion::Completion;

/// Keeps many commands in flight on one connection.
///
/// Submitting queues a command and returns at once. Waiting sends everything that is
/// queued in as few system calls as possible and takes in every reply that has come.
/// So a loop that submits until the pipeline is as deep as it likes, then waits for one
/// completion, batches by nature.
///
/// Buffers are given up on submission and come back with the completion, or with the reason
/// why the command was [rejected](Rejected): `Vec<u8>`, `Box<[u8]>`, `&mut [u8]`, or anything
/// else that is bytes. For `&[u8]` see [`Borrowed`](crate::Borrowed). Those of a
/// [`BufferPool`](nbd_session::BufferPool) have no memory while they wait.
///
/// ```no_run
/// # let mut client = nbd_client_blocking::Client::connect("nbd://localhost")?;
/// let size = client.size();
/// let mut pipeline = client.pipeline();
/// let mut offset = 0;
/// loop {
///     while offset < size && pipeline.in_flight() < 64 {
///         let length = 65536.min(size - offset);
///         pipeline.read(vec![0; length as usize], offset)?;
///         offset += length;
///     }
///     let Some(done) = pipeline.wait() else { break };
///     done.result?;
///     println!("{} bytes at {}", done.command.length, done.command.offset);
/// }
/// # Ok::<(), nbd_client_blocking::Error>(())
/// ```
///
/// # In a poll loop of one's own
///
/// The socket of the [connection](Client::connection) is watched for what
/// [`direction`](Self::direction) says, which changes whenever something was submitted, sent
/// or received. When it is ready, [`notify_read`](Self::notify_read) or
/// [`notify_write`](Self::notify_write) do what goes without waiting, and
/// [`next_completion`](Self::next_completion) tells what came of it. Limits of time are minded
/// by the same two: call one when [`Session::next_deadline`] has come.
///
/// Dropping it withdraws what is in flight.
#[derive(Debug)]
pub struct Pipeline<'c, B: AsRef<[u8]> + AsMut<[u8]>> {
    client: &'c mut Client,
    buffers: Buffers<B>,
    callbacks: BTreeMap<RequestId, Callback<'c, B>>,
}

/// What is called with a command's completion, in place of giving it back.
struct Callback<'c, B> {
    command: Command,
    call: Box<dyn FnOnce(Completion<B>) + 'c>,
}

impl<B> fmt::Debug for Callback<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts keeping many commands in flight.
    pub const fn pipeline<B: AsRef<[u8]> + AsMut<[u8]>>(&mut self) -> Pipeline<'_, B> {
        Pipeline { client: self, buffers: Buffers::new(), callbacks: BTreeMap::new() }
    }
}

impl<'c, B: AsRef<[u8]> + AsMut<[u8]>> Pipeline<'c, B> {
    /// Reads into the whole buffer.
    ///
    /// # Errors
    /// When the command cannot be sent.
    #[inline]
    #[doc(alias = "nbd_aio_pread")]
    pub fn read(&mut self, buffer: B, offset: u64) -> Result<RequestId, Rejected<B>> {
        self.submit(Command::read(offset, length(&buffer)), Some(buffer))
    }

    /// Writes the whole buffer.
    ///
    /// # Errors
    /// When the command cannot be sent.
    #[inline]
    #[doc(alias = "nbd_aio_pwrite")]
    pub fn write(&mut self, buffer: B, offset: u64) -> Result<RequestId, Rejected<B>> {
        self.write_with(buffer, offset, CommandFlags::empty())
    }

    /// Writes the whole buffer with flags such as [`CommandFlags::FUA`].
    ///
    /// # Errors
    /// When the command cannot be sent.
    #[inline]
    #[doc(alias = "nbd_aio_pwrite")]
    pub fn write_with(
        &mut self,
        buffer: B,
        offset: u64,
        flags: CommandFlags,
    ) -> Result<RequestId, Rejected<B>> {
        self.submit(Command::write(offset, length(&buffer)).with(flags), Some(buffer))
    }

    /// Submits any command; a read or write takes a buffer as long as it says.
    ///
    /// # Errors
    /// When the command cannot be sent: [no room](Error::is_full) is among the reasons, and a
    /// buffer of another length.
    #[inline(always)]
    #[doc(alias(
        "nbd_aio_flush",
        "nbd_aio_trim",
        "nbd_aio_cache",
        "nbd_aio_zero",
        "nbd_aio_block_status",
        "nbd_aio_block_status_64"
    ))]
    pub fn submit(
        &mut self,
        command: Command,
        buffer: Option<B>,
    ) -> Result<RequestId, Rejected<B>> {
        let Client { driver, limit, .. } = &mut *self.client;
        let payload = buffer.as_ref().map_or(&[][..], AsRef::as_ref);
        let submitted = match driver.session.check_payload(&command, payload.len()) {
            Ok(()) => match driver.submit(command, payload, *limit, Instant::now) {
                // Whoever only submits never reads.
                Err(_) if driver.look_for_room(&mut self.buffers) => {
                    driver.submit(command, payload, *limit, Instant::now)
                }
                submitted => submitted,
            },
            Err(error) => Err(error),
        };
        self.submitted(submitted, buffer)
    }

    /// Submits a command with all that may go with it, such as a limit of its own; a read or
    /// write takes a buffer as long as it says.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_request(
        &mut self,
        request: Request<'_>,
        buffer: Option<B>,
    ) -> Result<RequestId, Rejected<B>> {
        let driver = &mut self.client.driver;
        let payload = buffer.as_ref().map_or(&[][..], AsRef::as_ref);
        let submitted = match driver.session.check_payload(request.command(), payload.len()) {
            Ok(()) => {
                driver.look_for_room(&mut self.buffers);
                driver.submit_request(request, payload, Instant::now())
            }
            Err(error) => Err(error),
        };
        self.submitted(submitted, buffer)
    }

    /// Submits any command whose completion goes to `call`, and is not given back by
    /// [`wait`](Self::wait) and its like, from which `call` is called. It is called once, with
    /// an error when the pipeline is dropped before; but not at all when the completion is
    /// [taken](Self::take) out of turn.
    ///
    /// # Errors
    /// When the command cannot be sent; `call` is not called.
    #[doc(alias("nbd_set_private_data", "nbd_get_private_data"))]
    pub fn submit_then(
        &mut self,
        command: Command,
        buffer: Option<B>,
        call: impl FnOnce(Completion<B>) + 'c,
    ) -> Result<RequestId, Rejected<B>> {
        let id = self.submit(command, buffer)?;
        let call = Box::new(call);
        self.callbacks.insert(id, Callback { command, call });
        Ok(id)
    }

    #[inline(always)]
    fn submitted(
        &mut self,
        submitted: Result<RequestId, Error>,
        buffer: Option<B>,
    ) -> Result<RequestId, Rejected<B>> {
        match (submitted, buffer) {
            (Ok(id), Some(buffer)) => {
                self.buffers.insert(id, buffer);
                Ok(id)
            }
            (Ok(id), None) => Ok(id),
            (Err(error), buffer) => Err(Rejected { error, buffer }),
        }
    }

    /// Commands that were submitted and whose completion has not been taken.
    #[must_use]
    #[inline]
    #[doc(alias = "nbd_aio_in_flight")]
    pub fn in_flight(&self) -> usize {
        self.client.session().in_flight()
    }

    /// Whether one more command would find no room before something was
    /// [waited](Self::wait) for.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.client.session().is_full()
    }

    /// What is known about a command.
    #[must_use]
    #[doc(alias = "nbd_aio_command_completed")]
    pub fn status(&self, id: RequestId) -> RequestStatus {
        self.client.session().status(id)
    }

    /// The command that finished first among those whose completion has not been taken.
    #[must_use]
    #[doc(alias = "nbd_aio_peek_command_completed")]
    pub fn peek_completed(&mut self) -> Option<RequestId> {
        self.client.driver.session.peek_completed()
    }

    /// Commands that are finished: waiting for them would not wait.
    #[must_use]
    #[inline]
    pub fn completed(&self) -> usize {
        self.client.session().completed()
    }

    /// The export's connection, for questions.
    #[must_use]
    pub const fn client(&self) -> &Client {
        self.client
    }

    /// The next command that is finished, or `None` when nothing is in flight. Waits as long
    /// as it takes: see [`ConnectOptions::request_timeout`](nbd_session::ConnectOptions).
    ///
    /// Where commands that were given up hold [all the room](Self::is_full), it waits for some
    /// before it returns `None`, as long as a command may take; when there is none by then, the
    /// next [`submit`](Self::submit) fails, because time is over.
    #[inline]
    #[doc(alias = "nbd_poll")]
    pub fn wait(&mut self) -> Option<Completion<B>> {
        loop {
            if let Some(completion) = self.next_completion() {
                return Some(completion);
            }
            if self.in_flight() == 0 && !self.is_full() {
                return None;
            }
            self.client.driver.turn(&mut self.buffers, Instant::now());
        }
    }

    /// Waits until `least` commands are finished, or all that are in flight if those are
    /// fewer; returns how many are. [`next_completion`](Self::next_completion) gives them
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
    ///     pipeline.read(vec![0; 4096], block * 4096)?;
    /// }
    /// while pipeline.wait_for(8) > 0 {
    ///     while let Some(done) = pipeline.next_completion() {
    ///         done.result?;
    ///         println!("block {} is here", done.command.offset / 4096);
    ///     }
    /// }
    /// # Ok::<(), nbd_client_blocking::Error>(())
    /// ```
    pub fn wait_for(&mut self, least: usize) -> usize {
        while self.completed() < least.min(self.in_flight()) {
            self.client.driver.turn(&mut self.buffers, Instant::now());
        }
        self.completed()
    }

    /// A command that is finished, if there is one, after sending and receiving as much as
    /// goes without waiting.
    pub fn try_wait(&mut self) -> Option<Completion<B>> {
        if let Some(completion) = self.next_completion() {
            return Some(completion);
        }
        self.notify_write();
        self.notify_read();
        self.next_completion()
    }

    /// Asks for the end of the session and returns at once; no command is accepted from
    /// now on. Those in flight go on to be completed as `when` says:
    /// [`wait`](Self::wait) for them, then [`Client::disconnect`].
    #[doc(alias("nbd_aio_disconnect", "nbd_shutdown"))]
    pub fn disconnect(&mut self, when: Disconnect) {
        let Client { driver, limit, .. } = &mut *self.client;
        driver.session.disconnect(when, *limit, Instant::now());
    }

    /// The completion of a command that is finished, if there is one. Sends and receives
    /// nothing.
    #[inline(always)]
    pub fn next_completion(&mut self) -> Option<Completion<B>> {
        if !self.callbacks.is_empty() {
            return self.next_without_callback().map(|completion| *completion);
        }
        let done = self.client.driver.session.next_completion()?;
        Some(self.completion(done))
    }

    /// [`next_completion`](Self::next_completion) where some commands have callbacks. It is
    /// returned in a box so that the way without them keeps it in registers.
    #[cold]
    #[inline(never)]
    fn next_without_callback(&mut self) -> Option<Box<Completion<B>>> {
        loop {
            let done = self.client.driver.session.next_completion()?;
            let completion = self.completion(done);
            match self.callbacks.remove(&completion.id) {
                Some(callback) => (callback.call)(completion),
                None => return Some(Box::new(completion)),
            }
        }
    }

    /// Takes the completion of one command, out of turn and past its callback; `None`
    /// unless [`status`](Self::status) says [`RequestStatus::Completed`].
    #[doc(alias = "nbd_aio_command_completed")]
    pub fn take(&mut self, id: RequestId) -> Option<Completion<B>> {
        let done = self.client.driver.session.take(id)?;
        self.callbacks.remove(&id);
        Some(self.completion(done))
    }

    #[inline(always)]
    fn completion(&mut self, done: nbd_session::Completion) -> Completion<B> {
        let nbd_session::Completion { id, command, extents, chunks, result, held, .. } = done;
        let buffer = self.buffers.remove(id);
        if held {
            self.client.driver.release(id, buffer.as_ref().map_or(&[], AsRef::as_ref));
        }
        Completion { id, command, buffer, extents, chunks, result }
    }
}

/// A buffer that is longer than any command does not fit the longest one.
#[inline]
fn length(buffer: &impl AsRef<[u8]>) -> u32 {
    u32::try_from(buffer.as_ref().len()).unwrap_or(u32::MAX)
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Drop for Pipeline<'_, B> {
    fn drop(&mut self) {
        // Completions nobody took are nobody's any more, but for the callbacks.
        while self.next_completion().is_some() {}
        let session = &mut self.client.driver.session;
        if session.withdraw_all(Instant::now()) == Withdrawn::HalfSent
            && let Some(id) = session.held()
            && let Some(buffer) = self.buffers.get(id)
        {
            session.copy_held(id, buffer.as_ref());
        }
        for (id, Callback { command, call }) in std::mem::take(&mut self.callbacks) {
            call(Completion {
                id,
                command,
                buffer: self.buffers.remove(id),
                extents: Vec::new(),
                chunks: Vec::new(),
                result: Err(Error::stopped()),
            });
        }
    }
}
