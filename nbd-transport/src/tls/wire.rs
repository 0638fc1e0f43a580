//! Ciphertext on its way into a stage and out of it.

use std::fmt;

/// Room for what arrives. It holds a handshake message of the longest kind that is accepted
/// (64 KiB), and as many records as one large read of a socket brings.
const INCOMING: usize = 256 << 10;

/// The longest TLS record: 16 KiB, what encryption may add, and a header (RFC 5246, 6.2.3).
const RECORD: usize = (16 << 10) + 2048 + 5;

/// The ciphertext of one connection, both ways.
///
/// ```text
///   transport ──► recv_buf, received ──► [ incoming ] ──► the stage decrypts
///   transport ◄── unsent, sent ◄──────── [ outgoing ] ◄── the stage encrypts
/// ```
///
/// What arrives never takes more than a fixed room. What leaves is bounded by the stage, which
/// encrypts no more while much is unsent.
pub struct Wire {
    /// What has arrived, for the stage to decrypt.
    pub(super) incoming: Incoming,
    /// What the stage has encrypted, to be sent.
    pub(super) outgoing: Outgoing,
}

impl Wire {
    /// Nothing has arrived and nothing is to be sent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where received ciphertext goes. Empty only when the peer sends a message that is too long
    /// to be held.
    pub fn recv_buf(&mut self) -> &mut [u8] {
        self.incoming.room()
    }

    /// `n` bytes have been received into that room. More than there was room for count as that.
    pub fn received(&mut self, n: usize) {
        self.incoming.end = self.incoming.bytes.len().min(self.incoming.end + n);
    }

    /// Ciphertext to send, in one piece.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        let Outgoing { bytes, head, tail } = &self.outgoing;
        bytes.get(*head..*tail).unwrap_or_default()
    }

    /// `n` bytes of it have been sent. More than there were count as all.
    pub fn sent(&mut self, n: usize) {
        let Outgoing { head, tail, .. } = &mut self.outgoing;
        *head = (*tail).min(*head + n);
        if *head == *tail {
            (*head, *tail) = (0, 0);
        }
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            incoming: Incoming { bytes: vec![0; INCOMING], start: 0, end: 0 },
            outgoing: Outgoing::default(),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("arrived", &(self.incoming.end - self.incoming.start))
            .field("unsent", &self.unsent().len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("start", &self.start)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("head", &self.head)
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

/// Ciphertext that has arrived and is not decrypted: `start..end`.
pub(super) struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn room(&mut self) -> &mut [u8] {
        let Self { bytes, start, end } = self;
        if *start == *end {
            (*start, *end) = (0, 0);
        } else if bytes.len() - *end < RECORD {
            bytes.copy_within(*start..*end, 0);
            (*start, *end) = (0, *end - *start);
        }
        bytes.get_mut(*end..).unwrap_or_default()
    }

    /// What has arrived. It may be decrypted in place.
    #[cfg(any(feature = "x509", feature = "psk", test))]
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// The first `n` bytes are used up.
    #[cfg(any(feature = "x509", feature = "psk", test))]
    pub(super) fn consume(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
    }
}

/// Ciphertext to be sent: `head..tail`. The memory behind it is cleared once and then reused.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Outgoing {
    /// Room for `n` more bytes, of which [`added`](Self::added) tells how many were used.
    #[cfg(any(feature = "x509", feature = "psk", test))]
    pub(super) fn room(&mut self, n: usize) -> &mut [u8] {
        let end = self.tail + n;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.tail..end).unwrap_or_default()
    }

    /// The first `n` bytes of the last room are to be sent.
    #[cfg(any(feature = "x509", feature = "psk", test))]
    pub(super) fn added(&mut self, n: usize) {
        self.tail = self.bytes.len().min(self.tail + n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(wire: &mut Wire, bytes: &[u8]) {
        wire.recv_buf()[..bytes.len()].copy_from_slice(bytes);
        wire.received(bytes.len());
    }

    #[test]
    fn what_arrives_keeps_its_order_over_the_end_of_the_room() {
        let mut wire = Wire::new();
        let first = vec![1; INCOMING - 10];
        receive(&mut wire, &first);
        wire.incoming.consume(INCOMING - 15);
        receive(&mut wire, &[2; 100]);
        let expected = [vec![1; 5], vec![2; 100]].concat();
        assert_eq!(wire.incoming.bytes(), expected);
        let full = wire.recv_buf().len();
        wire.received(full);
        assert!(wire.recv_buf().is_empty());
        wire.received(1);
        assert_eq!(wire.incoming.bytes().len(), INCOMING);
    }

    #[test]
    fn what_leaves_keeps_its_order_over_short_writes() {
        let mut wire = Wire::new();
        for value in 0..4_u8 {
            wire.outgoing.room(20)[..10].fill(value);
            wire.outgoing.added(10);
            if value % 2 == 1 {
                assert_eq!(wire.unsent()[0], value - 1);
                wire.sent(13);
                assert_eq!(wire.unsent(), [value; 7]);
                wire.sent(100);
                assert!(wire.unsent().is_empty());
            }
        }
    }
}
