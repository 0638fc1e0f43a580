//! A disk that fails when it is told to, and remembers what it has been.

use std::io;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nbd_proto::{BlockSizes, Errno};

use crate::Bytes;
use crate::export::{
    Abilities, AllocationExtent, AsyncExport, Attempt, BoxFuture, Export, ExtentKind, Zeroing,
};

/// Everything is done to whole blocks, each of which is a version: its number, over and over.
pub(super) const BLOCK: usize = 4096;

/// Long enough for reads that are looked through for holes.
pub(super) const BLOCKS: usize = 32;

/// A point in the order of all that happens.
pub(super) type Tick = u64;

/// How the next call goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NextCall {
    #[default]
    Well,
    /// It fails.
    Fails(i32),
    /// Half of it is done, and then it fails.
    FailsMidway,
    Panics,
    /// A read without waiting would have to wait; one that may wait goes well.
    WouldWait,
    /// A read without waiting is done at once.
    AtOnce,
    /// Too little is read, and extents are empty.
    TooLittle,
    /// Too much is read, and extents reach far beyond what was asked for.
    TooMuch,
}

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Disk(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    now: Tick,
    next_call: NextCall,
    hints: Abilities,
    /// The versions of each block, and since when.
    versions: Vec<Vec<(Tick, u64)>>,
    /// When a flush has succeeded.
    flushes: Vec<Tick>,
    /// When a call has failed, and with which number.
    failures: Vec<(Tick, Errno)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: 1,
            next_call: NextCall::Well,
            hints: Abilities::empty(),
            versions: vec![vec![(0, 0)]; BLOCKS],
            flushes: Vec::new(),
            failures: Vec::new(),
        }
    }
}

impl State {
    /// The point after all that has happened.
    pub(super) const fn now(&self) -> Tick {
        self.now
    }

    /// How the next call goes.
    pub(super) const fn set_next_call(&mut self, next_call: NextCall) {
        self.next_call = next_call;
    }

    /// What the disk says of how long it takes.
    pub(super) const fn set_hints(&mut self, hints: Abilities) {
        self.hints = hints;
    }

    /// Whether a block has been of this version at some time from then on.
    pub(super) fn has_been(&self, block: usize, version: u64, since: Tick) -> bool {
        let all = &self.versions[block];
        let ends = all.iter().skip(1).map(|(tick, _)| *tick).chain([Tick::MAX]);
        all.iter().zip(ends).any(|((_, known), end)| *known == version && end > since)
    }

    /// When a block became this version, if that was at some time from then on.
    pub(super) fn became(&self, block: usize, version: u64, since: Tick) -> Option<Tick> {
        let is_it = |(tick, known): &&(Tick, u64)| *tick >= since && *known == version;
        self.versions[block].iter().find(is_it).map(|(tick, _)| *tick)
    }

    pub(super) fn flushed_since(&self, since: Tick) -> bool {
        self.flushes.last().is_some_and(|last| *last >= since)
    }

    pub(super) fn has_failed_since(&self, since: Tick, errno: Errno) -> bool {
        self.failures.iter().any(|(tick, known)| *tick >= since && *known == errno)
    }

    fn current(&self, block: usize) -> u64 {
        self.versions[block].last().map_or(0, |(_, version)| *version)
    }

    fn become_version(&mut self, block: usize, version: u64) {
        let now = self.now;
        self.versions[block].push((now, version));
    }

    /// A request fails before it reaches the disk.
    pub(super) fn note_failure(&mut self, errno: Errno) {
        self.failures.push((self.now, errno));
    }

    fn fail(&mut self, number: i32) -> io::Error {
        self.note_failure(Errno::from_linux(number));
        io::Error::from_raw_os_error(number)
    }

    /// A call begins. How it goes.
    fn begin(&mut self) -> io::Result<NextCall> {
        self.now += 1;
        match std::mem::take(&mut self.next_call) {
            NextCall::Fails(number) => Err(self.fail(number)),
            NextCall::Panics => {
                self.fail(EIO);
                // Without a word: the fuzzer would take it for what it looks for.
                resume_unwind(Box::new("as it was told"))
            }
            next_call => Ok(next_call),
        }
    }

    /// Changes blocks, of which each becomes a version.
    fn change(&mut self, offset: u64, len: u64, version: impl Fn(usize) -> u64) -> io::Result<()> {
        let midway = self.begin()? == NextCall::FailsMidway;
        let blocks = blocks(offset, len);
        let half = blocks.start + blocks.len() / 2;
        for block in blocks.clone() {
            if midway && block == half {
                return Err(self.fail(ENOSPC));
            }
            self.become_version(block, version(block - blocks.start));
        }
        Ok(())
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.begin()? == NextCall::FailsMidway {
            return Err(self.fail(EIO));
        }
        self.fill(buf, offset);
        Ok(())
    }

