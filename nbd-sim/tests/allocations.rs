//! After warming up, the core allocates nothing for a read or a write.
//!
//! The allocator counts for the whole process, so there is nothing else in it: not even
//! the usual test harness, whose thread allocates when it comes to run.

use std::alloc::System;

use nbd_proto::{
    Client, ClientConfig, Command, CommandType, Discard, ExportInfo, HeaderStyle, Machine,
    Negotiation, PayloadSink, PayloadSource, Phase, Question, RequestId, Server, ServerConfig,
    ServerEvent, ServerNegotiation, TransmissionFlags, part, part_mut,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LENGTH: u32 = 4096;
const DEPTH: usize = 16;

/// One buffer for everything: what it holds does not matter here.
struct Memory([u8; LENGTH as usize]);

impl PayloadSink for Memory {
    fn region(&mut self, _id: RequestId, at: usize, len: usize) -> &mut [u8] {
        part_mut(&mut self.0, at, len)
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, _id: RequestId, at: usize, len: usize) -> &[u8] {
        part(&self.0, at, len)
    }
}

fn connect(style: HeaderStyle) -> (Client, Server) {
    let config = ClientConfig::new()
        .structured_replies(style != HeaderStyle::Simple)
        .extended_headers(style == HeaderStyle::Extended);
    let mut client = Negotiation::new(config).unwrap();
    let mut server = ServerNegotiation::new(ServerConfig::new());
    let mut wire = Vec::new();
    while client.phase() != Phase::Established {
        server.drain(&mut wire, &Discard).unwrap();
        client.feed(&wire, &mut Discard).unwrap();
        wire.clear();
        client.drain(&mut wire, &Discard).unwrap();
        server.feed(&wire, &mut Discard).unwrap();
        wire.clear();
        if let Some(Question::Go(_)) = server.question() {
            let export = ExportInfo::new(1 << 20, TransmissionFlags::HAS_FLAGS);
            server.describe(export).unwrap();
        }
    }
    let client = client.finish().unwrap();
    assert_eq!(client.negotiated().headers, style);
    (client, server.finish().unwrap())
}

struct Pair {
    client: Client,
    server: Server,
    wire: Vec<u8>,
    memory: Memory,
}

impl Pair {
    /// Each machine is given bytes in pieces, as a socket would.
    fn carry<M: Machine>(machine: &mut M, wire: &mut Vec<u8>, memory: &mut Memory) {
        for piece in wire.chunks(1000) {
            assert_eq!(machine.feed(piece, memory).unwrap(), piece.len());
        }
        wire.clear();
    }

    fn round(&mut self) {
        for n in 0..DEPTH {
            let command = match n % 2 {
                0 => Command::read(0, LENGTH),
                _ => Command::write(0, LENGTH),
            };
            self.client.submit(command).unwrap();
        }
        self.client.drain(&mut self.wire, &self.memory).unwrap();
        Self::carry(&mut self.server, &mut self.wire, &mut self.memory);
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Request { id, command } => match command.kind {
                    CommandType::Read => self.server.reply_data(id).unwrap(),
                    _ => self.server.reply(id, Ok(())).unwrap(),
                },
                ServerEvent::Replied { .. } => {}
                ServerEvent::Disconnected { .. } => panic!("nobody left"),
            }
        }
        self.server.drain(&mut self.wire, &self.memory).unwrap();
        while self.server.poll_event().is_some() {}
        Self::carry(&mut self.client, &mut self.wire, &mut self.memory);
        let mut done = 0;
        while self.client.poll_event().is_some() {
            done += 1;
        }
        assert_eq!(done, DEPTH);
    }
}

fn main() {
    let region = Region::new(ALLOCATOR);
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(region.change().allocations, 1, "the allocator must count");
    for style in [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended] {
        let (client, server) = connect(style);
        let mut pair =
            Pair { client, server, wire: Vec::new(), memory: Memory([0x5a; LENGTH as usize]) };
        for _ in 0..4 {
            pair.round();
        }
        let region = Region::new(ALLOCATOR);
        for _ in 0..100 {
            pair.round();
        }
        let change = region.change();
        let calls = change.allocations + change.reallocations;
        assert_eq!(calls, 0, "{style:?}: {change:?} for {} requests", 100 * DEPTH);
    }
}
