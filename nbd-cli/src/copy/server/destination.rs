//! Writing an export.

use std::collections::VecDeque;
use std::time::Duration;

use nbd_client_blocking::proto::{
    ClientConfig, Command, CommandFlags, CommandType, Errno, Protocol, TransmissionFlags,
};
use nbd_client_blocking::{Client, Error, Pipeline};

use super::silence::Silence;
use super::{longest_range, request_size};
use crate::copy::destination::too_small;
use crate::copy::job::Job;
use crate::copy::lanes;
use crate::copy::piece::{Piece, Sink, Slice};
use crate::copy::progress::Progress;
use crate::failure::{Context, Failure, Result};
use crate::target::Server;

/// An export that is written.
pub(in crate::copy) struct ServerDestination {
    server: Server,
    limit: Option<Duration>,
    client: Client,
}

impl ServerDestination {
    pub(in crate::copy) fn open(
        server: &Server,
        size: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Self> {
        let client = server.connect(ClientConfig::new(), limit)?;
        let name = &server.name;
        if client.is_read_only() {
            return Err(Failure::new(format!("{name}: the export is read-only")));
        }
        if size.is_some_and(|size| size > client.size()) {
            return Err(too_small(name, client.size(), size));
        }
        let destination = Self { server: server.clone(), limit, client };
        let block = destination.block();
        if let Some(size) = size.filter(|size| size % block as u64 != 0) {
            return Err(Failure::new(format!(
                "{}: takes whole blocks of {block} bytes only, but the source has {size} bytes; \
                 nothing was written",
                server.name
            )));
        }
        Ok(destination)
    }

    pub(in crate::copy) fn block(&self) -> usize {
        self.client.export().minimum_block() as usize
    }

    /// How many lanes it can be written on, of those that are wanted.
    pub(in crate::copy) fn lanes(&self, wanted: usize) -> usize {
        lanes::connections(&self.client, self.server.is_command(), wanted)
    }

    /// Connects once more, if that is safe.
    pub(in crate::copy) fn another(&self) -> impl FnOnce() -> Result<Self> + Send + use<> {
        let (server, limit) = (self.server.clone(), self.limit);
        let facts = self.client.negotiated().clone();
        move || {
            let client = lanes::beside(&server, ClientConfig::new(), limit, &facts)?;
            Ok(Self { server, limit, client })
        }
    }

    /// Writes what `body` sends, and makes it durable if the server offers that.
    pub(in crate::copy) fn run(
        self,
        job: &Job,
        body: impl FnOnce(&mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        let Self { server, mut client, limit } = self;
        let (plan, progress) = (&job.plan, &*job.progress);
        let name = server.name;
        let flags = client.flags();
        let mut writer = Writer {
            name: &name,
            progress,
            size: client.size(),
            request: request_size(&client, plan),
            longest: longest_range(&client),
            boundary: plan.longest_zero,
            can_zero: flags.contains(TransmissionFlags::SEND_WRITE_ZEROES),
            skip_zeroes: plan.skip_zeroes,
            zero_flags: if plan.allocated { CommandFlags::NO_HOLE } else { CommandFlags::empty() },
            depth: plan.requests,
            pipeline: client.pipeline(),
            silence: Silence::new(&name, limit, &job.stop),
            refused: VecDeque::new(),
            spare: Vec::new(),
        };
        body(&mut writer)?;
        writer.finish()?;
        if flags.contains(TransmissionFlags::SEND_FLUSH) {
            let flushed = writer.flush()?;
            drop(writer);
            match flushed {
                // nbdkit 1.32 offers it in oldstyle, too, and does not know it then.
                Err(error) if !plan.flush && is_oldstyle(&client) && is_unknown(&error) => {}
                result => result.context(&name)?,
            }
            // What is written is safe, however the goodbye goes.
            let _ = client.disconnect();
            return Ok(());
        }
        drop(writer);
        client.disconnect().context(&name)
    }
}

fn is_oldstyle(client: &Client) -> bool {
    client.negotiated().protocol == Protocol::Oldstyle
}

/// Whether the server may not know a command, though it offered it: nbdkit 1.32 does so in
/// oldstyle.
fn is_unknown(error: &Error) -> bool {
    error
        .command_failure()
        .is_some_and(|failure| matches!(failure.error.errno(), Errno::Inval | Errno::NotSup))
}

struct Writer<'a> {
    name: &'a str,
    progress: &'a Progress,
    size: u64,
    request: u64,
    longest: u64,
    boundary: u64,
    can_zero: bool,
    skip_zeroes: bool,
    zero_flags: CommandFlags,
    depth: usize,
    pipeline: Pipeline<'a, Slice>,
    silence: Silence<'a>,
    /// Offsets and lengths that the server would not zero: they are written instead.
    refused: VecDeque<(u64, u64)>,
    spare: Vec<Vec<u8>>,
}

impl Sink for Writer<'_> {
    fn put(&mut self, piece: Piece) -> Result<()> {
        let (offset, length) = match &piece {
            Piece::Data { offset, bytes } => (*offset, bytes.len() as u64),
            Piece::Zeroes { offset, length } => (*offset, *length),
        };
        if offset + length > self.size {
            return Err(too_small(self.name, self.size, None));
        }
        self.progress.begin();
        match piece {
            Piece::Data { bytes, .. } if length <= self.request => {
                self.pipeline.write(bytes, offset).context(self.name)?;
            }
            Piece::Data { bytes, .. } => {
                // The destination takes smaller requests than the source.
                let mut at = offset;
                for part in bytes.as_ref().chunks(self.request as usize) {
                    let part = Slice::new(part.to_vec(), 0..part.len());
                    let length = part.len() as u64;
                    self.make_room()?;
                    self.pipeline.write(part, at).context(self.name)?;
                    at += length;
                }
                self.spare.push(bytes.into_buffer());
            }
            Piece::Zeroes { .. } if self.skip_zeroes => self.progress.zeroes(length),
            Piece::Zeroes { .. } => self.zero(offset, length)?,
        }
        self.make_room()
    }

