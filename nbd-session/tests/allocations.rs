//! After warming up, a session allocates nothing for a read or a write.
//!
//! The allocator counts for the whole process, so there is nothing else in it: not even
//! the usual test harness, whose thread allocates when it comes to run.

use std::alloc::System;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Command, Direction, PayloadSink, PayloadSource, RequestId, part, part_mut};
use nbd_session::{ConnectOptions, Limit, Session, Step, Target};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LENGTH: u32 = 4096;
const DEPTH: u64 = 16;

/// One buffer for everything: what it holds does not matter here.
struct Memory([u8; LENGTH as usize]);

impl PayloadSink for Memory {
    fn region(&mut self, _: RequestId, at: usize, len: usize) -> &mut [u8] {
        part_mut(&mut self.0, at, len)
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, _: RequestId, at: usize, len: usize) -> &[u8] {
        part(&self.0, at, len)
    }
}

/// An oldstyle server that answers reads and writes, each request written by itself or with
/// others.
struct Canned {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    at: usize,
}

impl Canned {
    fn new() -> Self {
        let mut outgoing = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec();
        outgoing.extend((1_u64 << 20).to_be_bytes());
        outgoing.extend([0, 0, 0, 1]);
        outgoing.extend([0; 124]);
        outgoing.reserve(1 << 20);
        Self { incoming: Vec::with_capacity(1 << 20), outgoing, at: 0 }
    }

    fn answer(&mut self) {
        if self.at == self.outgoing.len() {
            self.outgoing.clear();
            self.at = 0;
        }
        while self.incoming.len() >= 28 {
            let write = self.incoming[7] == 1;
            let whole = if write { 28 + LENGTH as usize } else { 28 };
            if self.incoming.len() < whole {
                return;
            }
            self.outgoing.extend([0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
            self.outgoing.extend_from_slice(&self.incoming[8..16]);
            if !write {
                let end = self.outgoing.len() + LENGTH as usize;
                self.outgoing.resize(end, 7);
            }
            self.incoming.drain(..whole);
        }
    }
}

impl Write for Canned {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.incoming.extend_from_slice(buf);
        self.answer();
        Ok(buf.len())
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        for buf in bufs {
            self.incoming.extend_from_slice(buf);
        }
        self.answer();
        Ok(bufs.iter().map(|buf| buf.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Canned {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.outgoing.len() - self.at);
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        buf[..n].copy_from_slice(&self.outgoing[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// So many commands at a time, to the end of all.
fn round(session: &mut Session, io: &mut Canned, memory: &mut Memory, now: Instant) {
    if session.next_deadline().is_some_and(|at| at <= now) {
        session.handle_timeout(now);
    }
    for at in 0..DEPTH {
        let offset = at * u64::from(LENGTH);
        let command = match at % 2 {
            0 => Command::read(offset, LENGTH),
            _ => Command::write(offset, LENGTH),
        };
        session.submit(command, Limit::Default, now).expect("it fits");
    }
    let mut left = DEPTH;
    while left > 0 {
        while session.direction().contains(Direction::WRITE)
            && session.write(io, memory, now) == Progress::More
        {}
        while session.read(io, memory, now) == Progress::More {}
        while let Some(done) = session.next_completion() {
            done.result.expect("it is answered");
            left -= 1;
        }
        assert!(session.next_released().is_none() && session.next_admission().is_none());
    }
}

#[expect(clippy::disallowed_methods, reason = "any moment will do, but there has to be one")]
fn main() {
    let start = Instant::now();
    let plain = ConnectOptions::new().target(Target::Dialler);
    let limited = plain
        .clone()
        .request_timeout(Duration::from_secs(10))
        .silence(Duration::from_secs(30))
        .keep_alive(Duration::from_secs(60));
    for (name, options) in [("plain", plain), ("with limits of time", limited)] {
        let mut session = Session::new(options, 1, start).expect("sound options");
        let mut io = Canned::new();
        let mut memory = Memory([0; LENGTH as usize]);
        while !session.is_ready() {
            while let Some(step) = session.next_step() {
                if let Step::Connect(connect) = step {
                    session.connected(connect.generation, Ok(IoMode::Vectored), start);
                }
            }
            session.read(&mut io, &mut memory, start);
        }
        for _ in 0..4 {
            round(&mut session, &mut io, &mut memory, start);
        }
        let region = Region::new(ALLOCATOR);
        for second in 0..100 {
            round(&mut session, &mut io, &mut memory, start + Duration::from_secs(second));
        }
        let change = region.change();
        assert_eq!(change.allocations + change.reallocations, 0, "{name}: {change:?}");
    }
    println!("no allocation per request");
}
