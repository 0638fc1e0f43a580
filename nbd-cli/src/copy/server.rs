//! Both ends of a copy with an NBD server: many requests in flight.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use indicatif::ProgressBar;
use nbd_client_blocking::proto::{
    ClientConfig, Command, CommandFlags, CommandType, ContextId, Extent, HeaderStyle,
    TransmissionFlags,
};
use nbd_client_blocking::{Client, Pipeline};

use super::destination::too_small;
use super::piece::{Inlet, Next, Outlet, Piece, Slice};
use super::sparse;
use super::{Copied, Plan};
use crate::failure::{Context, Result};
use crate::target::Server;

const ALLOCATION: &str = "base:allocation";

/// The longest range asked about, or zeroed, in one compact request: a multiple of any
/// block size.
const MAX_COMPACT: u64 = (1 << 32) - (1 << 16);
/// The longest one in an extended request. Progress should still be seen.
const MAX_EXTENDED: u64 = 1 << 40;

fn longest_range(client: &Client) -> u64 {
    match client.negotiated().headers {
        HeaderStyle::Extended => MAX_EXTENDED,
        HeaderStyle::Simple | HeaderStyle::Structured => MAX_COMPACT,
    }
}

/// Bytes per request that the server takes.
fn request_size(client: &Client, plan: &Plan) -> u64 {
    plan.request_size.min(client.max_request()) as u64
}

/// An export that is read.
pub(crate) struct ServerSource {
    name: String,
    client: Client,
    allocation: Option<ContextId>,
}

impl ServerSource {
    pub(super) fn open(server: &Server, plan: &Plan, timeout: Duration) -> Result<Self> {
        let mut config = ClientConfig::new();
        if plan.use_extents {
            config = config.meta_context(ALLOCATION);
        }
        let client = server.connect(config, timeout)?;
        let allocation = client.context(ALLOCATION);
        Ok(Self { name: server.name.clone(), client, allocation })
    }

    pub(super) fn size(&self) -> u64 {
        self.client.size()
    }

    pub(super) fn read_all(self, plan: &Plan, outlet: &Outlet) -> Result<()> {
        let Self { name, mut client, allocation } = self;
        let mut map = Map {
            allocation,
            mapped: if allocation.is_some() { 0 } else { client.size() },
            asked: None,
            size: client.size(),
            block: u64::from(client.core().export().minimum_block()),
            longest: longest_range(&client),
            data: VecDeque::new(),
        };
        if allocation.is_none() && map.size > 0 {
            map.data.push_back(0..map.size);
        }
        let request = request_size(&client, plan);
        let mut pipeline = client.pipeline::<Vec<u8>>();
        loop {
            map.ask(&mut pipeline).context(&name)?;
            while pipeline.in_flight() < plan.requests {
                let Some(range) = map.next(request) else {
                    break;
                };
                let buffer = outlet.buffer((range.end - range.start) as usize);
                pipeline.read(range.start, buffer).context(&name)?;
            }
            let Some(done) = pipeline.wait().context(&name)? else {
                break;
            };
            done.result.context(&name)?;
            if done.command.kind == CommandType::BlockStatus {
                map.learn(&done.extents, outlet)?;
            } else if let Some(buffer) = done.buffer {
                sparse::send(outlet, done.command.offset, buffer, plan.sparse)?;
            }
        }
        drop(pipeline);
        client.disconnect().context(&name)
    }
}

/// What is known of the source's holes, and what is still to be read.
struct Map {
    allocation: Option<ContextId>,
    /// Everything below is known.
    mapped: u64,
    /// The length asked about at `mapped`, while the answer is under way.
    asked: Option<u64>,
    size: u64,
    /// Reads are in whole blocks of this size.
    block: u64,
    longest: u64,
    /// Ranges to read, in order.
    data: VecDeque<Range<u64>>,
}

impl Map {
    /// Asks about what comes next, early enough that reading does not wait for it.
    fn ask(
        &mut self,
        pipeline: &mut Pipeline<'_, Vec<u8>>,
    ) -> std::result::Result<(), nbd_client_blocking::Error> {
        if self.asked.is_some() || self.mapped == self.size || self.data.len() > 64 {
            return Ok(());
        }
        let length = (self.size - self.mapped).min(self.longest);
        pipeline.submit(Command::block_status(self.mapped, length), None)?;
        self.asked = Some(length);
        Ok(())
    }

    /// Takes in an answer: zeroes go straight to the destination.
    fn learn(&mut self, extents: &[(ContextId, Extent)], outlet: &Outlet) -> Result<()> {
        let end = self.mapped + self.asked.take().unwrap_or(0);
        for (context, extent) in extents {
            let length = extent.length.min(end - self.mapped);
            if Some(*context) != self.allocation || length == 0 {
                continue;
            }
            let start = self.mapped;
            self.mapped += length;
            // Extents need not end on a block; blocks that are zeroes only in part are
            // read.
            let from = start.next_multiple_of(self.block);
            let to = self.mapped - self.mapped % self.block;
            if extent.is_zero() && from < to {
                self.read(start..from);
                outlet.send(Piece::Zeroes { offset: from, length: to - from })?;
                self.read(to..self.mapped);
            } else {
                self.read(start..self.mapped);
            }
        }
        Ok(())
    }

    fn read(&mut self, range: Range<u64>) {
        match self.data.back_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.data.push_back(range),
        }
    }

    /// The next range to read, no longer than a request and ending on a multiple of it.
    fn next(&mut self, request: u64) -> Option<Range<u64>> {
        let range = self.data.front_mut()?;
        let start = range.start;
        let boundary = (start - start % request).saturating_add(request);
        let end = range.end.min(boundary);
        range.start = end;
        if range.is_empty() {
            self.data.pop_front();
        }
        Some(start..end)
    }
}

