//! Copies one export to another of at least its size: `copy SOURCE TARGET`.

use nbd_client_tokio::{Client, ConnectOptions, Error, connect};
use tokio::task::JoinSet;

const PIECE: u64 = 256 << 10;
const DEPTH: usize = 32;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uris: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = uris.as_slice() else {
        return Err("usage: copy SOURCE TARGET".into());
    };
    let options =
        |uri: &str| Ok::<_, Error>(uri.parse::<ConnectOptions>()?.meta_context("base:allocation"));
    let (source, target) = tokio::try_join!(connect(options(from)?), connect(options(to)?))?;
    let mut copies = JoinSet::new();
    for offset in (0..source.size()).step_by(PIECE as usize) {
        if copies.len() >= DEPTH
            && let Some(copied) = copies.join_next().await
        {
            copied??;
        }
        copies.spawn(copy(source.clone(), target.clone(), offset));
    }
    while let Some(copied) = copies.join_next().await {
        copied??;
    }
    target.flush().await?;
    println!("{} bytes copied", source.size());
    tokio::try_join!(source.disconnect(), target.disconnect())?;
    Ok(())
}

async fn copy(source: Client, target: Client, offset: u64) -> Result<(), Error> {
    let length = PIECE.min(source.size() - offset);
    let data = source.read(offset, length as usize).await?;
    Ok(target.write_all_at(data, offset).await?)
}
