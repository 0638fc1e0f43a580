//! The protocol's numbers, copied from the section "Values" of the protocol text and
//! from its message layouts. Nothing here is shared with the code under test.

pub(super) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
pub(super) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST: u32 = 0x2560_9513;
pub(super) const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY: u32 = 0x668e_33ef;
pub(super) const EXTENDED_REPLY: u32 = 0x6e8a_278c;

/// The zeroes after the oldstyle greeting and the reply to `NBD_OPT_EXPORT_NAME`.
pub(super) const PADDING: u64 = 124;
/// "Conventions": the longest string in bytes.
pub(super) const MAX_STRING: usize = 4096;

/// Handshake flags, and the client flags that answer them.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 1 << 1;

/// Transmission flags.
pub(super) mod flag {
    pub(in crate::oracle) const HAS_FLAGS: u16 = 1;
    pub(in crate::oracle) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::oracle) const FLUSH: u16 = 1 << 2;
    pub(in crate::oracle) const FUA: u16 = 1 << 3;
    pub(in crate::oracle) const TRIM: u16 = 1 << 5;
    pub(in crate::oracle) const WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::oracle) const DF: u16 = 1 << 7;
    pub(in crate::oracle) const FAST_ZERO: u16 = 1 << 11;
    pub(in crate::oracle) const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Options.
pub(super) mod opt {
    pub(in crate::oracle) const EXPORT_NAME: u32 = 1;
    pub(in crate::oracle) const ABORT: u32 = 2;
    pub(in crate::oracle) const LIST: u32 = 3;
    pub(in crate::oracle) const STARTTLS: u32 = 5;
    pub(in crate::oracle) const INFO: u32 = 6;
    pub(in crate::oracle) const GO: u32 = 7;
    pub(in crate::oracle) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::oracle) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::oracle) const SET_META_CONTEXT: u32 = 10;
    pub(in crate::oracle) const EXTENDED_HEADERS: u32 = 11;
}

/// Option reply types.
pub(super) mod rep {
    pub(in crate::oracle) const ACK: u32 = 1;
    pub(in crate::oracle) const SERVER: u32 = 2;
    pub(in crate::oracle) const INFO: u32 = 3;
    pub(in crate::oracle) const META_CONTEXT: u32 = 4;
    pub(in crate::oracle) const ERROR_BIT: u32 = 1 << 31;
    pub(in crate::oracle) const ERR_UNSUP: u32 = ERROR_BIT + 1;
    pub(in crate::oracle) const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT + 8;
    pub(in crate::oracle) const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT + 10;
}

/// Information types.
pub(super) mod info {
    pub(in crate::oracle) const EXPORT: u16 = 0;
    pub(in crate::oracle) const NAME: u16 = 1;
    pub(in crate::oracle) const DESCRIPTION: u16 = 2;
    pub(in crate::oracle) const BLOCK_SIZE: u16 = 3;
}

/// Command flags.
pub(super) mod cmd_flag {
    pub(in crate::oracle) const FUA: u16 = 1;
    pub(in crate::oracle) const NO_HOLE: u16 = 1 << 1;
    pub(in crate::oracle) const DF: u16 = 1 << 2;
    pub(in crate::oracle) const REQ_ONE: u16 = 1 << 3;
    pub(in crate::oracle) const FAST_ZERO: u16 = 1 << 4;
    pub(in crate::oracle) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Reply flag of the last chunk of a reply.
pub(super) const DONE: u16 = 1;

/// Structured reply types.
pub(super) mod chunk {
    pub(in crate::oracle) const NONE: u16 = 0;
    pub(in crate::oracle) const OFFSET_DATA: u16 = 1;
    pub(in crate::oracle) const OFFSET_HOLE: u16 = 2;
    pub(in crate::oracle) const BLOCK_STATUS: u16 = 5;
    pub(in crate::oracle) const BLOCK_STATUS_EXT: u16 = 6;
    pub(in crate::oracle) const ERROR_BIT: u16 = 1 << 15;
    pub(in crate::oracle) const ERROR_OFFSET: u16 = ERROR_BIT + 2;
}
