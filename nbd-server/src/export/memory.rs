//! A sparse disk in memory.
//!
//! ```text
//!   page number ──▶ shard = number mod 64      index, ordered
//!                   ┌────────────────────┐     ┌───────────────────────────┐
//!                   │ RwLock             │     │ RwLock                    │
//!                   │   number ▶ Data[…] │     │   number ▶ Data or Zero   │
//!                   │   number ▶ Zero    │     │ (a number not in it is a  │
//!                   └────────────────────┘     │  hole)                    │
//!                                              └───────────────────────────┘
//! ```
//!
//! Reads, and writes to pages that hold data, take the lock of one shard a
//! page and no other. The index is written only when a page changes its kind,
//! always by a thread that holds the lock of that page's shard; no thread that
//! holds the lock of the index waits for another.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::iter;
use std::ops::{ControlFlow, Range};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::io::Errno;
use rustix::system::sysinfo;

use super::{Abilities, AllocationExtent, Attempt, Export, ExtentKind, Zeroing, check_range};

/// The bytes of a page: the unit of allocation and of atomicity.
pub(super) const PAGE_SIZE: usize = 64 << 10;
const PAGE: u64 = PAGE_SIZE as u64;

/// So many that connections rarely meet in one, so few that an empty disk is
/// small.
const SHARDS: usize = 64;

/// A disk in memory. Its size may be anything: only pages that were written to
/// take up memory, and a request that would take up more than the limit fails
/// with `ENOSPC`.
#[derive(Debug)]
pub struct MemoryExport {
    size: u64,
    page_limit: u64,
    shards: Vec<Shard>,
    index: RwLock<BTreeMap<u64, ExtentKind>>,
}

type Shard = RwLock<HashMap<u64, Page>>;

/// A page that is not a hole.
#[derive(Debug)]
enum Page {
    /// Reads as zero. Counts towards the limit, so that it can become `Data`.
    Zero,
    /// [`PAGE_SIZE`] bytes. Those past the end of the disk stay zero.
    Data(Box<[u8]>),
}

impl MemoryExport {
    /// A disk of `size` bytes, all of it a hole, that takes up at most three
    /// quarters of the memory of the machine.
    pub fn new(size: u64) -> Self {
        let machine = sysinfo();
        let memory = u64::from(machine.mem_unit).saturating_mul(machine.totalram as u64);
        Self::with_limit(size, memory / 4 * 3)
    }

    /// A disk of `size` bytes, all of it a hole, that takes up at most `limit`
    /// bytes of memory in whole pages, and some hundred bytes a page more.
    pub(super) fn with_limit(size: u64, limit: u64) -> Self {
        Self {
            size,
            page_limit: limit / PAGE,
            shards: iter::repeat_with(Shard::default).take(SHARDS).collect(),
            index: RwLock::default(),
        }
    }

    fn shard(&self, page: u64) -> &Shard {
        &self.shards[(page % SHARDS as u64) as usize]
    }

    /// Writes the kind of a page into the index; `ENOSPC` when that is one page
    /// too many.
    fn record(&self, page: u64, kind: ExtentKind) -> io::Result<()> {
        let mut index = write(&self.index);
        if index.len() as u64 >= self.page_limit && !index.contains_key(&page) {
            return Err(Errno::NOSPC.into());
        }
        index.insert(page, kind);
        Ok(())
    }

