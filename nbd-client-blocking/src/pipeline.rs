//! Many commands in flight.

use nbd_proto::{
    Command, CommandFlags, CommandType, ContextId, Direction, Extent, Machine, RequestId,
    SubmitError,
};

use crate::client::Client;
use crate::error::Error;
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
/// Dropping it abandons what is in flight.
#[derive(Debug)]
pub struct Pipeline<'c, B: AsRef<[u8]> + AsMut<[u8]>> {
    client: &'c mut Client,
    ports: Many<B>,
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
    /// How it went.
    pub result: Result<(), Error>,
}

impl<'c, B: AsRef<[u8]> + AsMut<[u8]>> Pipeline<'c, B> {
    pub(crate) const fn new(client: &'c mut Client) -> Self {
        Self {
            client,
            ports: Many::new(),
        }
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

    /// Submits any command; a read or write takes a buffer as long as it says.
    ///
    /// # Errors
    /// When the command cannot be sent, [`SubmitError::Full`] among the reasons; the
    /// buffer is lost.
    pub fn submit(&mut self, command: Command, buffer: Option<B>) -> Result<RequestId, Error> {
        let id = self
            .client
            .core
            .submit(command)
            .map_err(|error| self.client.not_sent(command, error))?;
        if let Some(buffer) = buffer {
            self.ports.buffers.insert(id, buffer);
        }
        Ok(id)
    }

    /// Commands that were submitted and whose completion has not been taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.client.core.in_flight() + self.client.core.completed()
    }

    /// Whether one more command would find no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.client.core.is_full()
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
        loop {
            if let Some(completion) = self.completion() {
                return Ok(Some(completion));
            }
            if self.client.core.in_flight() == 0 {
                return Ok(None);
            }
            if let Err(error) = self
                .client
                .pump
                .round(&mut self.client.core, &mut self.ports)
            {
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
        if let Some(completion) = self.completion() {
            return Ok(Some(completion));
        }
        let Client { core, pump } = &mut *self.client;
        let round = pump.send(core, &self.ports).and_then(|()| {
            if core.get_direction().contains(Direction::READ) {
                pump.receive(core, &mut self.ports, false)?;
            }
            Ok(())
        });
        if let Err(error) = round {
            self.client.kill();
            return Err(error);
        }
        Ok(self.completion())
    }

    fn completion(&mut self) -> Option<Completion<B>> {
        let id = self.client.core.peek_completed()?;
        let (command, result) = self.client.core.take(id)?;
        let extents = if command.kind == CommandType::BlockStatus {
            self.ports.extents.remove(id).unwrap_or_default()
        } else {
            Vec::new()
        };
        let result = result.map_err(|error| {
            let remark = self.ports.remarks.remove(id);
            self.client.failed(command, error, remark)
        });
        Some(Completion {
            id,
            command,
            buffer: self.ports.buffers.remove(id),
            extents,
            result,
        })
    }

    /// Commands that are finished: waiting for them would not wait.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.client.core.completed()
    }

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
        // Completions nobody took are nobody's any more.
        while self.completion().is_some() {}
        if self.client.core.in_flight() == 0 {
            return;
        }
        self.client.core.abandon_all();
        // A write that is partly sent still needs its buffer, which goes with us.
        while self.client.core.get_direction().contains(Direction::WRITE) {
            if self
                .client
                .pump
                .round(&mut self.client.core, &mut self.ports)
                .is_err()
            {
                self.client.kill();
                return;
            }
        }
    }
}
