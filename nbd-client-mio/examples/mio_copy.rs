//! Copies one export to another: two connections on one loop, and no byte is copied
//! between the two sockets' buffers.
//!
//! ```text
//! mio_copy nbd://localhost/from nbd+unix:///to?socket=/run/disk.sock
//! ```

use std::error::Error;
use std::io::ErrorKind;

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::proto::{Command, CommandFlags, CommandType, TransmissionFlags};
use nbd_client_mio::{Connection, Limit, State};

const DEPTH: usize = 32;
const CHUNK: u64 = 256 << 10;
const FROM: usize = 0;
const TO: usize = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let uris: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = uris.as_slice() else {
        return Err("usage: mio_copy FROM-URI TO-URI".into());
    };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(4);
    let mut disks: [Connection<Vec<u8>>; 2] =
        [Connection::connect(from)?, Connection::connect(to)?];
    for (token, disk) in disks.iter_mut().enumerate() {
        poll.registry().register(disk, Token(token), Interest::READABLE)?;
    }
    let (mut asked, mut reading, mut writing, mut ended) = (0, 0, 0, false);
    loop {
        for disk in &mut disks {
            if disk.needs_drive() {
                disk.drive(poll.registry())?;
            }
        }
        while let Some(done) = disks[FROM].next_completion() {
            done.result?;
            let buffer = done.buffer.unwrap_or_default();
            disks[TO].write(buffer, done.command.offset, CommandFlags::empty())?;
            reading -= 1;
            writing += 1;
        }
        while let Some(done) = disks[TO].next_completion() {
            done.result?;
            if done.command.kind == CommandType::Write {
                writing -= 1;
            } else {
                ended = true;
            }
        }
        if disks.iter().all(|disk| disk.state() == State::Closed) {
            println!("{asked} bytes copied");
            return Ok(());
        }
        if let [Some(from), Some(to)] =
            [disks[FROM].session().export(), disks[TO].session().export()]
        {
            let size = from.size;
            if to.size < size {
                return Err("the destination is too small".into());
            }
            let can_flush = to.flags.contains(TransmissionFlags::SEND_FLUSH);
            // A buffer is in flight on either side: the depth bounds the memory.
            while asked < size && reading + writing < DEPTH {
                let length = CHUNK.min(size - asked);
                disks[FROM].read(vec![0; length as usize], asked)?;
                asked += length;
                reading += 1;
            }
            let idle = asked == size && reading + writing == 0;
            if idle && (ended || !can_flush) {
                disks.iter_mut().for_each(|disk| disk.disconnect(Limit::Default));
            } else if idle && disks[TO].session().in_flight() == 0 {
                disks[TO].submit(Command::flush(), None)?;
            }
        }
        if !disks.iter().any(Connection::needs_drive) {
            match poll.poll(&mut events, None) {
                // A process that was stopped and goes on sees its calls interrupted.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                disks[event.token().0].handle_event(event);
            }
        }
    }
}
