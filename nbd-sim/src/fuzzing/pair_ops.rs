//! Calls to a client and a server, in any order, while their bytes creep along.
//!
//! Every byte of the disk follows from its place, and clients write only what is
//! there already; so each read and each write can be checked by itself.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use nbd_proto::{
    Buffers, Client, Command, CommandFlags, CommandType, Disconnect, Errno, Event, Extent,
    HeaderStyle, Machine, PayloadSource, RequestId, Server, ServerEvent,
};

use super::input::Input;
use super::memory::Memory;
use super::session::{SIZE, Setup, pattern_of};

/// Input: set-up, then calls until it ends.
pub fn pair_ops(data: &[u8]) {
    let mut input = Input::new(data);
    let (client, server) = Setup::new(input.byte()).establish();
    let mut world = World {
        client,
        server,
        to_server: VecDeque::new(),
        to_client: VecDeque::new(),
        open: Vec::new(),
        buffers: Buffers::new(),
        memory: Memory::new(),
        requests: Vec::new(),
        cut: false,
        over: false,
    };
    while !input.is_empty() {
        world.call(&mut input);
    }
    world.settle();
}

struct World {
    client: Client,
    server: Server,
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// Commands that were submitted and neither completed nor abandoned.
    open: Vec<RequestId>,
    buffers: Buffers<Vec<u8>>,
    memory: Memory,
    /// Requests that wait for the server's application.
    requests: Vec<(RequestId, Command)>,
    /// The connection was cut, so that commands may fail.
    cut: bool,
    /// The client has told its end.
    over: bool,
}

impl World {
    fn call(&mut self, input: &mut Input<'_>) {
        let (call, what) = (input.byte(), usize::from(input.byte()));
        match call % 14 {
            0 | 1 => self.submit(Command::read, input),
            2 | 3 => self.submit(Command::write, input),
            4 => self.submit(|offset, length| other(what, offset, u64::from(length)), input),
            5 => {
                send(&mut self.client, &self.buffers, &mut self.to_server, 1 + what * 8);
            }
            6 => {
                send(&mut self.server, &self.memory, &mut self.to_client, 1 + what * 8);
            }
            7 => {
                self.serve(1 + what * 8);
            }
            8 => self.receive(1 + what * 8),
            9 => self.answer(what),
            10 => self.poll(),
            11 => self.take(what),
            12 => self.abandon(what),
            _ => self.leave(what),
        }
    }

    fn submit(&mut self, make: impl FnOnce(u64, u32) -> Command, input: &mut Input<'_>) {
        let (offset, length) = (u64::from(input.u32()) % SIZE, 1 + u32::from(input.byte()) * 16);
        let command = make(offset, length.min((SIZE - offset) as u32));
        let Ok(id) = self.client.submit(command) else {
            return;
        };
        self.buffers.insert(
            id,
            match command.kind {
                CommandType::Read => vec![0; command.length as usize],
                CommandType::Write => pattern_of(command.offset, command.length),
                _ => Vec::new(),
            },
        );
        self.open.push(id);
    }

    /// Bytes reach the server; returns whether anything happened.
    fn serve(&mut self, most: usize) -> bool {
        let n = most.min(self.to_server.len());
        let bytes: Vec<u8> = self.to_server.drain(..n).collect();
        let taken = self.server.feed(&bytes, &mut self.memory).expect("our client is sound");
        for byte in bytes[taken..].iter().rev() {
            self.to_server.push_front(*byte);
        }
        let mut moved = taken > 0;
        while let Some(event) = self.server.poll_event() {
            moved = true;
            match event {
                ServerEvent::Request { id, command } => {
                    let payload = self.memory.remove(id);
                    if command.kind == CommandType::Write {
                        assert!(payload == pattern_of(command.offset, command.length));
                    }
                    self.requests.push((id, command));
                }
                ServerEvent::Replied { id } => drop(self.memory.remove(id)),
                ServerEvent::Disconnected { error } => assert!(self.cut || error.is_none()),
            }
        }
        moved
    }

    /// Bytes reach the client.
    fn receive(&mut self, most: usize) {
        let n = most.min(self.to_client.len());
        let bytes: Vec<u8> = self.to_client.drain(..n).collect();
        let taken = self.client.feed(&bytes, &mut self.buffers).expect("our server is sound");
        assert_eq!(taken, bytes.len(), "a client never waits");
    }

