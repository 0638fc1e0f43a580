//! Memory for the payload of one connection, used over and over.
//!
//! ```text
//!   write:  region() grows ─► bytes arrive ─► take ─► the export ─► give_back
//!   read:   allocate ─► the export fills it ─► put ─► bytes() leave ─► give_back
//! ```

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nbd_proto::{PayloadSink, PayloadSource, RequestId, part, part_mut};

use super::budget::{Account, Grant};

/// The smallest buffer, in bytes, as a power of two: the usual request.
const SMALLEST: u32 = 12;

/// Classes of buffers: 4 KiB, 8 KiB, … 32 MiB. Longer ones are not kept.
const CLASSES: usize = 14;

/// Unused buffers are kept up to this many bytes in all.
const KEPT: usize = 16 << 20;

/// A payload that arrives gets so much memory at first, in bytes, and as much again as it has
/// filled: nothing is allocated because a client says that it will send something.
const STEP: usize = 256 << 10;

/// As long as there is none to be had, it gets so much once, for what has been read with the
/// request, and nothing more is read.
const SHORT_STEP: usize = 64 << 10;

/// The payload of the requests of one connection.
#[derive(Debug)]
pub(crate) struct Buffers {
    account: Arc<Account>,
    lent: nbd_proto::Buffers<Buffer>,
    /// Bytes of buffers that requests have, here or elsewhere.
    in_use: usize,
    free: [Vec<Buffer>; CLASSES],
    kept: usize,
    /// The write whose payload arrives.
    arriving: Option<RequestId>,
    overdrawn: bool,
}

/// Memory of a request.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// At least as long as was asked for; what is beyond is never looked at.
    bytes: Vec<u8>,
    /// Memory of the export's own in its place.
    theirs: Option<Bytes>,
    grant: Grant,
}

impl Buffer {
    fn new(grant: Grant) -> Self {
        Self { bytes: Vec::new(), theirs: None, grant }
    }

    /// The first `len` bytes.
    pub(crate) fn first(&self, len: usize) -> &[u8] {
        part(self.all(), 0, len)
    }

    fn all(&self) -> &[u8] {
        self.theirs.as_deref().unwrap_or(&self.bytes)
    }

    /// These bytes are what it contains.
    pub(crate) fn hold(&mut self, bytes: Bytes) {
        self.theirs = Some(bytes);
    }

    /// The first `len` bytes. What they contain is left over from others.
    pub(crate) fn first_mut(&mut self, len: usize) -> &mut [u8] {
        part_mut(&mut self.bytes, 0, len)
    }

    /// What it counts for.
    const fn weight(&self) -> usize {
        self.grant.bytes()
    }

    /// Makes it `len` bytes long, if there is memory.
    fn grow(&mut self, len: usize) -> bool {
        let more = len.saturating_sub(self.bytes.len());
        if self.bytes.try_reserve_exact(more).is_err() {
            return false;
        }
        self.bytes.resize(len, 0);
        true
    }
}

