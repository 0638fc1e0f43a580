//! Several connections on one loop of the crate `polling`: they share the work of adding
//! up the bytes of an export.
//!
//! ```text
//! polling_loop 127.0.0.1:10809 4
//! ```
//!
//! With version 2 of `polling`, whose registration is safe; that of version 3 is not.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here is the IO that the core leaves to its caller"
)]

use std::error::Error;
use std::net::{Shutdown, TcpStream};

use nbd_proto::io::IoMode;
use nbd_proto::{
    Buffers, Client, ClientConfig, Command, Direction, Discard, Disconnect, Event, Machine,
    Negotiation,
};
use polling::Poller;

const DEPTH: usize = 4;
const CHUNK: u64 = 64 << 10;

/// What is left to read, and the sum of what has been.
#[derive(Default)]
struct Work {
    next: u64,
    sum: u64,
}

enum Stage {
    Negotiating(Box<Negotiation>),
    Open(Box<Client>),
}

struct Connection {
    stream: TcpStream,
    stage: Option<Stage>,
    buffers: Buffers<Vec<u8>>,
}

impl Connection {
    fn new(address: &str) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        let negotiation = Box::new(Negotiation::new(ClientConfig::new())?);
        Ok(Self { stream, stage: Some(Stage::Negotiating(negotiation)), buffers: Buffers::new() })
    }

    /// Does what can be done, and says what to wait for: nothing at the end.
    fn advance(&mut self, work: &mut Work) -> Result<Direction, Box<dyn Error>> {
        let (stream, mode) = (&mut self.stream, IoMode::Vectored);
        let direction;
        self.stage = match self.stage.take() {
            Some(Stage::Negotiating(mut negotiation)) => {
                negotiation.notify_read(stream, &mut Discard, mode)?;
                negotiation.notify_write(stream, &Discard, mode)?;
                direction = negotiation.get_direction() | Direction::READ;
                match negotiation.finish() {
                    Ok(client) => {
                        self.stage = Some(Stage::Open(Box::new(client)));
                        return self.advance(work);
                    }
                    Err(unfinished) => Some(Stage::Negotiating(unfinished)),
                }
            }
            Some(Stage::Open(mut client)) => {
                client.notify_read(stream, &mut self.buffers, mode)?;
                while let Some(event) = client.poll_event() {
                    if let Event::Completed { id, result, .. } = event {
                        result?;
                        let data = self.buffers.remove(id).unwrap_or_default();
                        work.sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                    }
                }
                let size = client.export().size;
                while !client.is_closed() && work.next < size && client.in_flight() < DEPTH {
                    let length = CHUNK.min(size - work.next) as u32;
                    let id = client.submit(Command::read(work.next, length))?;
                    self.buffers.insert(id, vec![0; length as usize]);
                    work.next += u64::from(length);
                }
                if work.next == size {
                    client.disconnect(Disconnect::AfterReplies);
                }
                client.notify_write(stream, &self.buffers, mode)?;
                direction = client.get_direction();
                if client.is_ending() && !direction.contains(Direction::WRITE) {
                    // There are servers that close only then. Where it is closed already, this
                    // is late.
                    let _ = stream.shutdown(Shutdown::Write);
                }
                Some(Stage::Open(client))
            }
            None => return Ok(Direction::empty()),
        };
        Ok(direction)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: polling_loop ADDRESS CONNECTIONS";
    let (address, count) = args.next().zip(args.next()).ok_or(usage)?;
    let poller = Poller::new()?;
    let mut connections = Vec::new();
    for key in 0..count.parse()? {
        let connection = Connection::new(&address)?;
        poller.add(&connection.stream, polling::Event::all(key))?;
        connections.push(connection);
    }
    let mut open = connections.len();
    let mut work = Work::default();
    let mut events = Vec::new();
    while open > 0 {
        events.clear();
        poller.wait(&mut events, None)?;
        for event in &events {
            let connection = &mut connections[event.key];
            let direction = connection.advance(&mut work)?;
            if direction.is_empty() {
                poller.delete(&connection.stream)?;
                open -= 1;
                continue;
            }
            // The interest ends with each event; asking again tells of what is ready
            // already, so nothing is lost when a budget ended.
            let interest = polling::Event {
                key: event.key,
                readable: direction.contains(Direction::READ),
                writable: direction.contains(Direction::WRITE),
            };
            poller.modify(&connection.stream, interest)?;
        }
    }
    let count = connections.len();
    println!("{} bytes, sum {}, {count} connections", work.next, work.sum);
    Ok(())
}