/// An export that is written.
pub(crate) struct ServerDestination {
    name: String,
    client: Client,
}

impl ServerDestination {
    pub(super) fn open(server: &Server, size: Option<u64>, timeout: Duration) -> Result<Self> {
        let client = server.connect(ClientConfig::new(), timeout)?;
        let name = server.name.clone();
        if client.is_read_only() {
            return Err(crate::failure::Failure::new(format!("{name}: the export is read-only")));
        }
        if size.is_some_and(|size| size > client.size()) {
            return Err(too_small(&name, client.size(), size));
        }
        Ok(Self { name, client })
    }

    pub(super) fn write_all(self, plan: &Plan, inlet: &Inlet, bar: &ProgressBar) -> Result<Copied> {
        let Self { name, mut client } = self;
        let flags = client.flags();
        let writer = Writer {
            size: client.size(),
            request: request_size(&client, plan),
            longest: longest_range(&client),
            can_zero: flags.contains(TransmissionFlags::SEND_WRITE_ZEROES),
            skip_zeroes: plan.skip_zeroes,
            zero_flags: if plan.allocated { CommandFlags::NO_HOLE } else { CommandFlags::empty() },
            depth: plan.requests,
        };
        let mut pipeline = client.pipeline();
        let copied = writer.run(&name, &mut pipeline, inlet, bar)?;
        drop(pipeline);
        if flags.contains(TransmissionFlags::SEND_FLUSH) {
            client.flush().context(&name)?;
        }
        client.disconnect().context(&name)?;
        Ok(copied)
    }
}

struct Writer {
    size: u64,
    request: u64,
    longest: u64,
    can_zero: bool,
    skip_zeroes: bool,
    zero_flags: CommandFlags,
    depth: usize,
}

impl Writer {
    fn run(
        &self,
        name: &str,
        pipeline: &mut Pipeline<'_, Slice>,
        inlet: &Inlet,
        bar: &ProgressBar,
    ) -> Result<Copied> {
        let mut copied = Copied::default();
        loop {
            // Everything that is at hand goes out together; only then is an answer waited
            // for, and only with nothing under way, the source.
            let next = if pipeline.in_flight() == 0 { inlet.wait() } else { inlet.poll() };
            match next {
                Next::Piece(piece) => {
                    copied.count(&piece, bar);
                    self.write(name, pipeline, piece, inlet)?;
                    while pipeline.in_flight() >= self.depth {
                        finish_one(name, pipeline, inlet)?;
                    }
                }
                Next::Empty => finish_one(name, pipeline, inlet)?,
                Next::End if pipeline.in_flight() == 0 => return Ok(copied),
                Next::End => finish_one(name, pipeline, inlet)?,
            }
        }
    }

    fn write(
        &self,
        name: &str,
        pipeline: &mut Pipeline<'_, Slice>,
        piece: Piece,
        inlet: &Inlet,
    ) -> Result<()> {
        let (offset, length) = match &piece {
            Piece::Data { offset, bytes } => (*offset, bytes.len() as u64),
            Piece::Zeroes { offset, length } => (*offset, *length),
        };
        if offset + length > self.size {
            return Err(too_small(name, self.size, None));
        }
        match piece {
            Piece::Data { bytes, .. } if length <= self.request => {
                pipeline.write(offset, bytes).context(name)?;
            }
            Piece::Data { bytes, .. } => {
                // The destination takes smaller requests than the source.
                let mut at = offset;
                for part in bytes.as_ref().chunks(self.request as usize) {
                    let part = Slice::new(part.to_vec(), 0..part.len());
                    let length = part.len() as u64;
                    self.make_room(name, pipeline, inlet)?;
                    pipeline.write(at, part).context(name)?;
                    at += length;
                }
                inlet.give_back(bytes);
            }
            Piece::Zeroes { .. } if self.skip_zeroes => {}
            Piece::Zeroes { .. } => self.zero(name, pipeline, offset, length, inlet)?,
        }
        Ok(())
    }

    fn zero(
        &self,
        name: &str,
        pipeline: &mut Pipeline<'_, Slice>,
        offset: u64,
        length: u64,
        inlet: &Inlet,
    ) -> Result<()> {
        let step = if self.can_zero { self.longest } else { self.request };
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let length = (end - at).min(step);
            self.make_room(name, pipeline, inlet)?;
            if self.can_zero {
                let command = Command::write_zeroes(at, length).with(self.zero_flags);
                pipeline.submit(command, None).context(name)?;
            } else {
                let zeroes = vec![0; length as usize];
                let bytes = Slice::new(zeroes, 0..length as usize);
                pipeline.write(at, bytes).context(name)?;
            }
            at += length;
        }
        Ok(())
    }

    fn make_room(
        &self,
        name: &str,
        pipeline: &mut Pipeline<'_, Slice>,
        inlet: &Inlet,
    ) -> Result<()> {
        while pipeline.in_flight() >= self.depth {
            finish_one(name, pipeline, inlet)?;
        }
        Ok(())
    }
}

fn finish_one(name: &str, pipeline: &mut Pipeline<'_, Slice>, inlet: &Inlet) -> Result<()> {
    if let Some(done) = pipeline.wait().context(name)? {
        done.result.context(name)?;
        if let Some(bytes) = done.buffer {
            inlet.give_back(bytes);
        }
    }
    Ok(())
}
