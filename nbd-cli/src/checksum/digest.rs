//! Checksums over bytes that come in order.

use std::fmt::{self, Write};

use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Digest as _, Sha256, Sha512};

use crate::size;

/// The block size of blkhash where none is given, in bytes.
const BLOCK: usize = 64 << 10;
/// The longest one that is taken.
const LONGEST: usize = 32 << 20;

/// Which checksum is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sha256,
    Blake3,
    /// The hash of the hashes of all blocks, as the tools of the oVirt project have it.
    Blkhash {
        of: Plain,
        block: usize,
    },
}

/// What blkhash is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Kind {
    /// `sha256`, `blake3`, `blkhash`, or what it is made of as well: `blkhash:sha512/128k`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "blake3" => Ok(Self::Blake3),
            "blkhash" => Self::parse_blkhash("sha256"),
            _ => match text.strip_prefix("blkhash:") {
                Some(rest) if !rest.is_empty() => Self::parse_blkhash(rest),
                Some(_) | None => {
                    Err("sha256, blake3, blkhash or blkhash:DIGEST/SIZE is wanted".to_owned())
                }
            },
        }
    }

    /// What blkhash is made of: a digest, and the size of a block behind a slash.
    pub(crate) fn parse_blkhash(text: &str) -> Result<Self, String> {
        let (digest, block) = match text.split_once('/') {
            Some((digest, block)) => {
                let block = size::parse(block).map_err(|error| error.to_string())?;
                (digest, usize::try_from(block).unwrap_or(usize::MAX))
            }
            None => (text, BLOCK),
        };
        let of = match digest {
            "md5" => Plain::Md5,
            "sha1" => Plain::Sha1,
            "sha256" | "" => Plain::Sha256,
            "sha512" => Plain::Sha512,
            _ => return Err("md5, sha1, sha256 or sha512 is wanted".to_owned()),
        };
        if !(1..=LONGEST).contains(&block) {
            return Err("blocks have from 1 byte to 32M".to_owned());
        }
        Ok(Self::Blkhash { of, block })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (of, block) = match self {
            Self::Sha256 => return f.write_str("sha256"),
            Self::Blake3 => return f.write_str("blake3"),
            Self::Blkhash { of, block } => (of, block),
        };
        let of = match of {
            Plain::Md5 => "md5",
            Plain::Sha1 => "sha1",
            Plain::Sha256 => "sha256",
            Plain::Sha512 => "sha512",
        };
        write!(f, "blkhash:{of}/{block}")
    }
}

impl Plain {
    fn digest(self) -> Box<dyn DynDigest + Send> {
        match self {
            Self::Md5 => Box::new(Md5::default()),
            Self::Sha1 => Box::new(Sha1::default()),
            Self::Sha256 => Box::new(Sha256::default()),
            Self::Sha512 => Box::new(Sha512::default()),
        }
    }
}

/// A checksum that is being made.
pub(crate) enum Digest {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
    Blkhash(Blkhash),
}

impl Digest {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Sha256 => Self::Sha256(Sha256::new()),
            Kind::Blake3 => Self::Blake3(Box::default()),
            Kind::Blkhash { of, block } => Self::Blkhash(Blkhash::new(of, block)),
        }
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => sha2::Digest::update(digest, bytes),
            Self::Blake3(digest) => drop(digest.update(bytes)),
            Self::Blkhash(digest) => digest.data(bytes),
        }
    }

    pub(crate) fn zeroes(&mut self, length: u64) {
        if let Self::Blkhash(digest) = self {
            return digest.zeroes(length);
        }
        let zeroes = [0; 64 << 10];
        let mut left = length;
        while left > 0 {
            let part = left.min(zeroes.len() as u64);
            self.data(&zeroes[..part as usize]);
            left -= part;
        }
    }

    /// In hexadecimal.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(digest) => hex(&sha2::Digest::finalize(digest)),
            Self::Blake3(digest) => digest.finalize().to_hex().to_string(),
            Self::Blkhash(digest) => digest.finish(),
        }
    }
}