impl Buffers {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            lent: nbd_proto::Buffers::new(),
            in_use: 0,
            free: Default::default(),
            kept: 0,
            arriving: None,
            overdrawn: false,
        }
    }

    /// Bytes that requests hold until their replies have left.
    pub(crate) const fn in_use(&self) -> usize {
        self.in_use
    }

    /// The write whose payload arrives.
    pub(crate) const fn arriving(&self) -> Option<RequestId> {
        self.arriving
    }

    /// All of the payload of a request is there.
    pub(crate) fn arrived(&mut self, id: RequestId) {
        self.arriving.take_if(|arriving| *arriving == id);
    }

    /// Memory for `len` bytes; none while there is none to be had.
    ///
    /// # Errors
    /// When the system has no memory, however long one waits.
    pub(crate) fn allocate(
        &mut self,
        len: usize,
        now: Instant,
    ) -> Result<Option<Buffer>, NoMemory> {
        if let Some(buffer) = self.reuse(len) {
            return Ok(Some(buffer));
        }
        let size = size_of_class(len);
        let Some(mut buffer) = self.reserve(size, now) else {
            return Ok(None);
        };
        if !buffer.grow(size) {
            self.in_use -= size;
            return Err(NoMemory);
        }
        Ok(Some(buffer))
    }

    /// Room for `len` bytes that somebody else allocates; none while there is none to be had.
    pub(crate) fn reserve(&mut self, len: usize, now: Instant) -> Option<Buffer> {
        if self.must_wait(len, now) {
            return None;
        }
        self.in_use += len;
        Some(Buffer::new(self.account.overdraw(len)))
    }

    /// Whether a payload that arrives has more memory than there is.
    pub(crate) const fn is_overdrawn(&self) -> bool {
        self.overdrawn
    }

    /// Whether no more payload can be received for now.
    pub(crate) fn must_wait_to_receive(&mut self, now: Instant) -> bool {
        if self.overdrawn {
            self.overdrawn = self.must_wait(SHORT_STEP, now);
        }
        self.overdrawn
    }

    fn must_wait(&mut self, bytes: usize, now: Instant) -> bool {
        if self.account.must_wait(bytes, now) {
            self.forget_unused();
            return self.account.must_wait(bytes, now);
        }
        false
    }

    fn reuse(&mut self, len: usize) -> Option<Buffer> {
        let buffer = self.free.get_mut(class_of(len)).and_then(Vec::pop)?;
        self.kept -= buffer.weight();
        self.in_use += buffer.weight();
        Some(buffer)
    }

    /// Counts `weight` bytes that the reply to a request takes up elsewhere.
    pub(crate) fn charge(&mut self, id: RequestId, weight: usize) {
        self.give_back(id);
        self.in_use += weight;
        let grant = self.account.overdraw(weight);
        self.lent.insert(id, Buffer::new(grant));
    }

    /// Takes the memory of a request away, to be used elsewhere and put or given back.
    pub(crate) fn take(&mut self, id: RequestId) -> Option<Buffer> {
        self.lent.remove(id)
    }

    /// The payload of the reply to a request.
    pub(crate) fn put(&mut self, id: RequestId, buffer: Buffer) {
        self.give_back(id);
        self.lent.insert(id, buffer);
    }

    /// The request needs its memory no longer.
    pub(crate) fn give_back(&mut self, id: RequestId) {
        if let Some(buffer) = self.lent.remove(id) {
            self.keep(buffer);
        }
    }

    /// Nobody needs this memory any longer.
    pub(crate) fn keep(&mut self, buffer: Buffer) {
        let weight = buffer.weight();
        self.in_use -= weight;
        let class = class_of(buffer.bytes.len());
        let whole = buffer.bytes.len() == 1 << (class as u32 + SMALLEST).min(usize::BITS - 1);
        if whole
            && self.kept + weight <= KEPT
            && let Some(class) = self.free.get_mut(class)
        {
            self.kept += weight;
            class.push(buffer);
        }
    }

    /// Whether memory is kept that nobody uses.
    pub(crate) const fn keeps_any(&self) -> bool {
        self.kept > 0
    }

    /// Returns the memory that nobody uses to the system.
    pub(crate) fn forget_unused(&mut self) {
        self.free = Default::default();
        self.kept = 0;
    }

    /// Memory for payload of which the first bytes arrive.
    fn begin(&mut self, id: RequestId, len: usize) {
        self.give_back(id);
        self.arriving = Some(id);
        let buffer = match self.reuse(len) {
            Some(buffer) => buffer,
            None => Buffer::new(self.account.overdraw(0)),
        };
        self.lent.insert(id, buffer);
    }

    /// More memory for payload that arrives, of which `at` bytes fill what it has, and `left`
    /// are still to come.
    fn grow(&mut self, id: RequestId, at: usize, left: usize) {
        let whole = size_of_class(at.saturating_add(left));
        let wanted = whole.min(at.saturating_mul(2).max(STEP)) - at;
        let grant = self.account.take(wanted).unwrap_or_else(|| {
            self.overdrawn = true;
            self.account.overdraw(wanted.min(SHORT_STEP))
        });
        let Some(buffer) = self.lent.get_mut(id) else {
            return;
        };
        if buffer.grow(at + grant.bytes()) {
            self.in_use += grant.bytes();
            buffer.grant.add(grant);
        }
    }
}

/// The system has no memory.
#[derive(Debug)]
pub(crate) struct NoMemory;

impl PayloadSink for Buffers {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        if at == 0 && self.lent.get(id).is_none() {
            self.begin(id, len);
        }
        if self.lent.get(id).is_some_and(|buffer| buffer.bytes.len() == at) {
            self.grow(id, at, len);
        }
        self.lent.get_mut(id).map_or(&mut [], |buffer| part_mut(&mut buffer.bytes, at, len))
    }
}

impl PayloadSource for Buffers {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.lent.get(id).map_or(&[], |buffer| part(buffer.all(), at, len))
    }
}

/// The class of buffers for `len` bytes; [`CLASSES`] and above are not kept.
fn class_of(len: usize) -> usize {
    let bits = len.next_power_of_two().trailing_zeros();
    bits.saturating_sub(SMALLEST) as usize
}

/// The size of the buffers for `len` bytes.
fn size_of_class(len: usize) -> usize {
    len.next_power_of_two().max(1 << SMALLEST)
}
