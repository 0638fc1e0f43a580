//! A loop as a program with a window has it: it pumps the connection once a frame, and
//! nothing in a frame ever waits. Adds up the bytes of an export.
//!
//! ```text
//! frame_loop 127.0.0.1:10809
//! ```
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "here is the IO that the core leaves to its caller"
)]

use std::error::Error;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nbd_proto::io::IoMode;
use nbd_proto::{
    Buffers, Client, ClientConfig, Command, Direction, Discard, Disconnect, Event, Machine,
    Negotiation,
};

const FRAME: Duration = Duration::from_millis(5);
const DEPTH: usize = 16;
const CHUNK: u64 = 64 << 10;

/// What the window shows: how far the work has come.
enum Disk {
    Connecting(mpsc::Receiver<std::io::Result<TcpStream>>),
    Negotiating(TcpStream, Box<Negotiation>),
    Reading(Box<Reading>),
    Done { bytes: u64, sum: u64 },
}

struct Reading {
    stream: TcpStream,
    client: Client,
    buffers: Buffers<Vec<u8>>,
    next: u64,
    sum: u64,
}

impl Disk {
    /// Connecting may wait for long, so a thread does it.
    fn open(address: String) -> Self {
        let (sender, stream) = mpsc::channel();
        thread::spawn(move || {
            let connected = TcpStream::connect(address).and_then(|stream| {
                stream.set_nonblocking(true)?;
                Ok(stream)
            });
            // The window may be gone.
            let _ = sender.send(connected);
        });
        Self::Connecting(stream)
    }

    /// Once a frame: as much as goes without waiting, and not more than a little.
    fn pump(self) -> Result<Self, Box<dyn Error>> {
        match self {
            Self::Connecting(stream) => match stream.try_recv() {
                Ok(connected) => {
                    let negotiation = Box::new(Negotiation::new(ClientConfig::new())?);
                    Ok(Self::Negotiating(connected?, negotiation))
                }
                Err(mpsc::TryRecvError::Empty) => Ok(Self::Connecting(stream)),
                Err(error) => Err(error.into()),
            },
            Self::Negotiating(mut stream, mut negotiation) => {
                negotiation.notify_read(&mut stream, &mut Discard, IoMode::Vectored)?;
                negotiation.notify_write(&mut stream, &Discard, IoMode::Vectored)?;
                Ok(match negotiation.finish() {
                    Ok(client) => Self::Reading(Box::new(Reading {
                        stream,
                        client,
                        buffers: Buffers::new(),
                        next: 0,
                        sum: 0,
                    })),
                    Err(unfinished) => Self::Negotiating(stream, unfinished),
                })
            }
            Self::Reading(mut reading) => {
                let Reading { stream, client, buffers, next, sum } = &mut *reading;
                client.notify_read(stream, buffers, IoMode::Vectored)?;
                while let Some(event) = client.poll_event() {
                    if let Event::Completed { id, result, .. } = event {
                        result?;
                        let data = buffers.remove(id).unwrap_or_default();
                        *sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                    }
                }
                if client.is_closed() {
                    let (bytes, sum) = (*next, *sum);
                    return Ok(Self::Done { bytes, sum });
                }
                let size = client.export().size;
                while *next < size && client.in_flight() < DEPTH {
                    let length = CHUNK.min(size - *next) as u32;
                    let id = client.submit(Command::read(*next, length))?;
                    buffers.insert(id, vec![0; length as usize]);
                    *next += u64::from(length);
                }
                if *next == size {
                    client.disconnect(Disconnect::AfterReplies);
                }
                client.notify_write(stream, buffers, IoMode::Vectored)?;
                if client.is_ending() && !client.get_direction().contains(Direction::WRITE) {
                    // There are servers that close only then. Where it is closed already, this
                    // is late.
                    let _ = stream.shutdown(Shutdown::Write);
                }
                Ok(Self::Reading(reading))
            }
            done @ Self::Done { .. } => Ok(done),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: frame_loop ADDRESS")?;
    let mut disk = Disk::open(address);
    let mut frames = 0;
    loop {
        let next_frame = Instant::now() + FRAME;
        disk = disk.pump()?;
        frames += 1;
        if let Disk::Done { bytes, sum } = disk {
            println!("{bytes} bytes, sum {sum}, {frames} frames");
            return Ok(());
        }
        // Here a window would be drawn; this loop sleeps for the rest of the frame.
        thread::sleep(next_frame.saturating_duration_since(Instant::now()));
    }
}
