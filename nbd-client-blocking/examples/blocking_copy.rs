//! Copies one export to another, with many requests in flight on both sides.
//!
//! ```text
//! blocking_copy nbd://localhost/from nbd+unix:///to?socket=/run/disk.sock
//! ```

use std::error::Error;

use nbd_client_blocking::Client;
use nbd_client_blocking::proto::{Command, TransmissionFlags};

const DEPTH: usize = 32;
const CHUNK: u64 = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let uris: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = uris.as_slice() else {
        return Err("usage: blocking_copy FROM-URI TO-URI".into());
    };
    let (mut from, mut to) = (Client::connect(from)?, Client::connect(to)?);
    let size = from.size();
    if to.size() < size {
        return Err("the destination is too small".into());
    }

    let (mut reads, mut writes) = (from.pipeline(), to.pipeline());
    let mut asked = 0;
    loop {
        while asked < size && reads.in_flight() < DEPTH {
            let length = CHUNK.min(size - asked);
            reads.read(vec![0; length as usize], asked)?;
            asked += length;
        }
        let Some(read) = reads.wait() else { break };
        read.result?;
        // The buffer that was read into is written from.
        writes
            .submit(Command::write(read.command.offset, read.command.length as u32), read.buffer)?;
        // What is finished makes room; only a full line is waited for.
        while let Some(written) = writes.try_wait() {
            written.result?;
        }
        while writes.in_flight() >= DEPTH {
            if let Some(written) = writes.wait() {
                written.result?;
            }
        }
    }
    while let Some(written) = writes.wait() {
        written.result?;
    }
    drop((reads, writes));
    if to.flags().contains(TransmissionFlags::SEND_FLUSH) {
        to.flush()?;
    }
    from.disconnect()?;
    to.disconnect()?;
    println!("{size} bytes copied");
    Ok(())
}
