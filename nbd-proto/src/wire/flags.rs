//! Every flag word of the protocol.

use bitflags::bitflags;

bitflags! {
    /// What a newstyle server offers before the first option
    /// (proto.md, "Handshake flags").
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    #[doc(alias = "LIBNBD_HANDSHAKE_FLAG")]
    pub struct HandshakeFlags: u16 {
        /// The server knows the fixed newstyle negotiation.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The server can leave out the 124 zero bytes after `NBD_OPT_EXPORT_NAME`.
        const NO_ZEROES = 1 << 1;
    }

    /// The client's answer to the handshake flags (proto.md, "Client flags").
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ClientFlags: u32 {
        /// The client speaks fixed newstyle.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The client does not want the 124 zero bytes.
        const NO_ZEROES = 1 << 1;
    }

    /// What an export can do (proto.md, "Transmission flags").
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct TransmissionFlags: u16 {
        /// Always set by a server that knows flags at all.
        const HAS_FLAGS = 1 << 0;
        /// Writes are refused.
        const READ_ONLY = 1 << 1;
        /// `NBD_CMD_FLUSH` is understood.
        const SEND_FLUSH = 1 << 2;
        /// `NBD_CMD_FLAG_FUA` is understood.
        const SEND_FUA = 1 << 3;
        /// The export has the characteristics of a rotating disk.
        const ROTATIONAL = 1 << 4;
        /// `NBD_CMD_TRIM` is understood.
        const SEND_TRIM = 1 << 5;
        /// `NBD_CMD_WRITE_ZEROES` is understood.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// `NBD_CMD_FLAG_DF` is understood.
        const SEND_DF = 1 << 7;
        /// Several connections to this export see one coherent disk.
        const CAN_MULTI_CONN = 1 << 8;
        /// `NBD_CMD_RESIZE` (an extension this library does not use).
        const SEND_RESIZE = 1 << 9;
        /// `NBD_CMD_CACHE` is understood.
        const SEND_CACHE = 1 << 10;
        /// `NBD_CMD_FLAG_FAST_ZERO` is understood.
        const SEND_FAST_ZERO = 1 << 11;
        /// `NBD_CMD_BLOCK_STATUS` takes a payload that selects contexts.
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
        // Clients ignore bits they do not know.
        const _ = !0;
    }

    /// Flags of one command (proto.md, "Command flags").
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    #[doc(alias = "LIBNBD_CMD_FLAG")]
    pub struct CommandFlags: u16 {
        /// Do not reply before the data is on stable storage.
        const FUA = 1 << 0;
        /// Write zeroes without making a hole.
        const NO_HOLE = 1 << 1;
        /// Answer the read in one chunk.
        const DF = 1 << 2;
        /// Answer with one extent only.
        const REQ_ONE = 1 << 3;
        /// Fail with `ENOTSUP` rather than write zeroes slowly.
        const FAST_ZERO = 1 << 4;
        /// The length field counts payload bytes (extended headers only).
        const PAYLOAD_LEN = 1 << 5;
        // A test of a server may send any bit on purpose.
        const _ = !0;
    }

    /// Flags of one reply chunk (proto.md, "Structured reply flags").
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ReplyFlags: u16 {
        /// The last chunk of its request.
        const DONE = 1 << 0;
        // Clients ignore bits they do not know.
        const _ = !0;
    }
}
