//! Calls to a session, bytes from its server and times, all of the fuzzer's choice.
//!
//! The server answers requests as the input says: soundly, by an error, or by bytes of the
//! input's own, after which nothing on that connection is believed. Whatever is done:
//!
//! * each command is told once, or was withdrawn, and all are told in the end;
//! * no limit of time is passed by a command that is not told;
//! * a read that succeeds brings what the server has, unless the server was not sound, and a
//!   write takes to it what the caller gave;
//! * the session comes to rest.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    ClientConfig, Command, CommandType, Direction, Disconnect, Limits, PayloadSink, PayloadSource,
    RequestId, part, part_mut,
};
use nbd_session::replay::Reconnect;
use nbd_session::{
    ConnectOptions, Error, Limit, Received, Request, Session, Step, Target, Withdrawn,
};

use super::input::Input;
use crate::hostile::bytes::{SIZE, granted, greeting, simple};

/// Steps and turns after which a session is at rest.
const MOST_TURNS: usize = 10_000;

/// What the disk holds there, and what is written there.
const fn byte_at(place: u64) -> u8 {
    (place as u8) ^ 0x5a
}

fn data_at(command: &Command) -> Vec<u8> {
    (command.offset..).take(command.length as usize).map(byte_at).collect()
}

/// A command that was not told.
struct Call {
    command: Command,
    buffer: Vec<u8>,
    /// When its time is over.
    until: Option<Instant>,
}

/// A request on the wire.
#[derive(Clone, Copy)]
struct Asked {
    cookie: u64,
    kind: u16,
    offset: u64,
    length: u32,
}

#[derive(Default)]
struct Calls(BTreeMap<RequestId, Call>);

impl PayloadSink for Calls {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.0.get_mut(&id).map(|call| part_mut(&mut call.buffer, at, len)).unwrap_or_default()
    }
}

impl PayloadSource for Calls {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.0.get(&id).map(|call| part(&call.buffer, at, len)).unwrap_or_default()
    }
}

