//! What a fuzzer's bytes decide.

/// A cursor over the input. Beyond the end everything is 0.
#[derive(Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_at(N.min(self.0.len()));
        self.0 = tail;
        let mut bytes = [0; N];
        bytes[..head.len()].copy_from_slice(head);
        bytes
    }

    /// As many bytes as a count says, at most `most`.
    pub(super) fn list(&mut self, most: usize) -> &'a [u8] {
        let count = usize::from(self.byte()) % (most + 1);
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// The rest, in the bursts it arrives in: a list of lengths, then the bytes.
    pub(super) fn bursts(mut self) -> Vec<&'a [u8]> {
        let lengths = self.list(MAX_CUTS);
        let mut bursts = Vec::with_capacity(lengths.len() + 1);
        for length in lengths {
            let (head, tail) = self.0.split_at(usize::from(*length).min(self.0.len()));
            bursts.push(head);
            self.0 = tail;
        }
        bursts.push(self.0);
        bursts
    }
}

/// Most places at which the peer's bytes are cut.
const MAX_CUTS: usize = 15;
