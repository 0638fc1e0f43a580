//! The ways in which one burst of bytes can reach a machine.

use nbd_proto::{ClientConfig, Discard, Error, Machine, Negotiation, PayloadSink};

/// How bytes reach a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// In one piece, by `feed`.
    Whole,
    /// Byte by byte, by `feed`.
    Bytes,
    /// As much as the machine offers room for, by `recv_bufs`.
    Offered,
    /// At most so many bytes at a time, by `recv_bufs`.
    OfferedPieces(usize),
    /// At most so many bytes at a time, by `recv_buf`.
    OneBuffer(usize),
}

impl Delivery {
    /// Some of every kind.
    pub const ALL: [Self; 7] = [
        Self::Whole,
        Self::Bytes,
        Self::Offered,
        Self::OfferedPieces(1),
        Self::OfferedPieces(13),
        Self::OneBuffer(usize::MAX),
        Self::OneBuffer(1),
    ];

    /// Hands over a burst; returns how much of it the machine took.
    ///
    /// # Errors
    /// Those of the machine.
    pub fn deliver<M: Machine, S: PayloadSink>(
        self,
        machine: &mut M,
        sink: &mut S,
        burst: &[u8],
    ) -> Result<usize, Error> {
        let most = match self {
            Self::Whole => return machine.feed(burst, sink),
            Self::Bytes => {
                return burst
                    .iter()
                    .try_fold(0, |taken, byte| Ok(taken + machine.feed(&[*byte], sink)?));
            }
            Self::Offered => usize::MAX,
            Self::OfferedPieces(most) | Self::OneBuffer(most) => most,
        };
        if machine.has_buffered() {
            machine.received(0, sink)?;
        }
        let mut taken = 0;
        while taken < burst.len() {
            let rest = &burst[taken..];
            let n = if matches!(self, Self::OneBuffer(_)) {
                fill(machine.recv_buf(sink), rest, most)
            } else {
                let bufs = machine.recv_bufs(sink);
                let n = fill(bufs.payload, rest, most);
                n + fill(bufs.scratch, &rest[n..], most - n)
            };
            if n == 0 {
                // The machine wants no more; a caller that has bytes all the same can
                // only push them.
                return Ok(taken + machine.feed(rest, sink)?);
            }
            machine.received(n, sink)?;
            taken += n;
        }
        Ok(taken)
    }
}

fn fill(buffer: &mut [u8], bytes: &[u8], most: usize) -> usize {
    let n = buffer.len().min(bytes.len()).min(most);
    buffer[..n].copy_from_slice(&bytes[..n]);
    n
}

/// A client's negotiation that has said all it had to say to each of these bursts.
///
/// # Panics
/// When it does not put up with one of them.
#[must_use]
pub fn negotiation(config: ClientConfig, bursts: &[Vec<u8>]) -> Negotiation {
    let mut negotiation = Negotiation::new(config).expect("sound names");
    for burst in bursts {
        negotiation.feed(burst, &mut Discard).expect("a burst that is right");
        negotiation.drain(&mut Vec::new(), &Discard).expect("no payload is due");
    }
    negotiation
}
