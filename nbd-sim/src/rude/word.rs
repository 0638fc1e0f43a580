//! What a server answers, as far as a client may rely on it.

use std::io::{self, ErrorKind, Read};

use super::SIZE;

/// One message of a server. Texts for people are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// An option reply: the option, and the type of the reply.
    Option(u32, u32),
    /// Size and flags, in answer to `NBD_OPT_EXPORT_NAME`.
    Export,
    /// A reply, or its one chunk: the cookie, and the error or 0.
    Reply(u64, u32),
}

impl Word {
    /// Reads the next message; nothing at an end between two of them.
    ///
    /// # Errors
    /// Those of the reader, [`ErrorKind::UnexpectedEof`] for an end in the middle of a
    /// message, and [`ErrorKind::InvalidData`] for anything that is none.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut magic = [0; 4];
        let n = from.read(&mut magic[..1])?;
        if n == 0 {
            return Ok(None);
        }
        from.read_exact(&mut magic[1..])?;
        let start = u32::from_be_bytes(magic);
        Ok(Some(match start {
            0x0003_e889 => {
                let [rest, option, kind, length] = words(from)?;
                (rest == 0x0455_65a9).then_some(()).ok_or(ErrorKind::InvalidData)?;
                body(from, length.into())?;
                Self::Option(option, kind)
            }
            0x6744_6698 => {
                let [error, high, low] = words(from)?;
                Self::Reply(cookie(high, low), error)
            }
            0x668e_33ef => {
                let [form, high, low, length] = words(from)?;
                chunk(form, cookie(high, low), &body(from, length.into())?)?
            }
            0x6e8a_278c => {
                let [form, high, low, _, _, most, least] = words(from)?;
                chunk(form, cookie(high, low), &body(from, cookie(most, least))?)?
            }
            high if high == (SIZE >> 32) as u32 => {
                let [low] = words(from)?;
                (low == SIZE as u32).then_some(()).ok_or(ErrorKind::InvalidData)?;
                body(from, 2)?;
                Self::Export
            }
            _ => return Err(ErrorKind::InvalidData.into()),
        }))
    }
}

/// A chunk that is the whole reply: an error, or nothing.
fn chunk(form: u32, cookie: u64, body: &[u8]) -> io::Result<Word> {
    match (form, body) {
        (0x0001_0000, []) => Ok(Word::Reply(cookie, 0)),
        (0x0001_8001, [a, b, c, d, ..]) => {
            Ok(Word::Reply(cookie, u32::from_be_bytes([*a, *b, *c, *d])))
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

const fn cookie(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

fn words<const N: usize>(from: &mut impl Read) -> io::Result<[u32; N]> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes)?;
        *word = u32::from_be_bytes(bytes);
    }
    Ok(words)
}

/// The body of a message; none of those here is long.
fn body(from: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if length > 8192 || from.take(length).read_to_end(&mut body)? as u64 != length {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(body)
}
