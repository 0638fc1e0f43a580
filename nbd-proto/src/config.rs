//! What a user decides before a connection starts.

use alloc::string::String;
use alloc::vec::Vec;

use bitflags::bitflags;

use crate::error::ApiMisuse;
use crate::wire::MAX_STRING;
use crate::wire::flags::HandshakeFlags;

/// Bounds for everything a peer can make this side hold, read or wait through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) max_in_flight: u32,
    pub(crate) scratch_len: usize,
    pub(crate) direct_min: usize,
    pub(crate) max_payload: u32,
    pub(crate) max_fragments: usize,
    pub(crate) max_option_bytes: u32,
    pub(crate) max_option_replies: u32,
}

impl Limits {
    /// Most commands in flight at once (default 1024, at least 1). Slots are
    /// allocated as they are first used and then kept.
    #[must_use]
    pub fn max_in_flight(mut self, count: u32) -> Self {
        self.max_in_flight = count.max(1);
        self
    }

    /// Most that the buffer grows to which headers and small payloads are parsed from, in
    /// bytes (default 80 KiB, at least 16 KiB). It begins with 16 KiB and grows where more
    /// arrives at once.
    #[must_use]
    pub fn scratch_len(mut self, bytes: usize) -> Self {
        self.scratch_len = bytes.max(MIN_SCRATCH);
        self
    }

    /// Payloads from this size on are read straight into their destination when
    /// the next reply can be foreseen, in bytes (default 32 KiB).
    #[must_use]
    pub fn direct_min(mut self, bytes: usize) -> Self {
        self.direct_min = bytes;
        self
    }

    /// Longest payload of one command, in bytes (default 64 MiB). A server also
    /// tells it to clients as the maximum block size.
    #[must_use]
    pub fn max_payload(mut self, bytes: u32) -> Self {
        self.max_payload = bytes.max(512);
        self
    }

    /// Most separate pieces a reply that arrives out of order may consist of at
    /// any moment (default 4096). Neighbouring pieces count as one.
    #[must_use]
    pub fn max_fragments(mut self, count: usize) -> Self {
        self.max_fragments = count.max(1);
        self
    }

    /// Most bytes of all replies to one option, and of one option's data on the
    /// server side (default 8 MiB).
    #[must_use]
    pub fn max_option_bytes(mut self, bytes: u32) -> Self {
        self.max_option_bytes = bytes;
        self
    }

    /// Most replies to one option (default 32768), such as exports in a list.
    #[must_use]
    pub fn max_option_replies(mut self, count: u32) -> Self {
        self.max_option_replies = count;
        self
    }

    /// Longest body of a reply chunk: one payload, or 2^20 extents of 16 bytes
    /// (proto.md, "Structured reply types"), whichever is more.
    pub(crate) fn max_chunk(&self) -> u64 {
        const STATUS: u64 = 8 + (16 << 20);
        STATUS.max(u64::from(self.max_payload) + 8)
    }
}

/// The longest thing that is ever parsed in one piece is an option reply with
/// two strings; everything longer is placed, streamed or skipped.
pub(crate) const MIN_SCRATCH: usize = 16 << 10;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_in_flight: 1024,
            scratch_len: 80 << 10,
            direct_min: 32 << 10,
            max_payload: 64 << 20,
            max_fragments: 4096,
            max_option_bytes: 8 << 20,
            max_option_replies: 32 << 10,
        }
    }
}

/// Whether TLS is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[doc(alias("nbd_set_tls", "nbd_get_tls", "LIBNBD_TLS"))]
#[expect(clippy::exhaustive_enums, reason = "never, if it can be had, always: there is no fourth")]
pub enum TlsPolicy {
    /// Never ask for TLS.
    #[default]
    Disable,
    /// Ask for TLS and go on in clear if the server refuses the option. Anybody on
    /// the way can make it look like a refusal.
    Allow,
    /// No byte but the request for TLS goes out in clear.
    Require,
}

bitflags! {
    /// Checks a client makes before it sends a command. All are on by default;
    /// a test of a server switches some off to send illegal traffic on purpose.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[doc(alias("nbd_set_strict_mode", "nbd_get_strict_mode", "LIBNBD_STRICT"))]
    pub struct StrictMode: u32 {
        /// Refuse commands and flags the export does not offer.
        const COMMANDS = 1;
        /// Refuse flags that are not those of the command.
        const FLAGS = 2;
        /// Refuse ranges beyond the end of the export.
        const BOUNDS = 4;
        /// Refuse lengths of 0.
        const ZERO_SIZE = 8;
        /// Refuse offsets and lengths that are not multiples of the minimum
        /// block size.
        const ALIGN = 0x10;
        /// Refuse payloads longer than the server's maximum.
        const PAYLOAD = 0x20;
        /// Set and clear `PAYLOAD_LEN` as the negotiated headers demand.
        const AUTO_FLAG = 0x40;
    }
}

