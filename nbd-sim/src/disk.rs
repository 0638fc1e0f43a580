//! What a server serves, and what a client can know of it.

use std::ops::Range;

use nbd_proto::Extent;

use crate::rng::Rng;

/// Bytes that a disk reports the status of in one piece.
const CLUSTER: usize = 512;

/// A server's disk.
#[derive(Debug, Clone)]
pub struct Disk {
    bytes: Vec<u8>,
}

impl Disk {
    /// A disk of `size` bytes with noise in some clusters and zeroes in the others.
    pub fn random(rng: &mut Rng, size: usize) -> Self {
        let mut bytes = vec![0; size];
        for cluster in bytes.chunks_mut(CLUSTER) {
            if rng.one_in(2) {
                rng.fill(cluster);
            }
        }
        Self { bytes }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The `base:allocation` extents of a range: runs of clusters that are, or are
    /// not, all zero.
    pub fn extents(&self, range: Range<usize>) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = at - at % CLUSTER;
            let end = (start + CLUSTER).min(self.bytes.len());
            let zero = self.bytes[start..end].iter().all(|byte| *byte == 0);
            let status = if zero { Extent::HOLE | Extent::ZERO } else { 0 };
            let length = (end.min(range.end) - at) as u64;
            match extents.last_mut() {
                Some(last) if last.status == status => last.length += length,
                _ => extents.push(Extent { length, status }),
            }
            at = end;
        }
        extents
    }
}

/// What a client knows about one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// It must read as this.
    Is(u8),
    /// A command failed here; the next write settles it.
    Open,
    /// A write that nobody waits for may strike at any time.
    Never,
}

/// The disk as a client may expect it to be, from its own commands and their
/// outcomes alone.
#[derive(Debug, Clone)]
pub struct Model {
    bytes: Vec<Knowledge>,
}

impl Model {
    /// Knows every byte of `disk`.
    pub fn new(disk: &Disk) -> Self {
        let bytes = disk.bytes.iter().map(|byte| Knowledge::Is(*byte)).collect();
        Self { bytes }
    }

    /// A write of `data` succeeded.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (known, byte) in self.bytes.iter_mut().skip(offset).zip(data) {
            if *known != Knowledge::Never {
                *known = Knowledge::Is(*byte);
            }
        }
    }

    /// The range holds one of several things.
    pub fn forget(&mut self, range: Range<usize>) {
        for known in &mut self.bytes[range] {
            if *known != Knowledge::Never {
                *known = Knowledge::Open;
            }
        }
    }

    /// The range may change at any time from now on.
    pub fn give_up(&mut self, range: Range<usize>) {
        self.bytes[range].fill(Knowledge::Never);
    }

    /// The first byte of `data`, read at `offset`, that cannot be.
    pub fn contradiction(&self, offset: usize, data: &[u8]) -> Option<usize> {
        let known = self.bytes.iter().skip(offset);
        known
            .zip(data)
            .position(|(known, byte)| matches!(known, Knowledge::Is(is) if is != byte))
            .map(|index| offset + index)
    }

    /// A byte of the range that is known not to be zero.
    pub fn nonzero(&self, range: Range<usize>) -> Option<usize> {
        let start = range.start;
        self.bytes[range]
            .iter()
            .position(|known| matches!(known, Knowledge::Is(1..)))
            .map(|index| start + index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_follow_the_zeroes_and_cover_the_range() {
        let mut disk = Disk { bytes: vec![0; 2048] };
        disk.bytes_mut()[600] = 1;
        let sizes: Vec<_> = disk.extents(100..1500).iter().map(|e| (e.length, e.status)).collect();
        assert_eq!(sizes, [(412, 3), (512, 0), (476, 3)]);
    }

    #[test]
    fn a_model_contradicts_what_it_knows_and_nothing_else() {
        let disk = Disk { bytes: vec![7; 16] };
        let mut model = Model::new(&disk);
        model.write(2, &[9, 9]);
        assert_eq!(model.contradiction(0, &[7, 7, 9, 9, 7]), None);
        assert_eq!(model.contradiction(1, &[7, 9, 8]), Some(3));
        model.forget(3..4);
        assert_eq!(model.contradiction(1, &[7, 9, 8]), None);
        model.give_up(2..3);
        model.write(2, &[0, 0]);
        assert_eq!(model.contradiction(2, &[5, 0]), None);
        assert_eq!(model.nonzero(2..4), None);
        assert_eq!(model.nonzero(2..6), Some(4));
    }
}
