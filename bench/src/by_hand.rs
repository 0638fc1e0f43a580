//! What a server without TLS can give: a loop that does nothing but ask and take.
//!
//! It speaks structured replies, as the clients do: nbdkit is faster with simple ones, so a loop
//! that asks for those would show what no client can have that wants block status, too. It knows
//! the one order of messages that nbdkit sends, and gives up where another one comes: no limits,
//! no errors, no reconnecting. Where a client is no slower, it waits for the server.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::UnixStream;

use nbd_proto::wire::flags::{ClientFlags, CommandFlags, ReplyFlags};
use nbd_proto::wire::greeting::{ExportHeader, Style};
use nbd_proto::wire::option::{OptionHeader, OptionReplyHeader, ReplyType};
use nbd_proto::wire::reply::{ChunkHeader, SimpleReply};
use nbd_proto::wire::request::{DISCONNECT, RequestHeader};
use nbd_proto::{CommandType, OptionCode};
use nbd_transport::{NbdUri, Stream};

use crate::Outcome;
use crate::load::{Load, Offsets};
use crate::measured::{Measured, Stopwatch};

/// A reply to a read: its header, and the offset in front of the data.
const READ_REPLY: usize = ChunkHeader::STRUCTURED_LEN + 8;

/// Longer payload is received and sent where it lies.
const IN_PLACE: usize = 32 << 10;

pub(crate) fn by_hand(load: &Load) -> Outcome<Measured> {
    let uri: NbdUri = load.uri.parse()?;
    let Stream::Unix(stream) = uri.endpoint().connect(None)?.stream else {
        return Err("by hand: only over a Unix socket".into());
    };
    let size = enter(&stream)?;
    let mut offsets = Offsets::new(load, size)?;
    let mut left = offsets.left();
    let mut buffers: Vec<_> = (0..load.depth).map(|_| load.buffer()).collect();
    let mut in_flight = vec![(0, 0); load.depth];
    let mut unused: Vec<usize> = (0..load.depth).collect();
    let mut requests = Requests { stream: &stream, bytes: Vec::new() };
    let mut replies = Replies::new(&stream, load.length);
    let mut stopwatch = Stopwatch::start(load)?;
    let mut now = 0;
    while left > 0 {
        while let Some(slot) = unused.pop() {
            let Some(at) = offsets.next() else { break };
            in_flight[slot] = (now, at);
            let payload = load.write.then(|| {
                load.fill(&mut buffers[slot], at);
                &buffers[slot][..]
            });
            requests.add(slot, at, load.length, payload)?;
        }
        requests.send()?;
        // One is waited for; the others are here already.
        let mut waited = false;
        loop {
            let slot = if load.write {
                replies.written()?
            } else {
                let slot = replies.read()?;
                replies.payload(buffers.get_mut(slot).ok_or("by hand: an unknown cookie")?)?;
                slot
            };
            if !waited {
                now = stopwatch.now();
                waited = true;
            }
            let (start, at) = *in_flight.get(slot).ok_or("by hand: an unknown cookie")?;
            stopwatch.record(now - start);
            load.check(&buffers[slot], at)?;
            unused.push(slot);
            left -= 1;
            if left == 0 || !replies.has_more(load) {
                break;
            }
        }
    }
    let measured = stopwatch.stop(load)?;
    requests.push(DISCONNECT, 0, 0, 0)?;
    requests.send()?;
    Ok(measured)
}

/// Asks for structured replies, and enters the default export. Returns its size.
fn enter(mut stream: &UnixStream) -> Outcome<u64> {
    stream.read_exact(&mut [0; Style::LEN + 2])?;
    let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
    let option = |code: OptionCode| OptionHeader { option: code.to_wire(), length: 0 }.encode();
    stream.write_all(&flags.bits().to_be_bytes())?;
    stream.write_all(&option(OptionCode::StructuredReply))?;
    let mut reply = [0; OptionReplyHeader::LEN];
    stream.read_exact(&mut reply)?;
    if OptionReplyHeader::decode(&reply)?.kind != ReplyType::Ack.to_wire() {
        return Err("by hand: the server has no structured replies".into());
    }
    stream.write_all(&option(OptionCode::ExportName))?;
    let mut header = [0; ExportHeader::NEWSTYLE_LEN];
    stream.read_exact(&mut header)?;
    Ok(ExportHeader::decode_newstyle(&header).size)
}

