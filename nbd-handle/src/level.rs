//! Which release's behaviour is played.

/// A stable release of libnbd, by its number behind `1.`: defaults and a few rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u16);

impl Level {
    /// The newest that is known.
    pub const NEWEST: Self = Self(24);

    /// Release `1.minor`.
    #[must_use]
    pub const fn new(minor: u16) -> Self {
        Self(minor)
    }

    /// Checks made before a command is sent that exist, as bits.
    #[must_use]
    pub const fn strict_mask(self) -> u32 {
        match self.0 {
            ..16 => 0x1f,
            16..18 => 0x3f,
            18.. => 0x7f,
        }
    }

    /// Flags of commands that exist, as bits.
    #[must_use]
    pub const fn command_flags(self) -> u32 {
        if self.0 < 18 { 0x1f } else { 0x3f }
    }

    /// Transports of URIs that exist, as bits.
    #[must_use]
    pub const fn transport_mask(self) -> u32 {
        if self.0 < 22 { 0x7 } else { 0xf }
    }

    /// Extended headers exist.
    pub(crate) const fn has_extended_headers(self) -> bool {
        self.0 >= 18
    }

    /// Completion callbacks are called when a handle is closed.
    pub(crate) const fn completes_at_close(self) -> bool {
        self.0 >= 18
    }

    /// Meta contexts are known as soon as they were asked for by hand.
    pub(crate) const fn knows_contexts_early(self) -> bool {
        self.0 >= 16
    }

    /// A handle that is negotiating can be shut down.
    #[must_use]
    pub const fn shuts_down_negotiating(self) -> bool {
        self.0 >= 18
    }

    /// Unix sockets are asked to hold more than the system gives them.
    pub(crate) const fn has_large_buffers(self) -> bool {
        self.0 >= 24
    }
}
