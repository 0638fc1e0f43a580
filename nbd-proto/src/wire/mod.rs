//! The bytes of the protocol: constants, headers and bodies, both directions.
//!
//! Who moves data needs none of it. It is public for those who look at the bytes themselves:
//! fuzzers and property tests that make messages, good and bad, and tools that print a recorded
//! session.
//!
//! ```
//! use nbd_proto::wire::request::RequestHeader;
//! use nbd_proto::{CommandFlags, CommandType};
//!
//! let kind = CommandType::Read.to_wire();
//! let header =
//!     RequestHeader { kind, flags: CommandFlags::empty(), cookie: 7, offset: 512, length: 16 };
//! let bytes: [u8; 28] = header.encode_compact().expect("16 fits in 32 bits");
//! assert_eq!(RequestHeader::decode_compact(&bytes)?, header);
//! # Ok::<(), nbd_proto::InvalidMessage>(())
//! ```
//!
//! Everything here is plain data. A header of fixed size is encoded to and
//! decoded from an array of exactly that size, so there is no short buffer to
//! mishandle: `encode(self) -> [u8; N]`, `decode(&[u8; N]) -> Result<Self, _>`.
//! Bodies of variable length are appended to a `Vec<u8>` and decoded from a
//! slice that holds the whole body and nothing else. All integers are
//! big-endian (proto.md, "Conventions").
//!
//! | file | messages |
//! |---|---|
//! | [`greeting`] | what the server says first, oldstyle and newstyle, and the answer |
//! | [`option`] | option requests and replies of the haggling phase |
//! | [`request`] | compact and extended requests |
//! | [`reply`] | headers of simple, structured and extended replies |
//! | [`chunk`] | bodies of structured and extended reply chunks |
//! | [`flags`] | every flag word |

pub mod chunk;
pub mod flags;
pub mod greeting;
pub mod option;
pub(crate) mod reader;
pub mod reply;
pub mod request;

/// `NBDMAGIC`, the first eight bytes any server sends.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the server is newstyle; also starts every option request.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The server is oldstyle (`cliserv_magic`).
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Starts every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// `NBD_REQUEST_MAGIC`: a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// `NBD_EXTENDED_REQUEST_MAGIC`.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// `NBD_SIMPLE_REPLY_MAGIC`.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// `NBD_STRUCTURED_REPLY_MAGIC`.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// `NBD_EXTENDED_REPLY_MAGIC`.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest name, query, description or message, in bytes
/// (proto.md, "Conventions").
pub const MAX_STRING: usize = 4096;

/// The TCP port registered for NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// The meta context every server with block status should know.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// As much of a text as may travel: at most 4096 bytes, cut between characters.
pub(crate) fn cut(text: &str) -> &str {
    cut_to(text, MAX_STRING)
}

/// At most `most` bytes of a text, cut between characters.
pub(crate) fn cut_to(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Puts fields one after the other into an array that they fill exactly.
///
/// The sizes are those of the types, so the compiler sees every place and leaves
/// neither a loop nor a check.
macro_rules! concat_be {
    ($($field:expr),+ $(,)?) => {{
        let mut out = [0; _];
        let mut rest: &mut [u8] = &mut out;
        $(
            let bytes = $field.to_be_bytes();
            if let Some((head, tail)) = core::mem::take(&mut rest).split_first_chunk_mut() {
                *head = bytes;
                rest = tail;
            }
        )+
        debug_assert!(rest.is_empty(), "a header's fields must fill it");
        out
    }};
}
pub(crate) use concat_be;
