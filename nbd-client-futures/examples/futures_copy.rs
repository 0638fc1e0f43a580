//! Copies one export to another of at least its size, on smol: `copy SOURCE TARGET`.

use std::collections::VecDeque;

use nbd_client_futures::{Client, Error, smol::connect};

const PIECE: u64 = 256 << 10;
const DEPTH: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uris: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = uris.as_slice() else {
        return Err("usage: copy SOURCE TARGET".into());
    };
    smol::block_on(async {
        let (source, target) = (connect(from).await?, connect(to).await?);
        let mut copies = VecDeque::new();
        for offset in (0..source.size()).step_by(PIECE as usize) {
            if copies.len() >= DEPTH
                && let Some(copied) = copies.pop_front()
            {
                copied.await?;
            }
            copies.push_back(smol::spawn(copy(source.clone(), target.clone(), offset)));
        }
        for copied in copies {
            copied.await?;
        }
        target.flush().await?;
        println!("{} bytes copied", source.size());
        source.disconnect().await?;
        target.disconnect().await?;
        Ok(())
    })
}

async fn copy(source: Client, target: Client, offset: u64) -> Result<(), Error> {
    let length = PIECE.min(source.size() - offset);
    let data = source.read(offset, length as usize).await?;
    Ok(target.write_all_at(data, offset).await?)
}