/// What a client asks for in the negotiation and how it behaves afterwards.
///
/// ```
/// use nbd_proto::{ClientConfig, TlsPolicy};
/// let config = ClientConfig::new()
///     .export("disk")
///     .meta_context("base:allocation")
///     .tls(TlsPolicy::Require);
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(crate) export: String,
    pub(crate) tls: TlsPolicy,
    pub(crate) structured_replies: bool,
    pub(crate) extended_headers: bool,
    pub(crate) block_sizes: bool,
    pub(crate) full_info: bool,
    pub(crate) meta_contexts: Vec<String>,
    pub(crate) request_meta_contexts: bool,
    pub(crate) handshake_flags: HandshakeFlags,
    pub(crate) option_mode: bool,
    pub(crate) strict: StrictMode,
    pub(crate) strict_peer: bool,
    pub(crate) limits: Limits,
}

impl ClientConfig {
    /// The defaults: the server's default export, no TLS, everything else that
    /// the server offers, no meta context, all checks on.
    #[must_use]
    pub fn new() -> Self {
        Self {
            export: String::new(),
            tls: TlsPolicy::Disable,
            structured_replies: true,
            extended_headers: true,
            block_sizes: true,
            full_info: false,
            meta_contexts: Vec::new(),
            request_meta_contexts: true,
            handshake_flags: HandshakeFlags::all(),
            option_mode: false,
            strict: StrictMode::all(),
            strict_peer: false,
            limits: Limits::default(),
        }
    }

    /// Name of the export (default: empty, the server's default). At most 4096
    /// bytes without NUL; the negotiation fails on anything else.
    #[must_use]
    #[doc(alias = "nbd_set_export_name")]
    pub fn export(mut self, name: impl Into<String>) -> Self {
        self.export = name.into();
        self
    }