    /// The server's application answers one request.
    fn answer(&mut self, what: usize) {
        if self.requests.is_empty() {
            return;
        }
        let (id, command) = self.requests.swap_remove(what / 8 % self.requests.len());
        let server = &mut self.server;
        let structured = server.negotiated().headers != HeaderStyle::Simple;
        let result = match command.kind {
            CommandType::Read if structured && what & 1 != 0 && command.length > 1 => {
                self.memory.insert(id, pattern_of(command.offset, command.length));
                let (half, length) = (command.length as usize / 2, command.length as usize);
                server
                    .send_data(id, half, length - half, false)
                    .and_then(|()| server.send_data(id, 0, half, true))
            }
            CommandType::Read => {
                self.memory.insert(id, pattern_of(command.offset, command.length));
                server.reply_data(id)
            }
            CommandType::BlockStatus => {
                let extents = [Extent { length: command.length, status: 0 }];
                let contexts = server.contexts(id);
                contexts
                    .into_iter()
                    .try_for_each(|context| server.send_extents(id, context, &extents, false))
                    .and_then(|()| server.end_reply(id))
            }
            _ if what & 2 != 0 => server.reply_error(id, Errno::Io, "no"),
            _ => server.reply(id, Ok(())),
        };
        result.expect("the answer fits");
    }

    fn poll(&mut self) {
        while let Some(event) = self.client.poll_event() {
            assert!(!self.over, "{event:?} after the end");
            match event {
                Event::Completed { id, command, result } => self.completed(id, command, result),
                Event::Anomaly(anomaly) => panic!("{anomaly:?}"),
                Event::Disconnected { error } => {
                    assert!(self.cut || error.is_none(), "{error:?}");
                    self.over = true;
                }
            }
        }
    }

    fn completed(
        &mut self,
        id: RequestId,
        command: Command,
        result: Result<(), nbd_proto::CommandError>,
    ) {
        let index = self.open.iter().position(|open| *open == id);
        self.open.swap_remove(index.unwrap_or_else(|| panic!("{id:?} is not open")));
        let buffer = self.buffers.remove(id).expect("one for each command");
        if command.kind == CommandType::Read && result.is_ok() {
            assert!(buffer == pattern_of(command.offset, command.length), "wrong: {command:?}");
        }
    }

    fn take(&mut self, what: usize) {
        if let Some(id) = pick(&self.open, what)
            && let Some((command, result)) = self.client.take(id)
        {
            self.completed(id, command, result);
        }
    }

    fn abandon(&mut self, what: usize) {
        if let Some(id) = pick(&self.open, what) {
            self.open.retain(|open| *open != id);
            if self.client.abandon(id) {
                self.buffers.remove(id);
            }
        }
    }

    fn leave(&mut self, what: usize) {
        match what {
            0..8 => self.client.disconnect(Disconnect::AfterReplies),
            8..12 => {
                self.cut = true;
                self.client.disconnect(Disconnect::AfterRequests);
            }
            12..16 => {
                self.cut = true;
                self.client.disconnect(Disconnect::AbandonUnsent);
            }
            16..20 => {
                self.cut = true;
                self.client.send_failed();
            }
            20..24 => {
                self.cut = true;
                self.server.stop();
            }
            24..28 => {
                // What is not sent yet still needs its payload: the buffers stay.
                self.open.clear();
                self.client.abandon_all();
            }
            _ => {}
        }
    }

    /// Lets everything run to its end.
    fn settle(&mut self) {
        self.client.disconnect(Disconnect::AfterReplies);
        while !self.over && self.round() {}
        if !self.over {
            let end = self.client.eof();
            assert!(self.cut || end.is_ok(), "{end:?}: {:?}", self.client);
            self.poll();
        }
        assert!(self.over && self.client.is_closed(), "no end: {:?}", self.client);
        assert_eq!((self.open.len(), self.client.in_flight()), (0, 0), "never completed");
    }

    /// Moves and answers all there is; returns whether that was anything.
    fn round(&mut self) -> bool {
        let mut sent = send(&mut self.client, &self.buffers, &mut self.to_server, usize::MAX);
        let served = self.serve(usize::MAX);
        while !self.requests.is_empty() {
            self.answer(0);
        }
        sent += send(&mut self.server, &self.memory, &mut self.to_client, usize::MAX);
        let received = !self.to_client.is_empty();
        self.receive(usize::MAX);
        self.poll();
        sent > 0 || served || received
    }
}

/// At most so many bytes leave a machine; returns how many did.
fn send<M: Machine>(
    machine: &mut M,
    source: &impl PayloadSource,
    to: &mut VecDeque<u8>,
    most: usize,
) -> usize {
    let before = to.len();
    let visit = |bytes: &[u8]| {
        let left = most - (to.len() - before);
        to.extend(&bytes[..bytes.len().min(left)]);
        if bytes.len() < left { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    machine.for_each_unsent(source, visit).expect("all payload is here");
    let n = to.len() - before;
    machine.sent(n).expect("as much as was offered");
    n
}

fn pick(ids: &[RequestId], what: usize) -> Option<RequestId> {
    ids.get(what % ids.len().max(1)).copied()
}

fn other(what: usize, offset: u64, length: u64) -> Command {
    match what % 6 {
        0 => Command::flush(),
        1 => Command::trim(offset, length),
        2 => Command::cache(offset, length),
        3 => Command::write_zeroes(offset, length).with(CommandFlags::FUA),
        4 => Command::block_status(offset, length),
        _ => Command::block_status(offset, length).with(CommandFlags::REQ_ONE),
    }
}
