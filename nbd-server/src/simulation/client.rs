//! A client that keeps the rules, and knows what it may be told.

use nbd_proto::{
    Buffers, Client, ClientConfig, Command, CommandError, CommandFlags, CommandType, ContextId,
    Disconnect, Event, Extent, Limits, Machine, Negotiation, PayloadSink, PayloadSource, Phase,
    RequestId,
};

use super::disk::{BLOCK, BLOCKS, Disk, Tick, block_of, blocks, version_of};
use super::wire::Wire;

/// The client and what it waits for.
#[derive(Debug)]
pub(super) struct Honest {
    client: Client,
    payload: Payload,
    /// What it has asked for, and when.
    open: Vec<(RequestId, Tick)>,
    over: bool,
}

/// What belongs to its requests.
#[derive(Debug)]
struct Payload {
    buffers: Buffers<Vec<u8>>,
    extents: Vec<(RequestId, Extent)>,
}

impl PayloadSink for Payload {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.buffers.region(id, at, len)
    }

    fn extent(&mut self, id: RequestId, _context: ContextId, extent: Extent) {
        self.extents.push((id, extent));
    }
}

impl PayloadSource for Payload {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.buffers.bytes(id, at, len)
    }
}

/// Begins to negotiate. Which replies it understands, `headers` says: simple, structured or
/// extended ones.
pub(super) fn negotiation(headers: u8) -> Negotiation {
    let config = ClientConfig::new()
        .structured_replies(headers >= 1)
        .extended_headers(headers >= 2)
        .meta_context("base:allocation")
        .limits(Limits::default().scratch_len(0).max_in_flight(16));
    Negotiation::new(config).expect("the names are sound")
}

/// Negotiates as far as the server has answered. True when that is done.
pub(super) fn negotiate(client: &mut Negotiation, wire: &mut Wire) -> bool {
    let came: Vec<u8> = wire.to_client.drain(..).collect();
    client.feed(&came, &mut nbd_proto::Discard).expect("our server is sound");
    let mut said = Vec::new();
    client.drain(&mut said, &nbd_proto::Discard).expect("no payload is due");
    wire.to_server.extend(said);
    client.phase() == Phase::Established
}

impl Honest {
    pub(super) fn new(negotiation: Negotiation) -> Self {
        Self {
            client: negotiation.finish().expect("it is established"),
            payload: Payload { buffers: Buffers::new(), extents: Vec::new() },
            open: Vec::new(),
            over: false,
        }
    }

    /// Whether it waits for a reply.
    pub(super) const fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// Asks for something. What is written is new, from `version` on.
    pub(super) fn submit(&mut self, what: u8, at: u8, length: u8, version: u64, disk: &Disk) {
        let block = usize::from(at) % BLOCKS;
        let count = (1 + usize::from(length) % 16).min(BLOCKS - block);
        let (offset, length) = ((block * BLOCK) as u64, (count * BLOCK) as u64);
        let fua = if what & 0x80 == 0 { CommandFlags::empty() } else { CommandFlags::FUA };
        let command = match what % 10 {
            0..=2 => Command::read(offset, length as u32),
            3..=5 => Command::write(offset, length as u32).with(fua),
            6 => Command::flush(),
            7 => Command::write_zeroes(offset, length).with(fua),
            8 => Command::block_status(offset, length),
            _ if fua.is_empty() => Command::cache(offset, length),
            _ => Command::trim(offset, length).with(fua),
        };
        let Ok(id) = self.client.submit(command) else {
            return;
        };
        let buffer = match command.kind {
            CommandType::Read => vec![0; length as usize],
            CommandType::Write => {
                (0..count as u64).flat_map(|index| block_of(version + index)).collect()
            }
            _ => Vec::new(),
        };
        self.payload.buffers.insert(id, buffer);
        self.open.push((id, disk.state().now()));
    }

