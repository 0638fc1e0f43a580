//! Prints the SHA-256 of an export: `checksum nbd://localhost/disk`.

use futures_util::{StreamExt, TryStreamExt, stream};
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
    println!("{digest}  {uri}");
    Ok(())
}

/// Many reads are in flight; what they bring is hashed in order.
async fn checksum(client: &Client) -> Result<String, Error> {
    let read = |offset| client.read(offset, PIECE.min(client.size() - offset) as usize);
    let offsets = (0..client.size()).step_by(PIECE as usize);
    let mut pieces = stream::iter(offsets).map(read).buffered(DEPTH);
    let mut hash = Sha256::new();
    while let Some(piece) = pieces.try_next().await? {
        hash.update(&piece);
    }
    Ok(format!("{:x}", hash.finalize()))
}
