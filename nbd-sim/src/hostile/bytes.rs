//! The messages of a server that breaks rules, written by hand: nothing here checks
//! what it writes.

/// Numbers of options.
pub mod opt {
    #![allow(missing_docs, reason = "the protocol's names say it")]
    pub const EXPORT_NAME: u32 = 1;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of option replies.
pub mod rep {
    #![allow(missing_docs, reason = "the protocol's names say it")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    pub const ERR_POLICY: u32 = 0x8000_0002;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_TLS_REQD: u32 = 0x8000_0005;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_SHUTDOWN: u32 = 0x8000_0007;
    pub const ERR_BLOCK_SIZE_REQD: u32 = 0x8000_0008;
    pub const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;
}

/// Types of reply chunks.
pub mod kind {
    #![allow(missing_docs, reason = "the protocol's names say it")]
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = 0x8001;
    pub const ERROR_OFFSET: u16 = 0x8002;
}

/// The last chunk of a reply.
pub const DONE: u16 = 1;
/// Not the last chunk.
pub const MORE: u16 = 0;
/// Size of the scripted export.
pub const SIZE: u64 = 1 << 20;
/// Flags of the scripted export: everything but read-only and rotational.
pub const FLAGS: u16 = 0x0ded;

/// The cookie of the `n`th command a fresh client submits.
pub const fn cookie(n: u64) -> u64 {
    1 << 32 | n
}

/// Parts one after the other.
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A newstyle greeting.
pub fn greeting(flags: u16) -> Vec<u8> {
    join(&[b"NBDMAGICIHAVEOPT", &flags.to_be_bytes()])
}

/// An oldstyle greeting with these reserved bytes.
pub fn oldstyle(flags: u32, reserved: &[u8]) -> Vec<u8> {
    join(&[
        b"NBDMAGIC",
        &0x0000_4202_8186_1253u64.to_be_bytes(),
        &SIZE.to_be_bytes(),
        &flags.to_be_bytes(),
        reserved,
    ])
}

/// An option reply whose length field says `length`.
pub fn claim(option: u32, kind: u32, length: u32, data: &[u8]) -> Vec<u8> {
    join(&[
        &0x0003_e889_0455_65a9u64.to_be_bytes(),
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &length.to_be_bytes(),
        data,
    ])
}

/// An option reply.
pub fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    claim(option, kind, data.len() as u32, data)
}

/// An acknowledgement.
pub fn ack(option: u32) -> Vec<u8> {
    reply(option, rep::ACK, &[])
}

/// `NBD_REP_INFO` to `NBD_OPT_GO`.
pub fn info(kind: u16, data: &[u8]) -> Vec<u8> {
    reply(opt::GO, rep::INFO, &join(&[&kind.to_be_bytes(), data]))
}

/// `NBD_INFO_EXPORT`.
pub fn export(size: u64, flags: u16) -> Vec<u8> {
    info(0, &join(&[&size.to_be_bytes(), &flags.to_be_bytes()]))
}

/// `NBD_INFO_BLOCK_SIZE`.
pub fn block_size(minimum: u32, preferred: u32, maximum: u32) -> Vec<u8> {
    let sizes = [minimum, preferred, maximum].map(u32::to_be_bytes);
    info(3, sizes.as_flattened())
}

/// The sound end of every negotiation: the export, granted.
pub fn granted() -> Vec<u8> {
    join(&[&export(SIZE, FLAGS), &ack(opt::GO)])
}

/// `NBD_REP_META_CONTEXT` to `NBD_OPT_SET_META_CONTEXT`.
pub fn context(id: u32, name: &[u8]) -> Vec<u8> {
    let data = join(&[&id.to_be_bytes(), name]);
    reply(opt::SET_META_CONTEXT, rep::META_CONTEXT, &data)
}

/// `NBD_REP_SERVER` whose name length says `length`.
pub fn server_claim(length: u32, rest: &[u8]) -> Vec<u8> {
    let data = join(&[&length.to_be_bytes(), rest]);
    reply(opt::LIST, rep::SERVER, &data)
}

/// `NBD_REP_SERVER`.
pub fn server(name: &[u8], description: &[u8]) -> Vec<u8> {
    server_claim(name.len() as u32, &join(&[name, description]))
}

/// A simple reply.
pub fn simple(error: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    join(&[&0x6744_6698u32.to_be_bytes(), &error.to_be_bytes(), &cookie.to_be_bytes(), data])
}

/// A structured chunk whose length field says `length`.
pub fn chunk_claim(flags: u16, kind: u16, cookie: u64, length: u32, body: &[u8]) -> Vec<u8> {
    join(&[
        &0x668e_33efu32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &length.to_be_bytes(),
        body,
    ])
}

/// A structured chunk.
pub fn chunk(flags: u16, kind: u16, cookie: u64, body: &[u8]) -> Vec<u8> {
    chunk_claim(flags, kind, cookie, body.len() as u32, body)
}

/// An extended chunk in answer to a request at `offset`, whose length field says
/// `length`.
pub fn xchunk_claim(
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    length: u64,
    body: &[u8],
) -> Vec<u8> {
    join(&[
        &0x6e8a_278cu32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
        body,
    ])
}

/// An extended chunk in answer to a request at offset 0.
pub fn xchunk(flags: u16, kind: u16, cookie: u64, body: &[u8]) -> Vec<u8> {
    xchunk_claim(flags, kind, cookie, 0, body.len() as u64, body)
}

/// Body of OFFSET_DATA: `length` bytes that the runner knows as the server's.
pub fn data(offset: u64, length: usize) -> Vec<u8> {
    join(&[&offset.to_be_bytes(), &vec![super::DATA; length]])
}

/// Body of OFFSET_HOLE.
pub fn hole(offset: u64, length: u32) -> Vec<u8> {
    join(&[&offset.to_be_bytes(), &length.to_be_bytes()])
}

/// Body of an error chunk whose message length says `length`.
pub fn error_claim(error: u32, length: u16, rest: &[u8]) -> Vec<u8> {
    join(&[&error.to_be_bytes(), &length.to_be_bytes(), rest])
}

/// Body of an error chunk.
pub fn error(error: u32, message: &[u8]) -> Vec<u8> {
    error_claim(error, message.len() as u16, message)
}

/// Body of BLOCK_STATUS.
pub fn status(context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let mut body = context.to_be_bytes().to_vec();
    for (length, flags) in extents {
        body.extend(length.to_be_bytes());
        body.extend(flags.to_be_bytes());
    }
    body
}

/// Body of BLOCK_STATUS_EXT whose count says `count`.
pub fn status_ext(context: u32, count: u32, extents: &[(u64, u64)]) -> Vec<u8> {
    let mut body = join(&[&context.to_be_bytes(), &count.to_be_bytes()]);
    for (length, flags) in extents {
        body.extend(length.to_be_bytes());
        body.extend(flags.to_be_bytes());
    }
    body
}