/// The hash of the hashes of all blocks, and of the length.
pub(crate) struct Blkhash {
    of: Plain,
    whole: Box<dyn DynDigest + Send>,
    block: usize,
    /// A block that has begun.
    begun: Vec<u8>,
    length: u64,
    /// What a block of zeroes comes to.
    zero: Box<[u8]>,
}

impl Blkhash {
    fn new(of: Plain, block: usize) -> Self {
        let mut zero = of.digest();
        zero.update(&vec![0; block]);
        let zero = zero.finalize();
        Self { of, whole: of.digest(), block, begun: Vec::new(), length: 0, zero }
    }

    fn data(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.begun.is_empty() && bytes.len() >= self.block {
                let (block, rest) = bytes.split_at(self.block);
                self.hash(block);
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.block - self.begun.len()));
            self.begun.extend_from_slice(part);
            bytes = rest;
            if self.begun.len() == self.block {
                let block = std::mem::take(&mut self.begun);
                self.hash(&block);
            }
        }
    }

    fn zeroes(&mut self, length: u64) {
        let block = self.block as u64;
        // To the end of the block that has begun, then whole ones, then the rest.
        let first = if self.begun.is_empty() { 0 } else { block - self.begun.len() as u64 };
        let first = first.min(length);
        self.data(&vec![0; first as usize]);
        let rest = length - first;
        for _ in 0..rest / block {
            self.whole.update(&self.zero);
        }
        self.length += rest - rest % block;
        self.data(&vec![0; (rest % block) as usize]);
    }

    fn hash(&mut self, block: &[u8]) {
        let mut digest = self.of.digest();
        digest.update(block);
        self.whole.update(&digest.finalize());
    }

    fn finish(mut self) -> String {
        if !self.begun.is_empty() {
            let block = std::mem::take(&mut self.begun);
            self.hash(&block);
        }
        self.whole.update(&self.length.to_le_bytes());
        hex(&self.whole.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, bytes: &[u8], part: usize) -> String {
        let mut digest = Digest::new(Kind::parse(kind).unwrap());
        for part in bytes.chunks(part.max(1)) {
            if part.iter().all(|byte| *byte == 0) {
                digest.zeroes(part.len() as u64);
            } else {
                digest.data(part);
            }
        }
        digest.finish()
    }

    /// Known from elsewhere.
    #[test]
    fn known_sums() {
        let far = [b"hello".to_vec(), vec![0; (1 << 20) - 5], b"goodbye".to_vec()].concat();
        for part in [1, 7, 65_535, 65_536, 1 << 20] {
            let sum = of("blkhash", &far, part);
            assert!(sum.starts_with("61b8f3a8cea76e16eeff7ce27f1b7711"), "{part}: {sum}");
        }
        assert!(of("blkhash", b"", 1).starts_with("af5570f5a1810b7af78caf4bc70a660f"));
        assert!(of("blkhash:md5", b"hello", 2).starts_with("f741ac9ce55f5325"));
        assert!(of("blkhash:md5/4", b"hello", 2).starts_with("8262896de34125de"));
        let eights = b"12345678".repeat(512 * 256);
        assert!(of("blkhash:sha512/512k", &eights, 4096).starts_with("379f7eb1628058c7"));
        assert!(of("sha256", b"", 1).starts_with("e3b0c44298fc1c149afbf4c8996fb924"));
        assert!(of("blake3", b"", 1).starts_with("af1349b9f5f9a1a6a0404dea36dcc949"));
    }

    #[test]
    fn zeroes_are_bytes_too() {
        let bytes = [vec![1; 100], vec![0; 200_000], vec![2; 5], vec![0; 70_000]].concat();
        for kind in ["sha256", "blake3", "blkhash", "blkhash:sha1/1000"] {
            let mut plain = Digest::new(Kind::parse(kind).unwrap());
            plain.data(&bytes);
            let plain = plain.finish();
            for part in [5, 100, 4096, 1 << 20] {
                assert_eq!(of(kind, &bytes, part), plain, "{kind} {part}");
            }
        }
    }

    #[test]
    fn what_is_no_checksum() {
        for text in ["", "sha", "blkhash:", "blkhash:crc", "blkhash:md5/0", "blkhash:md5/64M"] {
            assert!(Kind::parse(text).is_err(), "{text}");
        }
    }
}