/// The stream, and the server at its other end.
struct Wire {
    to_client: VecDeque<u8>,
    /// What was sent and is not taken apart, the client's flags and its option first.
    from_client: Vec<u8>,
    is_negotiated: bool,
    asked: Vec<Asked>,
    /// Takes no more than so many bytes at a time.
    room: usize,
    is_at_end: bool,
    /// It has said what no server says.
    is_unsound: bool,
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_at_end {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(self.room);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.from_client.extend_from_slice(&bytes[..n]);
        self.take_apart();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    fn new(room: usize) -> Self {
        Self {
            to_client: greeting(3).into(),
            from_client: Vec::new(),
            is_negotiated: false,
            asked: Vec::new(),
            room,
            is_at_end: false,
            is_unsound: false,
        }
    }

    fn take_apart(&mut self) {
        if !self.is_negotiated {
            // Flags, and one option without a payload that would be longer than its header.
            let Some(head) = self.from_client.get(4..20) else { return };
            let length = u32::from_be_bytes(head[12..].try_into().expect("4 bytes")) as usize;
            if self.from_client.len() < 20 + length {
                return;
            }
            self.from_client.drain(..20 + length);
            self.is_negotiated = true;
            self.to_client.extend(granted());
        }
        while let Some(head) = self.from_client.get(..28) {
            let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8"));
            let kind = u16::from_be_bytes([head[6], head[7]]);
            let length = u32::from_be_bytes(head[24..28].try_into().expect("4 bytes"));
            let asked = Asked { cookie: number(8), kind, offset: number(16), length };
            let payload = if kind == 1 { length as usize } else { 0 };
            let Some(data) = self.from_client.get(28..28 + payload) else { return };
            let sound = data.iter().zip(asked.offset..).all(|(byte, at)| *byte == byte_at(at));
            assert!(sound, "a write took something else to the server");
            self.asked.push(asked);
            self.from_client.drain(..28 + payload);
        }
    }

    fn answer(&mut self, which: usize, error: u32) {
        if self.asked.is_empty() {
            return;
        }
        let asked = self.asked.remove(which % self.asked.len());
        let data: Vec<u8> = match (asked.kind, error) {
            (0, 0) => (asked.offset..).take(asked.length as usize).map(byte_at).collect(),
            _ => Vec::new(),
        };
        // Nobody answers the goodbye.
        if asked.kind != 2 {
            self.to_client.extend(simple(error, asked.cookie, &data));
        }
    }
}

struct Play {
    session: Session,
    now: Instant,
    calls: Calls,
    /// Buffers of commands that are over and whose payload is not released.
    held: BTreeMap<RequestId, Call>,
    wire: Option<(u64, Wire)>,
    timeout: Option<Duration>,
    /// Of any connection.
    was_unsound: bool,
    refuses: bool,
}

/// See the module's text.
pub fn session_ops(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = input.byte();
    let seconds = Duration::from_secs;
    let timeout = (setup & 1 != 0).then_some(seconds(5));
    let policy = match setup >> 1 & 3 {
        0 | 1 => None,
        2 => Some(Reconnect::new()),
        _ => Some(Reconnect::new().keep_unflushed(u64::from(input.byte()) << 4)),
    };
    let limits = Limits::default().max_in_flight(4).scratch_len(256);
    let options = ConnectOptions::new()
        .config(ClientConfig::new().structured_replies(false).block_sizes(false).limits(limits))
        .target(Target::Dialler)
        .connect_timeout((setup & 8 != 0).then_some(seconds(10)))
        .request_timeout(timeout)
        .silence((setup & 16 != 0).then_some(seconds(30)))
        .keep_alive((setup & 32 != 0).then_some(seconds(20)))
        .reconnect(policy);
    // Its value shows nowhere.
    let now = Instant::now();
    let session = Session::new(options, u64::from(setup), now).expect("sound options");
    let mut play = Play {
        session,
        now,
        calls: Calls::default(),
        held: BTreeMap::new(),
        wire: None,
        timeout,
        was_unsound: false,
        refuses: false,
    };
    play.rest();
    while !input.is_empty() {
        play.step(&mut input);
        play.rest();
    }
    play.end();
}

impl Play {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0..=2 => self.submit(input),
            3 | 4 => {
                if let Some((_, wire)) = &mut self.wire {
                    wire.answer(usize::from(input.byte()), 0);
                }
            }
            5 => {
                // EIO, and that the server is shutting down.
                let error = [5, 108, 28, 22][usize::from(input.byte() % 4)];
                if let Some((_, wire)) = &mut self.wire {
                    wire.answer(0, error);
                }
            }
            6 => {
                let bytes = input.list(40);
                if let Some((_, wire)) = &mut self.wire {
                    wire.to_client.extend(bytes);
                    wire.is_unsound = true;
                    self.was_unsound = true;
                }
            }
            7 => self.now += Duration::from_millis(1 << (input.byte() % 20)),
            8 => self.withdraw(usize::from(input.byte())),
            9 => {
                if let Some((_, wire)) = &mut self.wire {
                    wire.is_at_end = true;
                }
            }
            10 => {
                let byte = input.byte();
                self.refuses = byte & 1 != 0;
                if let Some((_, wire)) = &mut self.wire {
                    wire.room = usize::from(byte >> 1) * 5;
                }
            }
            _ => match input.byte() % 6 {
                0 => self.session.disconnect(Disconnect::AfterReplies, Limit::Default, self.now),
                1 => self.session.disconnect(Disconnect::AbandonUnsent, Limit::Default, self.now),
                2 => self.session.fail(io::Error::from(io::ErrorKind::TimedOut), self.now),
                3 => self.session.stop_sending(self.now),
                4 => self.session.release(self.now),
                _ => self.withdraw_all(),
            },
        }
    }

    fn submit(&mut self, input: &mut Input<'_>) {
        let (kind, length) = (input.byte(), u32::from(input.byte()) + 1);
        let offset = u64::from(input.byte()) * 3 % (SIZE - 256);
        let command = match kind & 7 {
            0 | 1 => Command::read(offset, length),
            2 => Command::flush(),
            3 => Command::trim(offset, u64::from(length)),
            _ => Command::write(offset, length),
        };
        let limit = match kind >> 3 & 3 {
            0 => Limit::within(Duration::from_secs(2), self.now),
            1 => Limit::Never,
            _ => Limit::Default,
        };
        let until = match limit {
            Limit::Default => self.timeout.map(|time| self.now + time),
            Limit::Within { time, since } => Some(since + time),
            _ => None,
        };
        let mut request = Request::new(command).limit(limit);
        let buffer = match command.kind {
            CommandType::Write => data_at(&command),
            CommandType::Read => vec![0; length as usize],
            _ => Vec::new(),
        };
        if self.session.keeps_payload(&command) {
            request = request.payload(Bytes::from(buffer.clone()));
        }
        if let Ok(id) = self.session.submit_request(request, self.now) {
            let call = Call { command, buffer, until };
            assert!(self.calls.0.insert(id, call).is_none(), "{id:?} was given out twice");
            assert!(!self.held.contains_key(&id), "{id:?} is held and was given out");
        }
    }

    fn withdraw(&mut self, nth: usize) {
        let count = self.calls.0.len().max(1);
        let Some(id) = self.calls.0.keys().nth(nth % count).copied() else { return };
        let Some(call) = self.calls.0.remove(&id) else { return };
        if self.session.withdraw(id, self.now) == Withdrawn::HalfSent {
            self.hold(id, call);
        }
    }

    fn withdraw_all(&mut self) {
        let half = self.session.withdraw_all(self.now);
        let held = self.session.held();
        for (id, call) in std::mem::take(&mut self.calls.0) {
            if half == Withdrawn::HalfSent && held == Some(id) {
                self.hold(id, call);
            }
        }
    }

    /// Every second one has its payload copied.
    fn hold(&mut self, id: RequestId, call: Call) {
        if call.command.offset.is_multiple_of(2) {
            self.session.copy_held(id, &call.buffer);
        } else {
            self.held.insert(id, call);
        }
    }

    /// Turns until there is nothing to do.
    fn rest(&mut self) {
        for _ in 0..MOST_TURNS {
            if !self.turn() {
                return self.check();
            }
        }
        panic!("it does not come to rest");
    }

    /// Returns whether anything was done.
    fn turn(&mut self) -> bool {
        let mut busy = false;
        if self.session.next_deadline().is_some_and(|at| at <= self.now) {
            self.session.handle_timeout(self.now);
            busy = true;
        }
        while let Some(step) = self.session.next_step() {
            busy = true;
            self.take_step(step);
        }
        let now = self.now;
        if let Some((_, wire)) = &mut self.wire {
            // Buffers that are held are asked for by the same ids.
            for (id, call) in std::mem::take(&mut self.held) {
                self.calls.0.insert(id, call);
            }
            let held = self.session.held();
            if self.session.direction().contains(Direction::WRITE) {
                busy |= self.session.write(wire, &mut self.calls, now) == Progress::More;
            }
            if self.session.direction().contains(Direction::READ) {
                if wire.to_client.is_empty() && wire.is_at_end {
                    self.session.read(&mut io::empty(), &mut self.calls, now);
                    busy = true;
                } else if !wire.to_client.is_empty() {
                    let bytes: Vec<u8> = wire.to_client.drain(..).collect();
                    let mut received = Received::new(&bytes);
                    self.session.read(&mut received, &mut self.calls, now);
                    let rest = received.rest();
                    wire.to_client.extend(rest);
                    busy |= rest.len() < bytes.len();
                }
            }
            if let Some(id) = held
                && let Some(call) = self.calls.0.remove(&id)
            {
                self.held.insert(id, call);
            }
        }
        self.collect() || busy
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Connect(connect) => {
                let outcome = match self.refuses {
                    true => Err(Error::from(io::Error::from(io::ErrorKind::ConnectionRefused))),
                    false => {
                        self.wire = Some((connect.generation, Wire::new(usize::MAX)));
                        Ok(IoMode::Vectored)
                    }
                };
                self.session.connected(connect.generation, outcome, self.now);
            }
            Step::Close { generation, .. } => {
                self.wire.take_if(|(of, _)| *of <= generation);
            }
            _ => {}
        }
    }

    /// Takes what is finished. Returns whether anything was.
    fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some(done) = self.session.next_completion() {
            any = true;
            let Some(call) = self.calls.0.remove(&done.id) else {
                panic!("{:?} was told twice, or to nobody", done.command);
            };
            assert_eq!(call.command, done.command);
            if done.result.is_ok() && call.command.kind == CommandType::Read && !self.was_unsound {
                assert_eq!(call.buffer, data_at(&call.command), "a read brought something else");
            }
            if done.held {
                self.hold(done.id, call);
            }
        }
        while let Some(id) = self.session.next_released() {
            any = true;
            assert!(self.held.remove(&id).is_some(), "{id:?} was released, and was not held");
        }
        while self.session.next_event().is_some() {}
        any
    }

    fn check(&self) {
        for (id, call) in &self.calls.0 {
            let late = call.until.is_some_and(|until| until <= self.now);
            assert!(!late, "{id:?} should have been told by now: {:?}", call.command);
        }
        assert_eq!(self.session.in_flight(), self.calls.0.len() + self.leaving());
        if self.session.is_over() {
            assert!(self.calls.0.is_empty(), "it is over, and somebody was not told");
            assert_eq!(self.session.next_deadline(), None);
        }
    }

    /// With a log, who is leaving has its slot until it has left.
    fn leaving(&self) -> usize {
        let lasts = self.session.options().reconnects();
        usize::from(lasts && self.session.held().is_some())
    }

    /// Whatever has been done, the end can be had.
    fn end(&mut self) {
        let limit = Limit::within(Duration::from_secs(1), self.now);
        self.session.disconnect(Disconnect::AfterReplies, limit, self.now);
        self.rest();
        self.now += Duration::from_secs(2);
        self.rest();
        assert!(self.session.is_over(), "{:?}", self.session);
        assert!(self.calls.0.is_empty() && self.held.is_empty());
        // Only the server's own word may be wrong; what is told of it has a number.
        if let Err(error) = self.session.farewell() {
            assert_ne!(error.errno(), 0, "{error}");
        }
    }
}
