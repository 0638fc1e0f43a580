//! Many requests of several clients at once, and a disk that forgets what was not flushed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nbd_server::{Abilities, Export, Server};

use nbd_sim::raw::{FLUSH, READ, Raw, WRITE, request};
use nbd_sim::rng::Rng;

use super::support::start;

const BLOCK: usize = 512;
const BLOCKS: usize = 64;
const CLIENTS: usize = 3;
const STEPS: usize = 400;
const WINDOW: usize = 16;
const FUA: u8 = 1;

/// What is written is durable once it is flushed, and each request takes its own time.
struct Fickle {
    cached: Mutex<Vec<u8>>,
    durable: Mutex<Vec<u8>>,
    calls: AtomicU64,
}

impl Fickle {
    fn new() -> Self {
        let bytes = || Mutex::new(vec![0; BLOCK * BLOCKS]);
        Self { cached: bytes(), durable: bytes(), calls: AtomicU64::new(0) }
    }

    /// Every third call is slow, so that they overtake each other.
    fn dawdle(&self) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call.is_multiple_of(3) {
            std::thread::sleep(Duration::from_micros(call * 7 % 300));
        }
    }

    /// The version of a block that would outlast a power cut.
    fn durable_version(&self, block: usize) -> u64 {
        version(&self.durable.lock().unwrap()[block * BLOCK..])
    }
}

impl Export for Fickle {
    fn size(&self) -> u64 {
        (BLOCK * BLOCKS) as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.dawdle();
        buf.copy_from_slice(&self.cached.lock().unwrap()[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE | Abilities::MULTI_CONN
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.dawdle();
        self.cached.lock().unwrap()[offset as usize..][..buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.dawdle();
        let cached = self.cached.lock().unwrap().clone();
        self.dawdle();
        // An older state must not come over a newer one of another flush.
        for (block, bytes) in cached.chunks(BLOCK).enumerate() {
            let mut durable = self.durable.lock().unwrap();
            let there = &mut durable[block * BLOCK..][..BLOCK];
            if version(bytes) > version(there) {
                there.copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

/// A block of a version, and nothing else.
fn block_of(version: u64) -> Vec<u8> {
    version.to_be_bytes().repeat(BLOCK / 8)
}

fn version(block: &[u8]) -> u64 {
    u64::from_be_bytes(block[..8].try_into().unwrap())
}

/// A request that was sent.
enum Sent {
    Read {
        block: usize,
        at_least: u64,
    },
    Write {
        block: usize,
        version: u64,
        durable: bool,
    },
    /// With what had been acknowledged before, on any connection.
    Flush {
        acknowledged: Vec<u64>,
    },
}

/// One client, which writes the blocks that are its own, and reads and flushes all.
struct Client<'a> {
    raw: Raw,
    number: usize,
    export: &'a Fickle,
    acknowledged: &'a [AtomicU64],
    random: Rng,
    sent: HashMap<u64, Sent>,
    written: HashSet<usize>,
}

impl Client<'_> {
    fn run(mut self) {
        for cookie in 0..STEPS as u64 {
            self.send(cookie);
            while self.sent.len() >= WINDOW {
                self.receive();
            }
        }
        while !self.sent.is_empty() {
            self.receive();
        }
    }

    fn send(&mut self, cookie: u64) {
        let now = |block: &AtomicU64| block.load(Ordering::SeqCst);
        let own = self.random.below(BLOCKS / CLIENTS) * CLIENTS + self.number;
        match self.random.below(10) {
            0 => {
                let acknowledged = self.acknowledged.iter().map(now).collect();
                self.sent.insert(cookie, Sent::Flush { acknowledged });
                self.raw.ask(FLUSH, cookie, 0, 0);
            }
            1 | 2 => {
                let block = self.random.below(BLOCKS);
                let at_least = now(&self.acknowledged[block]);
                self.sent.insert(cookie, Sent::Read { block, at_least });
                self.raw.ask(READ, cookie, (block * BLOCK) as u64, BLOCK as u32);
            }
            // Two at once of the same block would have no order.
            _ if !self.written.insert(own) => {}
            kind => {
                let durable = kind == 3;
                let version = cookie + 1;
                self.sent.insert(cookie, Sent::Write { block: own, version, durable });
                let mut bytes = request(WRITE, cookie, (own * BLOCK) as u64, BLOCK as u32);
                bytes[5] = if durable { FUA } else { 0 };
                bytes.extend(block_of(version));
                self.raw.write(&bytes);
            }
        }
    }

    fn receive(&mut self) {
        let (error, cookie) = self.raw.reply();
        assert_eq!(error, 0);
        match self.sent.remove(&cookie).expect("a reply to a request") {
            Sent::Read { block, at_least } => {
                let bytes = self.raw.read(BLOCK);
                let found = version(&bytes);
                assert_eq!(bytes, block_of(found), "a torn block");
                assert!(found >= at_least, "block {block}: {found} after {at_least}");
            }
            Sent::Write { block, version, durable } => {
                if durable {
                    let safe = self.export.durable_version(block);
                    assert!(safe >= version, "FUA of block {block}: {safe}, not {version}");
                }
                self.acknowledged[block].store(version, Ordering::SeqCst);
                self.written.remove(&block);
            }
            Sent::Flush { acknowledged } => {
                for (block, version) in acknowledged.into_iter().enumerate() {
                    let safe = self.export.durable_version(block);
                    assert!(safe >= version, "flush of block {block}: {safe}, not {version}");
                }
            }
        }
    }
}

/// A read finds what was acknowledged before it; a flush, and a write with FUA, vouch for what
/// is durable, on whichever connection it was written.
#[test]
fn what_is_acknowledged_is_there_and_what_is_flushed_is_durable() {
    for seed in 1..=8 {
        let export = Arc::new(Fickle::new());
        let (server, _endings) = start(Server::new(Arc::clone(&export)));
        let acknowledged: Vec<_> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let client = Client {
                    raw: Raw::established(&server),
                    number,
                    export: &export,
                    acknowledged: &acknowledged,
                    random: Rng::new(seed << 8 | number as u64),
                    sent: HashMap::new(),
                    written: HashSet::new(),
                };
                scope.spawn(move || client.run());
            }
        });
        server.stop();
    }
}
