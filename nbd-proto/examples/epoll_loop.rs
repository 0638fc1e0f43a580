//! An NBD client around epoll(7), whose interest follows what the machine waits for:
//! adds up the bytes of an export.
//!
//! ```text
//! epoll_loop 127.0.0.1:10809
//! ```
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here is the IO that the core leaves to its caller"
)]

use std::error::Error;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    Buffers, ClientConfig, Command, Direction, Discard, Disconnect, Event, Machine, Negotiation,
    PayloadSink, PayloadSource,
};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::retry_on_intr;

const DEPTH: usize = 16;
const CHUNK: u64 = 64 << 10;

/// A socket and the interest it is registered with.
struct Socket {
    epoll: OwnedFd,
    stream: TcpStream,
    interest: Direction,
    /// The budget of the last call ended before the socket was exhausted.
    more: bool,
}

impl Socket {
    fn connect(address: &str) -> Result<Self, Box<dyn Error>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        let interest = Direction::READ;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(0), flags(interest))?;
        Ok(Self { epoll, stream, interest, more: true })
    }

    /// Waits for an event, then moves bytes both ways.
    fn turn<M, P>(&mut self, machine: &mut M, ports: &mut P) -> Result<(), Box<dyn Error>>
    where
        M: Machine,
        P: PayloadSink + PayloadSource,
    {
        let wrote = machine.notify_write(&mut self.stream, ports, IoMode::Vectored)?;
        let direction = machine.get_direction();
        if machine.is_ending() && !direction.contains(Direction::WRITE) {
            // There are servers that close only then. Where it is closed already, this is late.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        if direction != self.interest {
            self.interest = direction;
            let data = epoll::EventData::new_u64(0);
            epoll::modify(&self.epoll, &self.stream, data, flags(direction))?;
        }
        self.more |= wrote == Progress::More;
        if !self.more {
            let mut events = Vec::with_capacity(1);
            retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut events), None))?;
        }
        let read = machine.notify_read(&mut self.stream, ports, IoMode::Vectored)?;
        self.more = read == Progress::More;
        Ok(())
    }
}

fn flags(direction: Direction) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, direction.contains(Direction::READ));
    flags.set(epoll::EventFlags::OUT, direction.contains(Direction::WRITE));
    flags
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: epoll_loop ADDRESS")?;
    let mut socket = Socket::connect(&address)?;
    let mut negotiation = Box::new(Negotiation::new(ClientConfig::new())?);
    let mut client = loop {
        socket.turn(&mut *negotiation, &mut Discard)?;
        negotiation = match negotiation.finish() {
            Ok(client) => break client,
            Err(unfinished) => unfinished,
        };
    };

    let size = client.export().size;
    let mut buffers = Buffers::new();
    let (mut next, mut sum) = (0, 0);
    socket.more = true;
    while !client.is_closed() {
        while next < size && client.in_flight() < DEPTH {
            let length = CHUNK.min(size - next) as u32;
            let id = client.submit(Command::read(next, length))?;
            buffers.insert(id, vec![0; length as usize]);
            next += u64::from(length);
        }
        if next == size {
            client.disconnect(Disconnect::AfterReplies);
        }
        socket.turn(&mut client, &mut buffers)?;
        while let Some(event) = client.poll_event() {
            if let Event::Completed { id, result, .. } = event {
                result?;
                let data = buffers.remove(id).unwrap_or_default();
                sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            }
        }
    }
    println!("{next} bytes, sum {sum}");
    Ok(())
}
