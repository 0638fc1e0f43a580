//! Finds zeroes in data.

use nbd_client_blocking::{BufferPool, PooledBuffer};

use super::piece::{Piece, PieceSender, Slice};
use crate::failure::Result;

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Blocks without an early exit inside are compared many bytes at a time.
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// Sends a buffer on as data and runs of zeroes. Runs shorter than `granularity` stay
/// data, and so does everything when it is 0.
pub(super) fn send(
    sender: &PieceSender<'_>,
    offset: u64,
    buffer: PooledBuffer,
    memory: &BufferPool,
    granularity: usize,
) -> Result<()> {
    if granularity == 0 {
        return sender.send(Piece::Data { offset, bytes: buffer.into() });
    }
    let runs = runs(&buffer, granularity);
    let mut buffer = Some(buffer);
    let last_data = runs.iter().rposition(|run| !run.zero);
    for (i, run) in runs.iter().enumerate() {
        let (start, stop) = (run.start, run.end);
        let at = offset + start as u64;
        if run.zero {
            sender.send(Piece::Zeroes { offset: at, length: (stop - start) as u64 })?;
        } else if Some(i) == last_data {
            if let Some(buffer) = buffer.take() {
                sender.send(Piece::Data { offset: at, bytes: Slice::new(buffer, start..stop) })?;
            }
        } else if let Some(buffer) = &buffer {
            // Data before the last run travels in a buffer of its own.
            let mut own = memory.buffer(stop - start);
            own.copy_from_slice(&buffer[start..stop]);
            sender.send(Piece::Data { offset: at, bytes: own.into() })?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: usize,
    end: usize,
    zero: bool,
}

/// Splits into runs of data and of zeroes, in whole blocks.
fn runs(buffer: &[u8], block: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut start = 0;
    for piece in buffer.chunks(block) {
        let end = start + piece.len();
        let zero = is_zero(piece);
        match runs.last_mut() {
            Some(run) if run.zero == zero => run.end = end,
            _ => runs.push(Run { start, end, zero }),
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn zeroes_are_found(len in 0usize..300, at in 0usize..300, value in 1u8..) {
            let mut bytes = vec![0; len];
            prop_assert!(is_zero(&bytes));
            if at < len {
                bytes[at] = value;
                prop_assert!(!is_zero(&bytes));
            }
        }

        /// Data and zeroes together are the buffer, whatever it holds.
        #[test]
        fn pieces_make_up_the_buffer(
            blocks in prop::collection::vec((prop::bool::ANY, 1usize..700), 0..12),
            granularity in prop::sample::select(vec![0usize, 512, 1024]),
        ) {
            let buffer: Vec<u8> =
                blocks.iter().flat_map(|(zero, len)| vec![u8::from(!zero); *len]).collect();
            let (pieces, receiver) = super::super::piece::channel(64);
            let sender = PieceSender::Thread(pieces);
            let memory = BufferPool::new();
            let mut pooled = memory.buffer(buffer.len());
            pooled.copy_from_slice(&buffer);
            send(&sender, 1000, pooled, &memory, granularity).unwrap();
            drop(sender);
            let mut rebuilt = vec![0xff; buffer.len()];
            while let Some(piece) = receiver.wait() {
                match piece {
                    Piece::Data { offset, bytes } => {
                        let at = offset as usize - 1000;
                        rebuilt[at..at + bytes.len()].copy_from_slice(bytes.as_ref());
                    }
                    Piece::Zeroes { offset, length } => {
                        prop_assert!(granularity > 0);
                        let at = offset as usize - 1000;
                        rebuilt[at..at + length as usize].fill(0);
                    }
                }
            }
            prop_assert_eq!(rebuilt, buffer);
        }
    }
}
