//! Prints the SHA-256 of an export, reading with many requests in flight.
//!
//! ```text
//! mio_checksum nbd://localhost/disk
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::ErrorKind;

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::{Connection, Limit, State};
use sha2::{Digest, Sha256};

const DEPTH: usize = 64;
const CHUNK: u64 = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: mio_checksum URI")?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(4);
    let mut disk: Connection<Vec<u8>> = Connection::connect(uri)?;
    poll.registry().register(&mut disk, Token(0), Interest::READABLE)?;

    let mut hash = Sha256::new();
    // Replies come in any order; a hash wants them in one.
    let mut early: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let (mut asked, mut hashed, mut end) = (0, 0, None);
    while disk.drive(poll.registry())? != State::Closed {
        while let Some(done) = disk.next_completion() {
            done.result?;
            early.insert(done.command.offset, done.buffer.unwrap_or_default());
        }
        while let Some(data) = early.remove(&hashed) {
            hash.update(&data);
            hashed += data.len() as u64;
        }
        if disk.state() == State::Ready
            && let Some(export) = disk.session().export()
        {
            let size = export.size;
            end = Some(size);
            let mut room = DEPTH.saturating_sub(disk.session().in_flight() + early.len());
            while room > 0 && asked < size {
                let length = CHUNK.min(size - asked);
                disk.read(vec![0; length as usize], asked)?;
                asked += length;
                room -= 1;
            }
            if hashed == size {
                disk.disconnect(Limit::Default);
            }
        }
        if !disk.needs_drive() {
            match poll.poll(&mut events, None) {
                // A process that was stopped and goes on sees its calls interrupted.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            events.iter().for_each(|event| disk.handle_event(event));
        }
    }
    if end != Some(hashed) {
        return Err("the server closed the connection too early".into());
    }
    println!("{:x}", hash.finalize());
    Ok(())
}