    /// Fails with `ENOSPC` unless all pages that `len` bytes at `offset` touch
    /// can be provisioned.
    fn check_room(&self, offset: u64, len: u64) -> io::Result<()> {
        let (first, last) = (offset / PAGE, (offset + len - 1) / PAGE);
        let index = read(&self.index);
        let present = index.range(first..=last).count() as u64;
        let missing = last - first + 1 - present;
        if index.len() as u64 + missing > self.page_limit {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    /// Makes each page of `pages` a hole, in time proportional to those that
    /// are not.
    fn punch_pages(&self, mut pages: Range<u64>) {
        while let Some(page) = self.first_stored(pages.clone()) {
            let mut shard = write(self.shard(page));
            shard.remove(&page);
            write(&self.index).remove(&page);
            pages.start = page + 1;
        }
    }

    fn first_stored(&self, pages: Range<u64>) -> Option<u64> {
        read(&self.index).range(pages).next().map(|(&page, _)| page)
    }

    /// Makes each page of `pages` provisioned zeroes.
    fn provision_pages(&self, pages: Range<u64>) -> io::Result<()> {
        for page in pages {
            let mut shard = write(self.shard(page));
            self.record(page, ExtentKind::Zero)?;
            shard.insert(page, Page::Zero);
        }
        Ok(())
    }

    /// Zeroes a part of a page.
    fn zero_piece(&self, piece: Piece, may_punch: bool) -> io::Result<()> {
        let page = piece.page;
        let mut shard = write(self.shard(page));
        match shard.get_mut(&page) {
            Some(Page::Data(bytes)) => {
                bytes[piece.in_page].fill(0);
                // So that trims smaller than a page free memory in the end.
                if may_punch && is_zero(bytes) {
                    shard.remove(&page);
                    write(&self.index).remove(&page);
                }
            }
            None if !may_punch => {
                self.record(page, ExtentKind::Zero)?;
                shard.insert(page, Page::Zero);
            }
            Some(Page::Zero) | None => {}
        }
        Ok(())
    }

    /// Zeroes a range that lies within the disk.
    fn zero(&self, offset: u64, len: u64, may_punch: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        if !may_punch {
            self.check_room(offset, len)?;
        }
        let end = offset + len;
        let whole = offset.div_ceil(PAGE)..end / PAGE;
        if whole.is_empty() {
            return pieces(offset, len as usize).try_for_each(|p| self.zero_piece(p, may_punch));
        }
        let tail = whole.end * PAGE;
        pieces(offset, (whole.start * PAGE - offset) as usize)
            .chain(pieces(tail, (end - tail) as usize))
            .try_for_each(|piece| self.zero_piece(piece, may_punch))?;
        if may_punch {
            self.punch_pages(whole);
            Ok(())
        } else {
            self.provision_pages(whole)
        }
    }

    /// The kind of the byte at `position` and where its extent ends, `end` at
    /// the latest.
    fn extent_at(&self, position: u64, end: u64) -> (ExtentKind, u64) {
        let (first, last) = (position / PAGE, (end - 1) / PAGE);
        let index = read(&self.index);
        let mut stored = index.range(first..=last);
        let (kind, next_page) = match stored.next() {
            None => (ExtentKind::Hole, last + 1),
            Some((&page, _)) if page > first => (ExtentKind::Hole, page),
            Some((_, &kind)) => {
                let more = (first + 1..=last)
                    .zip(stored)
                    .take_while(|(page, entry)| *entry == (page, &kind));
                (kind, first + 1 + more.count() as u64)
            }
        };
        (kind, next_page.saturating_mul(PAGE).min(end))
    }
}

impl Export for MemoryExport {
    fn size(&self) -> u64 {
        self.size
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE
            | Abilities::TRIM
            | Abilities::FAST_ZERO
            | Abilities::MULTI_CONN
            | Abilities::NEVER_WAITS
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64, Errno::INVAL)?;
        for piece in pieces(offset, buf.len()) {
            let target = &mut buf[piece.in_buffer];
            match read(self.shard(piece.page)).get(&piece.page) {
                Some(Page::Data(bytes)) => target.copy_from_slice(&bytes[piece.in_page]),
                Some(Page::Zero) | None => target.fill(0),
            }
        }
        Ok(())
    }

    fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        self.read_exact_at(buf, offset).map(|()| Attempt::Done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64, Errno::NOSPC)?;
        for piece in pieces(offset, buf.len()) {
            let source = &buf[piece.in_buffer];
            let mut shard = write(self.shard(piece.page));
            match shard.get_mut(&piece.page) {
                Some(Page::Data(bytes)) => bytes[piece.in_page].copy_from_slice(source),
                // Zeroes over what reads as zero change nothing.
                Some(Page::Zero) | None if is_zero(source) => {}
                Some(Page::Zero) | None => {
                    let mut bytes = Vec::new();
                    bytes.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::NOMEM)?;
                    bytes.resize(PAGE_SIZE, 0);
                    self.record(piece.page, ExtentKind::Data)?;
                    bytes[piece.in_page].copy_from_slice(source);
                    shard.insert(piece.page, Page::Data(bytes.into_boxed_slice()));
                }
            }
        }
        Ok(())
    }

    /// Nothing to do: memory survives no power cut.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        check_range(self.size, offset, len, Errno::INVAL)?;
        self.zero(offset, len, true)
    }

    /// Always fast: whole pages are never written, and of the rest less than
    /// two pages are.
    fn write_zeroes(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        check_range(self.size, offset, len, Errno::NOSPC)?;
        self.zero(offset, len, zeroing.may_punch)
    }

    fn cache(&self, offset: u64, len: u64) -> io::Result<()> {
        check_range(self.size, offset, len, Errno::INVAL)
    }

    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        check_range(self.size, offset, len, Errno::INVAL)?;
        let end = offset + len;
        let mut position = offset;
        while position < end {
            // The index is not locked during the visit, which may be slow or
            // may ask the disk for more.
            let (kind, until) = self.extent_at(position, end);
            let extent = AllocationExtent { length: until - position, kind };
            if visit(extent).is_break() {
                break;
            }
            position = until;
        }
        Ok(())
    }
}

/// The part of a range that lies in one page.
struct Piece {
    page: u64,
    in_page: Range<usize>,
    in_buffer: Range<usize>,
}

/// Cuts the `len` bytes at `offset` at the boundaries of pages.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = offset + done as u64;
        let start = (position % PAGE) as usize;
        let length = (PAGE_SIZE - start).min(len - done);
        let in_buffer = done..done + length;
        done += length;
        Some(Piece { page: position / PAGE, in_page: start..start + length, in_buffer })
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    // A step at a time without a branch, which the compiler turns into vector
    // instructions.
    bytes.chunks(512).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Locks for reading. A thread that panicked cannot have left a page or the
/// index half changed, so its poison is ignored.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing, and ignores poison for the reason given at [`read`].
fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
