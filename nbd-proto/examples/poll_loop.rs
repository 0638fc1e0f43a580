//! A whole NBD client around poll(2): adds up the bytes of an export.
//!
//! ```text
//! poll_loop 127.0.0.1:10809
//! ```
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here is the IO that the core leaves to its caller"
)]

use std::error::Error;
use std::net::{Shutdown, TcpStream};

use nbd_proto::Direction;
use nbd_proto::io::IoMode;
use nbd_proto::{
    Buffers, Client, ClientConfig, Command, Discard, Disconnect, Event, Machine, Negotiation,
    PayloadSink, PayloadSource,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

const DEPTH: usize = 16;
const CHUNK: u64 = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: poll_loop ADDRESS")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nonblocking(true)?;
    let mut client = negotiate(&mut stream)?;

    let size = client.export().size;
    let mut buffers = Buffers::new();
    let (mut next, mut sum) = (0, 0);
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
        turn(&mut client, &mut stream, &mut buffers)?;
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

fn negotiate(stream: &mut TcpStream) -> Result<Client, Box<dyn Error>> {
    let mut negotiation = Box::new(Negotiation::new(ClientConfig::new())?);
    loop {
        negotiation = match negotiation.finish() {
            Ok(client) => return Ok(client),
            Err(unfinished) => unfinished,
        };
        turn(&mut *negotiation, stream, &mut Discard)?;
    }
}

/// Sends what is due, waits for what the machine waits for, and takes in what has come.
fn turn<M, P>(machine: &mut M, stream: &mut TcpStream, ports: &mut P) -> Result<(), Box<dyn Error>>
where
    M: Machine,
    P: PayloadSink + PayloadSource,
{
    machine.notify_write(stream, ports, IoMode::Vectored)?;
    let direction = machine.get_direction();
    if machine.is_ending() && !direction.contains(Direction::WRITE) {
        // There are servers that close only then. Where it is closed already, this is late.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut events = PollFlags::empty();
    events.set(PollFlags::IN, direction.contains(Direction::READ));
    events.set(PollFlags::OUT, direction.contains(Direction::WRITE));
    retry_on_intr(|| poll(&mut [PollFd::new(&*stream, events)], None))?;
    machine.notify_read(stream, ports, IoMode::Vectored)?;
    Ok(())
}