    /// At most so many bytes leave. Whether any have.
    pub(super) fn send(&mut self, wire: &mut Wire, most: usize) -> bool {
        let mut left = most;
        let visit = |bytes: &[u8]| {
            let bytes = &bytes[..bytes.len().min(left)];
            wire.to_server.extend(bytes);
            left -= bytes.len();
            if left == 0 {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        };
        self.client.for_each_unsent(&self.payload, visit).expect("all payload is here");
        self.client.sent(most - left).expect("as much as was offered");
        left < most
    }

    /// At most so many bytes come. Whether any have.
    pub(super) fn receive(&mut self, wire: &mut Wire, most: usize, disk: &Disk) -> bool {
        let n = most.min(wire.to_client.len());
        let bytes: Vec<u8> = wire.to_client.drain(..n).collect();
        self.client.feed(&bytes, &mut self.payload).expect("our server is sound");
        self.poll(disk);
        n > 0
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, disk: &Disk) {
        // How far it got is checked by what was completed.
        let _ = self.client.eof();
        self.poll(disk);
        assert!(self.over && self.open.is_empty(), "never completed: {:?}", self.open);
    }

    /// Leaves when everything is answered, or at once.
    pub(super) fn leave(&mut self, when: Disconnect) {
        self.client.disconnect(when);
    }

    fn poll(&mut self, disk: &Disk) {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Completed { id, command, result } => {
                    let known = self.open.iter().position(|(open, _)| *open == id);
                    let (_, since) = self.open.swap_remove(known.expect("it was asked for"));
                    self.check(id, command, result, since, disk);
                }
                Event::Disconnected { .. } => self.over = true,
                event => panic!("{event:?}"),
            }
        }
    }

    /// What it is told is true.
    fn check(
        &mut self,
        id: RequestId,
        command: Command,
        result: Result<(), CommandError>,
        since: Tick,
        disk: &Disk,
    ) {
        let buffer = self.payload.buffers.remove(id).expect("one for each request");
        let told = |(of, extent): (RequestId, Extent)| (of == id).then_some(extent);
        let extents: Vec<Extent> =
            self.payload.extents.extract_if(.., |(of, _)| *of == id).filter_map(told).collect();
        let state = disk.state();
        match result {
            Ok(()) => {}
            Err(CommandError::ConnectionLost) => return,
            Err(error) => {
                let is_true = state.has_failed_since(since, error.errno());
                assert!(is_true, "{command:?}: {error}, which the disk has not said");
                return;
            }
        }
        let blocks = blocks(command.offset, command.length);
        let first = blocks.start;
        let durable = |block, version| {
            let became = state.became(block, version, since);
            let became = became.unwrap_or_else(|| panic!("{command:?}: block {block} is not"));
            let fua = command.flags.contains(CommandFlags::FUA);
            assert!(!fua || state.flushed_since(became), "{command:?}: block {block} may be lost");
        };
        match command.kind {
            CommandType::Read => {
                for (block, bytes) in blocks.zip(buffer.chunks(BLOCK)) {
                    let version = version_of(bytes).expect("no torn block");
                    let was = state.has_been(block, version, since);
                    assert!(was, "{command:?}: block {block} was never {version}");
                }
            }
            CommandType::Write => {
                for (block, bytes) in blocks.zip(buffer.chunks(BLOCK)) {
                    durable(block, version_of(bytes).expect("our own"));
                }
            }
            CommandType::WriteZeroes => blocks.for_each(|block| durable(block, 0)),
            CommandType::Flush => {
                assert!(state.flushed_since(since), "a flush without a flush");
            }
            CommandType::BlockStatus => {
                let mut at = 0;
                for extent in extents {
                    let end = at + extent.length as usize / BLOCK;
                    let zero = extent.status & Extent::ZERO != 0;
                    for block in first + at..(first + end).min(BLOCKS) {
                        let was = !zero || state.has_been(block, 0, since);
                        assert!(was, "{command:?}: block {block} was never zero");
                    }
                    at = end;
                }
                assert!(at > 0, "{command:?}: no extents");
            }
            CommandType::Trim | CommandType::Cache => {}
        }
    }
}