    fn fill(&self, buf: &mut [u8], offset: u64) {
        let blocks = blocks(offset, buf.len() as u64);
        for (bytes, block) in buf.chunks_mut(BLOCK).zip(blocks) {
            bytes.copy_from_slice(&block_of(self.current(block))[..bytes.len()]);
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A block of a version.
pub(super) fn block_of(version: u64) -> Vec<u8> {
    version.to_be_bytes().repeat(BLOCK / 8)
}

/// The version of a block, if it is all of one.
pub(super) fn version_of(block: &[u8]) -> Option<u64> {
    let (head, _) = block.split_first_chunk()?;
    let version = u64::from_be_bytes(*head);
    (block == block_of(version)).then_some(version)
}

/// What a block becomes of which each part is something else.
const TORN: u64 = u64::MAX;

/// The blocks of a range.
pub(super) fn blocks(offset: u64, len: u64) -> std::ops::Range<usize> {
    assert!((offset | len).is_multiple_of(BLOCK as u64), "{len} bytes at {offset} are no blocks");
    let first = offset as usize / BLOCK;
    let range = first..first + len as usize / BLOCK;
    assert!(range.end <= BLOCKS, "{len} bytes at {offset} reach beyond the end");
    range
}

impl Disk {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A call that was told to panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ABILITIES: Abilities = Abilities::WRITE
    .union(Abilities::TRIM)
    .union(Abilities::FAST_ZERO)
    .union(Abilities::CACHE)
    .union(Abilities::MULTI_CONN);

const SIZES: BlockSizes =
    BlockSizes { minimum: BLOCK as u32, preferred: BLOCK as u32, maximum: u32::MAX };

impl Export for Disk {
    fn size(&self) -> u64 {
        (BLOCKS * BLOCK) as u64
    }

    fn abilities(&self) -> Abilities {
        ABILITIES | self.state().hints
    }

    fn block_sizes(&self) -> BlockSizes {
        SIZES
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.state().read(buf, offset)
    }

    fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        let mut state = self.state();
        match state.next_call {
            NextCall::AtOnce | NextCall::Panics => state.read(buf, offset).map(|()| Attempt::Done),
            NextCall::WouldWait => Ok(Attempt::WouldWait),
            _ => Ok(Attempt::Unknown),
        }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let versions: Vec<u64> =
            buf.chunks(BLOCK).map(|block| version_of(block).unwrap_or(TORN)).collect();
        self.state().change(offset, buf.len() as u64, |at| versions[at])
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.begin()? == NextCall::FailsMidway {
            return Err(state.fail(EIO));
        }
        let now = state.now;
        state.flushes.push(now);
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.state().change(offset, len, |_| 0)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _zeroing: Zeroing) -> io::Result<()> {
        self.state().change(offset, len, |_| 0)
    }

    fn cache(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.state().begin().map(drop)
    }

    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let found = self.state().extents(offset, len)?;
        let _: ControlFlow<()> = found.into_iter().try_for_each(visit);
        Ok(())
    }
}

impl State {
    fn extents(&mut self, offset: u64, len: u64) -> io::Result<Vec<AllocationExtent>> {
        let data = |length| vec![AllocationExtent { length, kind: ExtentKind::Data }];
        Ok(match self.begin()? {
            NextCall::TooLittle => {
                // Who wants extents gets none.
                self.fail(EIO);
                if offset.is_multiple_of(2 * BLOCK as u64) { Vec::new() } else { data(0) }
            }
            NextCall::TooMuch => data(u64::MAX),
            NextCall::FailsMidway => return Err(self.fail(EIO)),
            _ => blocks(offset, len)
                .map(|block| AllocationExtent {
                    length: BLOCK as u64,
                    kind: if self.current(block) == 0 {
                        ExtentKind::Hole
                    } else {
                        ExtentKind::Data
                    },
                })
                .collect(),
        })
    }
}

impl AsyncExport for Disk {
    fn size(&self) -> u64 {
        Export::size(self)
    }

    fn abilities(&self) -> Abilities {
        ABILITIES
    }

    fn block_sizes(&self) -> BlockSizes {
        SIZES
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            let mut state = self.state();
            let wrong = match state.begin()? {
                NextCall::TooLittle => len - 1,
                NextCall::TooMuch => len + BLOCK,
                NextCall::FailsMidway => return Err(state.fail(EIO)),
                _ => len,
            };
            let mut bytes = vec![0; len];
            state.fill(&mut bytes, offset);
            if wrong != len {
                // That this is a failure is for the server to find out.
                state.fail(EIO);
                bytes.resize(wrong, 0);
            }
            Ok(bytes.into())
        })
    }

    fn write_all_at<'a>(&'a self, buf: &'a [u8], offset: u64) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { Export::write_all_at(self, buf, offset) })
    }

    fn flush(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { Export::flush(self) })
    }

    fn trim(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move { Export::trim(self, offset, len) })
    }

    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        zeroing: Zeroing,
    ) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move { Export::write_zeroes(self, offset, len, zeroing) })
    }

    fn cache(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move { Export::cache(self, offset, len) })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<Vec<AllocationExtent>>> {
        Box::pin(async move { self.state().extents(offset, len) })
    }
}
