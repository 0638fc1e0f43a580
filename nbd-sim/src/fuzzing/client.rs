//! Replies to a client with commands in flight.

use nbd_proto::{
    Anomaly, Client, Command, CommandError, CommandFlags, CommandType, ContextId, Error,
    ErrorReport, Event, Extent, HeaderStyle, Machine, PayloadSink, PayloadSource, ReadChunk,
    RequestId, part, part_mut,
};

use super::OTHERS;
use super::input::Input;
use super::session::Setup;
use crate::delivery::Delivery;

/// Longest read or write.
const LONGEST: u32 = 64 << 10;
/// Most commands in flight.
const MOST: u8 = 16;

/// A command and what becomes of it beside.
#[derive(Debug, Clone, Copy)]
struct Ask {
    command: Command,
    filtered: bool,
    abandoned: bool,
    /// It is submitted, but not sent before the first bytes arrive.
    held: bool,
}

/// Input: set-up, number of commands, commands (see `Ask::decode`), cuts, replies.
pub fn client_bytes(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = Setup::new(input.byte());
    let count = input.byte() % (MOST + 1);
    let asks: Vec<Ask> = (0..count).map(|_| Ask::decode(&mut input)).collect();
    let bursts = input.bursts();
    let whole = Trace::play(setup, &asks, &bursts, Delivery::Whole);
    for delivery in OTHERS {
        let trace = Trace::play(setup, &asks, &bursts, delivery);
        assert_eq!(trace, whole, "{delivery:?} differs");
    }
}

impl Ask {
    /// Kind and fate, flags, offset, length: 1 + 1 + 4 + 4 bytes.
    fn decode(input: &mut Input<'_>) -> Self {
        let (byte, flags) = (input.byte(), input.byte());
        let kind = match CommandType::from_wire(u16::from(byte & 7)) {
            None => CommandType::Read,
            Some(kind) => kind,
        };
        let (offset, length) = (input.u32(), input.u32());
        let payload = matches!(kind, CommandType::Read | CommandType::Write);
        let command = Command {
            kind,
            flags: CommandFlags::from_bits_retain(u16::from(flags & 0x1f)),
            offset: u64::from(offset),
            length: u64::from(if payload { length % (LONGEST + 1) } else { length }),
        };
        Self {
            command,
            filtered: byte & 8 != 0 && kind == CommandType::BlockStatus,
            abandoned: byte & 0x10 != 0,
            held: byte & 0x20 != 0,
        }
    }

    fn submit(&self, client: &mut Client, contexts: &[ContextId]) -> Option<RequestId> {
        let submitted = match contexts.first() {
            Some(first) if self.filtered => client.submit_filtered(self.command, &[*first]),
            _ => client.submit(self.command),
        };
        submitted.ok()
    }
}

/// One command's memory and what its reply told.
#[derive(Debug, PartialEq)]
struct Entry {
    id: RequestId,
    command: Command,
    abandoned: bool,
    buffer: Vec<u8>,
    chunks: Vec<ReadChunk>,
    extents: Vec<(ContextId, Extent)>,
    errors: Vec<(i32, Option<u64>, Vec<u8>)>,
    result: Option<Result<(), CommandError>>,
}

/// Everything the client told its caller.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    entries: Vec<Entry>,
    anomalies: Vec<Anomaly>,
    over: Option<Option<Error>>,
    sent: Vec<u8>,
    end: Option<Error>,
}

impl Trace {
    fn play(setup: Setup, asks: &[Ask], bursts: &[&[u8]], delivery: Delivery) -> Self {
        let (mut client, _) = setup.establish();
        let mut trace = Self::default();
        let contexts: Vec<ContextId> =
            client.negotiated().contexts.iter().map(|context| context.id).collect();
        for ask in asks.iter().filter(|ask| !ask.held) {
            trace.submit(&mut client, ask, &contexts);
        }
        trace.drain(&mut client);
        for ask in asks.iter().filter(|ask| ask.held) {
            trace.submit(&mut client, ask, &contexts);
        }
        trace.abandon(&mut client);
        for burst in bursts {
            if let Err(error) = delivery.deliver(&mut client, &mut trace, burst) {
                assert_eq!(client.feed(&[0], &mut trace), Err(error.clone()), "dead, but it moves");
                trace.end = Some(error);
            }
            trace.poll(&mut client);
            if trace.end.is_some() {
                break;
            }
            trace.drain(&mut client);
        }
        if let Err(error) = client.eof() {
            trace.end.get_or_insert(error);
        }
        trace.poll(&mut client);
        trace.check(&client);
        trace
    }