    /// Whether TLS is used (default: [`TlsPolicy::Disable`]).
    #[must_use]
    #[doc(alias("nbd_set_tls", "nbd_get_tls"))]
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.tls = policy;
        self
    }

    /// Whether TLS is used.
    #[must_use]
    pub const fn tls_policy(&self) -> TlsPolicy {
        self.tls
    }

    /// Whether to ask for structured replies (default: yes). Without them there
    /// is no block status, and no extended header either.
    #[must_use]
    #[doc(alias("nbd_set_request_structured_replies", "nbd_get_request_structured_replies"))]
    pub fn structured_replies(mut self, ask: bool) -> Self {
        self.structured_replies = ask;
        self
    }

    /// Whether to ask for extended headers (default: yes).
    #[must_use]
    #[doc(alias("nbd_set_request_extended_headers", "nbd_get_request_extended_headers"))]
    pub fn extended_headers(mut self, ask: bool) -> Self {
        self.extended_headers = ask;
        self
    }

    /// Whether to ask for block sizes (default: yes). Who asks promises to honour
    /// them.
    #[must_use]
    #[doc(alias("nbd_set_request_block_size", "nbd_get_request_block_size"))]
    pub fn block_sizes(mut self, ask: bool) -> Self {
        self.block_sizes = ask;
        self
    }

    /// Whether to ask for the export's canonical name and description (default:
    /// no).
    #[must_use]
    #[doc(alias("nbd_set_full_info", "nbd_get_full_info"))]
    pub fn full_info(mut self, ask: bool) -> Self {
        self.full_info = ask;
        self
    }

    /// Adds a meta context to ask for, such as `base:allocation`.
    #[must_use]
    #[doc(alias(
        "nbd_add_meta_context",
        "LIBNBD_NAMESPACE_BASE",
        "LIBNBD_CONTEXT_BASE_ALLOCATION",
        "LIBNBD_NAMESPACE_QEMU",
        "LIBNBD_CONTEXT_QEMU_DIRTY_BITMAP",
        "LIBNBD_CONTEXT_QEMU_ALLOCATION_DEPTH"
    ))]
    pub fn meta_context(mut self, name: impl Into<String>) -> Self {
        self.meta_contexts.push(name.into());
        self
    }

    /// Takes back every meta context.
    #[must_use]
    #[doc(alias = "nbd_clear_meta_contexts")]
    pub fn clear_meta_contexts(mut self) -> Self {
        self.meta_contexts.clear();
        self
    }

    /// The meta contexts to ask for, in the order they were added.
    #[must_use]
    #[doc(alias("nbd_get_nr_meta_contexts", "nbd_get_meta_context"))]
    pub fn meta_contexts(&self) -> &[String] {
        &self.meta_contexts
    }

    /// Whether [`Negotiation`](crate::Negotiation) selects the meta contexts by
    /// itself before `info` and `go` (default: yes). Switched off by those who
    /// select them by hand.
    #[must_use]
    #[doc(alias("nbd_set_request_meta_context", "nbd_get_request_meta_context"))]
    pub fn request_meta_contexts(mut self, ask: bool) -> Self {
        self.request_meta_contexts = ask;
        self
    }

    /// Handshake flags to accept if offered (default: all).
    #[must_use]
    #[doc(alias("nbd_set_handshake_flags", "nbd_get_handshake_flags"))]
    pub fn handshake_flags(mut self, flags: HandshakeFlags) -> Self {
        self.handshake_flags = flags;
        self
    }

    /// Whether the negotiation pauses after TLS and structured replies, for the
    /// caller to list, ask and choose (default: no).
    #[must_use]
    #[doc(alias("nbd_set_opt_mode", "nbd_get_opt_mode"))]
    pub fn option_mode(mut self, pause: bool) -> Self {
        self.option_mode = pause;
        self
    }

    /// Whether the negotiation stops for its caller.
    #[must_use]
    pub const fn stops_for_options(&self) -> bool {
        self.option_mode
    }

    /// Checks made before a command is sent (default: all).
    #[must_use]
    #[doc(alias("nbd_set_strict_mode", "nbd_get_strict_mode"))]
    pub fn strict(mut self, mode: StrictMode) -> Self {
        self.strict = mode;
        self
    }

    /// Whether each protocol violation by the peer ends the connection, as the
    /// protocol text demands (default: no).
    ///
    /// Without it a fault that leaves the framing certain fails one command only, see
    /// [`ReplyFault`](crate::ReplyFault), and some spoil nothing: a reply to a request
    /// that is not in flight is an [`Anomaly`](crate::Anomaly); a simple reply with an
    /// error to a structured read counts as the error it is; an error message beyond
    /// 4096 bytes is skipped, and so is an error's offset outside its request; block
    /// sizes that contradict each other are ignored; transmission flags count even
    /// without `HAS_FLAGS`. The project's `docs/faults.md` goes through it case by case.
    #[must_use]
    pub fn strict_peer(mut self, strict: bool) -> Self {
        self.strict_peer = strict;
        self
    }

    /// Bounds for what the peer can make this side hold.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Most commands in flight at once, without changing the other limits.
    #[must_use]
    pub fn max_in_flight(mut self, count: u32) -> Self {
        self.limits = self.limits.max_in_flight(count);
        self
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// What a server offers and how it behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub(crate) structured_replies: bool,
    pub(crate) extended_headers: bool,
    pub(crate) handshake_flags: HandshakeFlags,
    pub(crate) tls: TlsPolicy,
    pub(crate) limits: Limits,
}

impl ServerConfig {
    /// The defaults: everything but TLS is offered.
    #[must_use]
    pub fn new() -> Self {
        Self {
            structured_replies: true,
            extended_headers: true,
            handshake_flags: HandshakeFlags::all(),
            tls: TlsPolicy::Disable,
            limits: Limits::default().max_payload(32 << 20).max_in_flight(256),
        }
    }

    /// Whether to offer structured replies (default: yes).
    #[must_use]
    pub fn structured_replies(mut self, offer: bool) -> Self {
        self.structured_replies = offer;
        self
    }

    /// Whether to offer extended headers (default: yes).
    #[must_use]
    pub fn extended_headers(mut self, offer: bool) -> Self {
        self.extended_headers = offer;
        self
    }

    /// Handshake flags to offer (default: all).
    #[must_use]
    pub fn handshake_flags(mut self, flags: HandshakeFlags) -> Self {
        self.handshake_flags = flags;
        self
    }

    /// Whether TLS is offered (default: no). Under [`TlsPolicy::Require`] every
    /// other option is refused before it (proto.md, "FORCEDTLS mode").
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.tls = policy;
        self
    }

    /// Bounds for what the client can make this side hold.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether text may travel as a name or query (proto.md, "Conventions").
pub(crate) fn check_sendable(text: &str) -> Result<(), ApiMisuse> {
    if text.len() > MAX_STRING {
        Err(ApiMisuse::NameTooLong)
    } else if text.contains('\0') {
        Err(ApiMisuse::BadName)
    } else {
        Ok(())
    }
}