    fn is_busy(&self) -> bool {
        self.pipeline.in_flight() > 0 || !self.refused.is_empty()
    }

    fn advance(&mut self) -> Result<()> {
        match self.refused.pop_front() {
            Some((offset, length)) => self.zero(offset, length),
            None => self.complete(),
        }
    }

    fn spare(&mut self) -> Option<Vec<u8>> {
        self.spare.pop()
    }
}

impl Writer<'_> {
    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            self.make_room()?;
            let length = if self.can_zero {
                let boundary = (at - at % self.boundary).saturating_add(self.boundary);
                let length = (end.min(boundary) - at).min(self.longest);
                let command = Command::write_zeroes(at, length).with(self.zero_flags);
                self.pipeline.submit(command, None).context(self.name)?;
                length
            } else {
                let length = (end - at).min(self.request);
                let bytes = Slice::new(vec![0; length as usize], 0..length as usize);
                self.pipeline.write(bytes, at).context(self.name)?;
                length
            };
            at += length;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<()> {
        while self.pipeline.in_flight() >= self.depth {
            self.complete()?;
        }
        Ok(())
    }

    /// Waits until one request is done.
    fn complete(&mut self) -> Result<()> {
        let Some(done) = self.silence.wait(&mut self.pipeline)? else {
            return Ok(());
        };
        let command = done.command;
        match (command.kind, done.result) {
            (CommandType::WriteZeroes, Err(error)) if is_unknown(&error) => {
                self.can_zero = false;
                self.refused.push_back((command.offset, command.length));
            }
            (_, Err(error)) => return Err(error).context(self.name),
            (CommandType::WriteZeroes, Ok(())) => self.progress.zeroes(command.length),
            (_, Ok(())) => self.progress.data(command.length),
        }
        self.spare.extend(done.buffer.map(Slice::into_buffer));
        Ok(())
    }

    /// Waits for all that is under way.
    fn finish(&mut self) -> Result<()> {
        while self.is_busy() {
            self.advance()?;
        }
        Ok(())
    }

    /// Returns what the server answered.
    fn flush(&mut self) -> Result<std::result::Result<(), Error>> {
        self.pipeline.submit(Command::flush(), None).context(self.name)?;
        let done = self.silence.wait(&mut self.pipeline)?;
        Ok(done.map_or(Ok(()), |done| done.result))
    }
}
