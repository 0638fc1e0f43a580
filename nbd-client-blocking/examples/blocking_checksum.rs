//! Prints the SHA-256 of an export, reading with many requests in flight.
//!
//! ```text
//! blocking_checksum nbd://localhost/disk
//! ```

use std::collections::BTreeMap;
use std::error::Error;

use nbd_client_blocking::Client;
use sha2::{Digest, Sha256};

const DEPTH: usize = 64;
const CHUNK: u64 = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: blocking_checksum URI")?;
    let mut client = Client::connect(&uri)?;
    let size = client.size();

    let mut hash = Sha256::new();
    // Replies come in any order; a hash wants them in one.
    let mut early: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let (mut asked, mut hashed) = (0, 0);
    let mut pipeline = client.pipeline();
    loop {
        while asked < size && pipeline.in_flight() + early.len() < DEPTH {
            let length = CHUNK.min(size - asked);
            pipeline.read(vec![0; length as usize], asked)?;
            asked += length;
        }
        let Some(done) = pipeline.wait() else { break };
        done.result?;
        early.insert(done.command.offset, done.buffer.unwrap_or_default());
        while let Some(data) = early.remove(&hashed) {
            hash.update(&data);
            hashed += data.len() as u64;
        }
    }
    drop(pipeline);
    client.disconnect()?;
    println!("{:x}", hash.finalize());
    Ok(())
}
