//! Prints the SHA-256 of an export, on compio: `compio_checksum nbd://localhost/disk`.

use std::collections::VecDeque;

use compio::runtime::Runtime;
use nbd_client_compio::{Client, Error};
use sha2::{Digest, Sha256};

const PIECE: u64 = 256 << 10;
const DEPTH: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: compio_checksum URI")?;
    let digest = Runtime::new()?.block_on(async {
        let client = nbd_client_compio::connect(&uri).await?;
        let digest = checksum(&client).await?;
        client.disconnect().await.map(|()| digest)
    })?;
    for byte in digest {
        print!("{byte:02x}");
    }
    println!("  {uri}");
    Ok(())
}

/// Many reads are in flight; what they bring is hashed in order.
async fn checksum(client: &Client) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let mut reads = VecDeque::new();
    let mut offset = 0;
    loop {
        while offset < client.size() && reads.len() < DEPTH {
            let length = PIECE.min(client.size() - offset);
            let client = client.clone();
            let read = async move { client.read(offset, length as usize).await };
            reads.push_back(compio::runtime::spawn(read));
            offset += length;
        }
        let Some(read) = reads.pop_front() else { break };
        hash.update(read.await.expect("reading does not panic")?);
    }
    Ok(hash.finalize().into())
}
