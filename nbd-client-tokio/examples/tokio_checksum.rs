//! Prints the SHA-256 of an export: `checksum nbd://localhost/disk`.

use std::collections::VecDeque;

use nbd_client_tokio::{Client, Error};
use sha2::{Digest, Sha256};

const PIECE: u64 = 256 << 10;
const DEPTH: usize = 32;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uri = std::env::args().nth(1).ok_or("usage: checksum URI")?;
    let client = nbd_client_tokio::connect(&uri).await?;
    let digest = checksum(&client).await?;
    client.disconnect().await?;
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
            reads
                .push_back(tokio::spawn(async move { client.read(offset, length as usize).await }));
            offset += length;
        }
        let Some(read) = reads.pop_front() else { break };
        hash.update(read.await.expect("reading does not panic")?);
    }
    Ok(hash.finalize().into())
}
