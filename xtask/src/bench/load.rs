//! What to ask of a server.

/// Requests of one kind.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) direction: &'static str,
    /// Bytes in a request, with a unit.
    pub(super) size: &'static str,
    /// Requests in flight.
    pub(super) depth: u32,
    /// Requests in a round: about half a second of work.
    pub(super) count: u64,
}

/// Many small requests, one at a time, and large ones both ways.
pub(super) const LOADS: [Load; 4] = [
    Load { name: "read 4 KiB, depth 64", direction: "read", size: "4k", depth: 64, count: 100_000 },
    Load { name: "read 4 KiB, depth 1", direction: "read", size: "4k", depth: 1, count: 12_000 },
    Load {
        name: "read 256 KiB, depth 16",
        direction: "read",
        size: "256k",
        depth: 16,
        count: 6_000,
    },
    Load {
        name: "write 256 KiB, depth 16",
        direction: "write",
        size: "256k",
        depth: 16,
        count: 6_000,
    },
];

impl Load {
    /// Bytes in a request.
    pub(super) fn bytes(&self) -> u64 {
        let kilobytes = self.size.strip_suffix('k').and_then(|number| number.parse::<u64>().ok());
        kilobytes.unwrap_or_default() << 10
    }

    /// Writing as many bytes at once.
    pub(super) const fn writing(self) -> Self {
        Self { direction: "write", ..self }
    }
}