/// What is to be sent together.
struct Requests<'a> {
    stream: &'a UnixStream,
    bytes: Vec<u8>,
}

impl Requests<'_> {
    /// Adds a request with its payload, if it has any. The slot is its cookie.
    fn add(&mut self, slot: usize, at: u64, length: usize, payload: Option<&[u8]>) -> Outcome<()> {
        let kind = if payload.is_some() { CommandType::Write } else { CommandType::Read };
        self.push(kind.to_wire(), slot as u64, at, length as u64)?;
        match payload {
            Some(payload) if payload.len() > IN_PLACE => self.send_with(payload)?,
            Some(payload) => self.bytes.extend_from_slice(payload),
            None => {}
        }
        Ok(())
    }

    fn push(&mut self, kind: u16, cookie: u64, offset: u64, length: u64) -> Outcome<()> {
        let header = RequestHeader { flags: CommandFlags::empty(), kind, cookie, offset, length };
        let header = header.encode_compact().ok_or("by hand: a request that is too long")?;
        self.bytes.extend_from_slice(&header);
        Ok(())
    }

    fn send(&mut self) -> Outcome<()> {
        self.stream.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    fn send_with(&mut self, payload: &[u8]) -> Outcome<()> {
        let slices = [IoSlice::new(&self.bytes), IoSlice::new(payload)];
        let sent = self.stream.write_vectored(&slices)?;
        let headers = sent.min(self.bytes.len());
        self.stream.write_all(&self.bytes[headers..])?;
        self.stream.write_all(&payload[sent - headers..])?;
        self.bytes.clear();
        Ok(())
    }
}

/// What was received.
struct Replies<'a> {
    stream: &'a UnixStream,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl<'a> Replies<'a> {
    fn new(stream: &'a UnixStream, length: usize) -> Self {
        // Of long payload nothing is to come here.
        let room = if length > IN_PLACE { READ_REPLY } else { 256 << 10 };
        Self { stream, bytes: vec![0; room], start: 0, end: 0 }
    }

    /// Whether a whole reply lies here.
    fn has_more(&self, load: &Load) -> bool {
        let wanted = match (load.write, load.length > IN_PLACE) {
            (true, _) => SimpleReply::LEN,
            (false, true) => READ_REPLY,
            (false, false) => READ_REPLY + load.length,
        };
        self.end - self.start >= wanted
    }

    /// Takes the header of a reply to a read. Returns its slot.
    fn read(&mut self) -> Outcome<usize> {
        let header: [u8; READ_REPLY] = self.take()?;
        let header = header.first_chunk().ok_or("by hand: no header")?;
        let header = ChunkHeader::decode_structured(header)?;
        // Data is of type 1.
        if header.flags != ReplyFlags::DONE || header.kind != 1 {
            return Err(format!("by hand: a reply that is not expected: {header:?}").into());
        }
        Ok(usize::try_from(header.cookie)?)
    }

    /// Takes a reply to a write. Returns its slot.
    fn written(&mut self) -> Outcome<usize> {
        let reply = SimpleReply::decode(&self.take()?)?;
        if reply.error != 0 {
            return Err(format!("by hand: a write failed: {reply:?}").into());
        }
        Ok(usize::try_from(reply.cookie)?)
    }

    fn take<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        if self.bytes.len() - self.start < N {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < N {
            let received = self.stream.read(&mut self.bytes[self.end..])?;
            if received == 0 {
                return Err("by hand: the server closed".into());
            }
            self.end += received;
        }
        let taken = *self.bytes[self.start..].first_chunk().ok_or("by hand: no room")?;
        self.start += N;
        Ok(taken)
    }

    /// Takes payload: what lies here is copied, the rest is received in place, and with it what
    /// comes behind it.
    fn payload(&mut self, payload: &mut [u8]) -> Outcome<()> {
        let mut filled = payload.len().min(self.end - self.start);
        payload[..filled].copy_from_slice(&self.bytes[self.start..self.start + filled]);
        self.start += filled;
        while filled < payload.len() {
            let left = payload.len() - filled;
            let mut slices =
                [IoSliceMut::new(&mut payload[filled..]), IoSliceMut::new(&mut self.bytes)];
            let received = self.stream.read_vectored(&mut slices)?;
            if received == 0 {
                return Err("by hand: the server closed".into());
            }
            filled += received.min(left);
            (self.start, self.end) = (0, received.saturating_sub(left));
        }
        Ok(())
    }
}
