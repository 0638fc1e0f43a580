//! Serves a file, and keeps what is written in memory until it is flushed: whatever kills this
//! program takes the rest with it, as a power cut does with a disk.
//!
//! `forgetful FILE SOCKET`

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nbd_server::{Abilities, Export, Server};

/// What is written and not flushed is kept in pieces of so many bytes.
const PIECE: usize = 4096;

struct Forgetful {
    file: File,
    size: u64,
    memory: Mutex<Memory>,
}

struct Memory {
    /// All that the client sees.
    bytes: Vec<u8>,
    /// The pieces that are not in the file, by number.
    unflushed: BTreeSet<usize>,
}

impl Forgetful {
    fn open(path: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = std::fs::read(path)?;
        let size = bytes.len() as u64;
        let memory = Mutex::new(Memory { bytes, unflushed: BTreeSet::new() });
        Ok(Self { file, size, memory })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Export for Forgetful {
    fn size(&self) -> u64 {
        self.size
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        buf.copy_from_slice(&self.memory().bytes[at..at + buf.len()]);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        let mut memory = self.memory();
        memory.bytes[at..at + buf.len()].copy_from_slice(buf);
        memory.unflushed.extend(at / PIECE..(at + buf.len()).div_ceil(PIECE));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut memory = self.memory();
        for piece in std::mem::take(&mut memory.unflushed) {
            let end = memory.bytes.len().min((piece + 1) * PIECE);
            self.file.write_all_at(&memory.bytes[piece * PIECE..end], (piece * PIECE) as u64)?;
        }
        self.file.sync_data()
    }
}

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(file), Some(socket)) = (words.next(), words.next()) else {
        return Err(io::Error::other("usage: forgetful FILE SOCKET"));
    };
    Server::new(Forgetful::open(&file)?).listen_unix(socket)?.start()?.wait()
}
