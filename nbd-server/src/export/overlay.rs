//! What is written goes elsewhere.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nbd_proto::BlockSizes;

use super::{Abilities, AllocationExtent, Attempt, Export, Zeroing};

/// The unit in which changed bytes are kept, in bytes.
const BLOCK: u64 = 64 << 10;

/// Blocks are locked together by their number modulo this.
const LOCKS: usize = 64;

/// An export that nobody changes, and above it one that takes what is written.
///
/// Which blocks of 64 KiB are above is kept in memory: the changes last as long as this does.
///
/// ```
/// use nbd_server::{Export, MemoryExport, Overlay};
///
/// # let base = MemoryExport::new(1 << 20);
/// let scratch = Overlay::new(&base, MemoryExport::new(base.size()))?;
/// scratch.write_all_at(b"changed", 0)?;
/// let mut bytes = [1; 7];
/// base.read_exact_at(&mut bytes, 0)?;
/// assert_eq!(bytes, [0; 7]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Overlay<B, T> {
    base: B,
    top: T,
    /// Blocks that are above. Read and changed under the lock of the block.
    above: Mutex<BTreeSet<u64>>,
    locks: Vec<Mutex<()>>,
}

impl<B: Export, T: Export> Overlay<B, T> {
    /// Reads of `base` what was not written, and keeps in `top` what was.
    ///
    /// # Errors
    /// When `top` is smaller than `base`, or cannot be written to in any size.
    pub fn new(base: B, top: T) -> io::Result<Self> {
        let fits = top.size() >= base.size() && top.abilities().contains(Abilities::WRITE);
        if !fits || top.block_sizes().minimum > 1 {
            let text = "what is above has to be writable, byte by byte, and large enough";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let locks = (0..LOCKS).map(|_| Mutex::default()).collect();
        Ok(Self { base, top, above: Mutex::default(), locks })
    }

    fn lock(&self, block: u64) -> MutexGuard<'_, ()> {
        self.locks[(block % LOCKS as u64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn above(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.above.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a block up, of which the bytes from `offset` to `end` are replaced in any case.
    fn copy_up(&self, block: u64, offset: u64, end: u64) -> io::Result<()> {
        if self.above().contains(&block) {
            return Ok(());
        }
        let start = block * BLOCK;
        let stop = (start + BLOCK).min(self.size());
        if offset > start || end < stop {
            let mut bytes = vec![0; (stop - start) as usize];
            self.base.read_exact_at(&mut bytes, start)?;
            self.top.write_all_at(&bytes, start)?;
        }
        Ok(())
    }

    /// Changes a range, block by block.
    fn change(
        &self,
        offset: u64,
        len: u64,
        mut change: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for (block, offset, length) in pieces(offset, len) {
            let _lock = self.lock(block);
            self.copy_up(block, offset, offset + length)?;
            change(offset, length)?;
            self.above().insert(block);
        }
        Ok(())
    }
}

/// The blocks of a range: number, offset and length of what is in it.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let block = at / BLOCK;
        let length = ((block + 1) * BLOCK).min(end) - at;
        at += length;
        Some((block, at - length, length))
    })
}

impl<B: Export, T: Export> Export for Overlay<B, T> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut rest = buf;
        for (block, offset, length) in pieces(offset, rest.len() as u64) {
            let (part, after) = rest.split_at_mut(length as usize);
            let above = self.above().contains(&block);
            if above {
                self.top.read_exact_at(part, offset)?;
            } else {
                self.base.read_exact_at(part, offset)?;
            }
            rest = after;
        }
        Ok(())
    }

    /// As far as what each block is read from can tell.
    fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        let mut rest = buf;
        for (block, offset, length) in pieces(offset, rest.len() as u64) {
            let (part, after) = rest.split_at_mut(length as usize);
            let above = self.above().contains(&block);
            let attempt = if above {
                self.top.try_read_exact_at(part, offset)?
            } else {
                self.base.try_read_exact_at(part, offset)?
            };
            match attempt {
                Attempt::Done => rest = after,
                Attempt::WouldWait | Attempt::Unknown => return Ok(attempt),
            }
        }
        Ok(Attempt::Done)
    }

    fn abilities(&self) -> Abilities {
        let mut abilities = Abilities::WRITE | Abilities::MULTI_CONN;
        let top = self.top.abilities();
        abilities |= top & Abilities::FAST_ZERO;
        abilities |= top & self.base.abilities() & Abilities::NEVER_WAITS;
        abilities
    }

    fn block_sizes(&self) -> BlockSizes {
        let BlockSizes { minimum, preferred, maximum } = self.base.block_sizes();
        BlockSizes { minimum, preferred: preferred.max(BLOCK as u32), maximum }
    }

    fn description(&self) -> Option<String> {
        self.base.description()
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut rest = buf;
        self.change(offset, buf.len() as u64, |offset, length| {
            let (part, after) = rest.split_at(length as usize);
            rest = after;
            self.top.write_all_at(part, offset)
        })
    }

    /// What is above outlasts nothing, but its storage may have errors to tell.
    fn flush(&self) -> io::Result<()> {
        self.top.flush()
    }

    fn write_zeroes(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        self.change(offset, len, |offset, length| self.top.write_zeroes(offset, length, zeroing))
    }

    fn extents(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(AllocationExtent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        // Runs that go on from block to block are one extent.
        let mut run: Option<AllocationExtent> = None;
        let mut flow = ControlFlow::Continue(());
        for (block, offset, length) in pieces(offset, len) {
            let mut left = length;
            let mut join = |mut extent: AllocationExtent| {
                extent.length = extent.length.min(left);
                left -= extent.length;
                match &mut run {
                    Some(last) if last.kind == extent.kind => last.length += extent.length,
                    _ => flow = run.replace(extent).map_or(flow, &mut *visit),
                }
                if left == 0 { ControlFlow::Break(()) } else { flow }
            };
            let above = self.above().contains(&block);
            if above {
                self.top.extents(offset, length, &mut join)?;
            } else {
                self.base.extents(offset, length, &mut join)?;
            }
            if flow.is_break() {
                return Ok(());
            }
        }
        run.map_or(Ok(()), |last| {
            let _: ControlFlow<()> = visit(last);
            Ok(())
        })
    }

    fn cache(&self, offset: u64, len: u64) -> io::Result<()> {
        self.base.cache(offset, len)
    }
}
