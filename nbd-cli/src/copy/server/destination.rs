//! Writing an export.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::ProgressBar;
use nbd_client_blocking::proto::{
    ClientConfig, Command, CommandFlags, CommandType, Errno, TransmissionFlags,
};
use nbd_client_blocking::{Client, Error, Pipeline};

use super::{longest_range, request_size};
use crate::copy::destination::too_small;
use crate::copy::lanes;
use crate::copy::piece::{Inlet, Next, Piece, Slice};
use crate::copy::{Copied, Plan};
use crate::failure::{Context, Failure, Result};
use crate::target::Server;

/// An export that is written.
pub(crate) struct ServerDestination {
    server: Server,
    timeout: Duration,
    client: Client,
}

impl ServerDestination {
    pub(in crate::copy) fn open(
        server: &Server,
        size: Option<u64>,
        timeout: Duration,
    ) -> Result<Self> {
        let client = server.connect(ClientConfig::new(), timeout)?;
        let name = &server.name;
        if client.is_read_only() {
            return Err(Failure::new(format!("{name}: the export is read-only")));
        }
        if size.is_some_and(|size| size > client.size()) {
            return Err(too_small(name, client.size(), size));
        }
        let destination = Self { server: server.clone(), timeout, client };
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
        self.client.core().export().minimum_block() as usize
    }

    /// How many lanes it can be written on, of those that are wanted.
    pub(in crate::copy) fn lanes(&self, wanted: usize) -> usize {
        lanes::connections(&self.client, self.server.is_command(), wanted)
    }

    /// One for each lane, or as many as the server will have.
    pub(in crate::copy) fn split(self, lanes: usize) -> Vec<Self> {
        let Self { server, timeout, client } = self;
        let connect = || server.connect(ClientConfig::new(), timeout);
        let clients = lanes::more(client, lanes, connect);
        let with = |client| Self { server: server.clone(), timeout, client };
        clients.into_iter().map(with).collect()
    }

    pub(in crate::copy) fn write_all(
        self,
        plan: &Plan,
        inlet: &Inlet,
        bar: &ProgressBar,
    ) -> Result<Copied> {
        let Self { server, mut client, .. } = self;
        let name = server.name;
        let flags = client.flags();
        let writer = Writer {
            name: &name,
            inlet,
            size: client.size(),
            request: request_size(&client, plan),
            longest: longest_range(&client),
            can_zero: flags.contains(TransmissionFlags::SEND_WRITE_ZEROES),
            skip_zeroes: plan.skip_zeroes,
            zero_flags: if plan.allocated { CommandFlags::NO_HOLE } else { CommandFlags::empty() },
            depth: plan.requests,
            pipeline: client.pipeline(),
            refused: VecDeque::new(),
        };
        let copied = writer.run(bar)?;
        if flags.contains(TransmissionFlags::SEND_FLUSH) {
            match client.flush() {
                Err(error) if is_unknown_command(&error) => {}
                result => result.context(&name)?,
            }
        }
        client.disconnect().context(&name)?;
        Ok(copied)
    }
}

/// Whether the server does not know a command, though it offered it: nbdkit 1.32 does so in
/// oldstyle. Then it is as if it had not been offered.
fn is_unknown_command(error: &Error) -> bool {
    matches!(error, Error::Command(failure)
        if matches!(failure.error.errno(), Errno::Inval | Errno::NotSup))
}

struct Writer<'a> {
    name: &'a str,
    inlet: &'a Inlet,
    size: u64,
    request: u64,
    longest: u64,
    can_zero: bool,
    skip_zeroes: bool,
    zero_flags: CommandFlags,
    depth: usize,
    pipeline: Pipeline<'a, Slice>,
    /// Offsets and lengths that the server would not zero: they are written instead.
    refused: VecDeque<(u64, u64)>,
}

impl Writer<'_> {
    fn run(mut self, bar: &ProgressBar) -> Result<Copied> {
        let mut copied = Copied::default();
        loop {
            while let Some((offset, length)) = self.refused.pop_front() {
                self.zero(offset, length)?;
            }
            // Everything that is at hand goes out together; only then is an answer waited
            // for, and only with nothing under way, the source.
            let next =
                if self.pipeline.in_flight() == 0 { self.inlet.wait() } else { self.inlet.poll() };
            match next {
                Next::Piece(piece) => {
                    copied.count(&piece, bar);
                    self.write(piece)?;
                    self.make_room()?;
                }
                Next::End if self.pipeline.in_flight() == 0 => return Ok(copied),
                Next::Empty | Next::End => self.finish_one()?,
            }
        }
    }

    fn write(&mut self, piece: Piece) -> Result<()> {
        let (offset, length) = match &piece {
            Piece::Data { offset, bytes } => (*offset, bytes.len() as u64),
            Piece::Zeroes { offset, length } => (*offset, *length),
        };
        if offset + length > self.size {
            return Err(too_small(self.name, self.size, None));
        }
        match piece {
            Piece::Data { bytes, .. } if length <= self.request => {
                self.pipeline.write(offset, bytes).context(self.name)?;
            }
            Piece::Data { bytes, .. } => {
                // The destination takes smaller requests than the source.
                let mut at = offset;
                for part in bytes.as_ref().chunks(self.request as usize) {
                    let part = Slice::new(part.to_vec(), 0..part.len());
                    let length = part.len() as u64;
                    self.make_room()?;
                    self.pipeline.write(at, part).context(self.name)?;
                    at += length;
                }
                self.inlet.give_back(bytes);
            }
            Piece::Zeroes { .. } if self.skip_zeroes => {}
            Piece::Zeroes { .. } => self.zero(offset, length)?,
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            self.make_room()?;
            let length = if self.can_zero {
                let length = (end - at).min(self.longest);
                let command = Command::write_zeroes(at, length).with(self.zero_flags);
                self.pipeline.submit(command, None).context(self.name)?;
                length
            } else {
                let length = (end - at).min(self.request);
                let bytes = Slice::new(vec![0; length as usize], 0..length as usize);
                self.pipeline.write(at, bytes).context(self.name)?;
                length
            };
            at += length;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<()> {
        while self.pipeline.in_flight() >= self.depth {
            self.finish_one()?;
        }
        Ok(())
    }

    fn finish_one(&mut self) -> Result<()> {
        let Some(done) = self.pipeline.wait().context(self.name)? else {
            return Ok(());
        };
        let command = done.command;
        match done.result {
            Err(error)
                if command.kind == CommandType::WriteZeroes && is_unknown_command(&error) =>
            {
                self.can_zero = false;
                self.refused.push_back((command.offset, command.length));
            }
            result => result.context(self.name)?,
        }
        if let Some(bytes) = done.buffer {
            self.inlet.give_back(bytes);
        }
        Ok(())
    }
}