    fn submit(&mut self, client: &mut Client, ask: &Ask, contexts: &[ContextId]) {
        let Some(id) = ask.submit(client, contexts) else {
            return;
        };
        let command = ask.command;
        let payload = matches!(command.kind, CommandType::Read | CommandType::Write);
        self.entries.push(Entry {
            id,
            command,
            abandoned: ask.abandoned,
            buffer: vec![0xee; if payload { command.length as usize } else { 0 }],
            chunks: Vec::new(),
            extents: Vec::new(),
            errors: Vec::new(),
            result: None,
        });
    }

    fn abandon(&self, client: &mut Client) {
        for entry in self.entries.iter().filter(|entry| entry.abandoned) {
            client.abandon(entry.id);
        }
    }

    fn drain(&mut self, client: &mut Client) {
        let mut sent = std::mem::take(&mut self.sent);
        client.drain(&mut sent, self).expect("all payload is here");
        self.sent = sent;
    }

    fn poll(&mut self, client: &mut Client) {
        while let Some(event) = client.poll_event() {
            assert_eq!(self.over, None, "{event:?} after the end");
            match event {
                Event::Completed { id, command, result } => {
                    let entry = self.open(id);
                    assert_eq!(command, Command { flags: command.flags, ..entry.command });
                    entry.result = Some(result);
                }
                Event::Anomaly(anomaly) => self.anomalies.push(anomaly),
                Event::Disconnected { error } => self.over = Some(error),
            }
        }
    }

    /// The command of that id, which nobody has abandoned or seen the end of.
    fn open(&mut self, id: RequestId) -> &mut Entry {
        let entry = self.entries.iter_mut().find(|entry| entry.id == id);
        let entry = entry.unwrap_or_else(|| panic!("{id:?} was never submitted"));
        assert!(!entry.abandoned, "{id:?} was abandoned");
        assert_eq!(entry.result, None, "{id:?} is complete");
        entry
    }

    /// What must hold at the end, whatever was received.
    fn check(&self, client: &Client) {
        assert!(client.is_closed() && self.over.is_some(), "no end: {client:?}");
        assert_eq!(client.in_flight(), 0);
        let structured = client.negotiated().headers != HeaderStyle::Simple;
        for entry in self.entries.iter().filter(|entry| !entry.abandoned) {
            match entry.result {
                None => panic!("{:?} never completed", entry.command),
                Some(Ok(())) if entry.command.kind == CommandType::Read => {
                    assert!(!structured || entry.is_covered(), "a hole in {entry:?}");
                }
                Some(Ok(())) if entry.command.kind == CommandType::BlockStatus => {
                    assert!(!entry.extents.is_empty(), "no extent in {entry:?}");
                }
                Some(_) => {}
            }
        }
    }
}

impl Entry {
    /// Every byte was in exactly one part.
    fn is_covered(&self) -> bool {
        let mut parts: Vec<_> = self.chunks.iter().map(|chunk| (chunk.at, chunk.length)).collect();
        parts.sort_unstable();
        let end = parts.iter().try_fold(0, |end, (at, length)| (*at == end).then(|| end + length));
        end == Some(self.buffer.len())
    }
}

impl PayloadSink for Trace {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        let entry = self.open(id);
        assert_eq!(entry.command.kind, CommandType::Read, "{id:?} reads nothing");
        assert!(len > 0 && at + len <= entry.buffer.len(), "{len} bytes at {at} of {id:?}");
        part_mut(&mut entry.buffer, at, len)
    }

    fn chunk(&mut self, id: RequestId, chunk: ReadChunk) {
        let entry = self.open(id);
        assert!(chunk.at + chunk.length <= entry.buffer.len(), "{chunk:?} of {id:?}");
        entry.chunks.push(chunk);
    }

    fn extent(&mut self, id: RequestId, context: ContextId, extent: Extent) {
        let entry = self.open(id);
        assert!(extent.length > 0, "an extent of nothing for {id:?}");
        entry.extents.push((context, extent));
    }

    fn error(&mut self, id: RequestId, report: ErrorReport<'_>) {
        let error = (report.errno.to_wire() as i32, report.offset, report.message.to_vec());
        self.open(id).errors.push(error);
    }
}

impl PayloadSource for Trace {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        let entry = self.entries.iter().find(|entry| entry.id == id);
        entry.map_or(&[], |entry| part(&entry.buffer, at, len))
    }
}
