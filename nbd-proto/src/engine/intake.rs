//! The receive engine: turns bytes into calls of a role, whatever the cuts
//! between deliveries, and lands payload at its destination.
//!
//! ```text
//!            ┌───────────────── parse ◄────────────────┐
//!            │ header says                              │ all of it arrived
//!            ▼                                          │
//!   Place { id, at, left }   payload, to the sink ──────┤
//!   Skip { left }            to nowhere ────────────────┤
//!   Parse { need }           more contiguous bytes ─────┤
//!   Wait                     nothing, until resumed ────┘
//! ```
//!
//! Each delivery offers two places at once: the rest of the payload that is
//! under way, and a window of the scratch buffer for what follows it. So one
//! vectored read finishes a large payload in place and picks up the next
//! headers. Small replies are parsed from the scratch buffer by the dozen.
//!
//! The window is the only thing to tune. When the role expects a large payload
//! next, it is cut to the size of one header, so that the payload cannot spill
//! into it. A wrong guess costs a copy or a read, never correctness.

use crate::engine::Stats;
use crate::engine::scratch::Scratch;
use crate::error::{ApiMisuse, Error};
use crate::payload::PayloadSink;
use crate::types::RequestId;

/// What the bytes that come next are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something to parse; it takes at least `need` contiguous bytes.
    Parse { need: usize },
    /// `left` bytes of payload of `id`, from `at` bytes into it.
    Place { id: RequestId, at: usize, left: usize },
    /// `left` bytes nobody wants.
    Skip { left: u64 },
    /// Nothing is read until [`Intake::resume`].
    Wait,
}

/// Who understands the bytes.
pub(crate) trait Role<S: PayloadSink> {
    /// Parses the front of `bytes`, which is at least as long as was asked for
    /// and may be longer. Returns how much was consumed and what comes next.
    fn parse(&mut self, bytes: &[u8], sink: &mut S) -> Result<(usize, Step), Error>;

    /// A `Place` or `Skip` is complete.
    fn finished(&mut self, sink: &mut S) -> Result<Step, Error>;

    /// The sink has no room for payload that is wanted: it is thrown away.
    fn unplaced(&mut self, id: RequestId);

    /// `n` bytes of a payload have come, whether or not anybody wants them.
    fn payload(&mut self, n: usize);

    /// Whether payload of this request is still wanted.
    fn wants(&self, id: RequestId) -> bool;

    /// The size of the next header, if a large payload is expected behind it.
    fn large_next(&self) -> Option<usize>;
}

/// Where the next bytes go: first `payload`, then `scratch`.
#[derive(Debug)]
#[non_exhaustive]
pub struct RecvBufs<'a> {
    /// The rest of the payload that is arriving; empty if none is.
    pub payload: &'a mut [u8],
    /// Room for what follows it.
    pub scratch: &'a mut [u8],
}

impl RecvBufs<'_> {
    /// Bytes that can be received now; 0 when nothing is wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.len().saturating_add(self.scratch.len())
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(feature = "std")]
impl<'a> RecvBufs<'a> {
    /// Both parts for a vectored read, in order.
    #[must_use]
    pub fn as_io_slices(&mut self) -> [std::io::IoSliceMut<'_>; 2] {
        [std::io::IoSliceMut::new(self.payload), std::io::IoSliceMut::new(self.scratch)]
    }
}

#[derive(Debug)]
pub(crate) struct Intake {
    scratch: Scratch,
    step: Step,
    offered_payload: usize,
    offered_scratch: usize,
    pub(crate) stats: Stats,
}

impl Intake {
    pub(crate) fn new(scratch: Scratch, step: Step, stats: Stats) -> Self {
        Self { scratch, step, offered_payload: 0, offered_scratch: 0, stats }
    }

    /// Gives up the buffer with whatever is not parsed yet, for the machine that
    /// takes over.
    pub(crate) fn into_parts(self) -> (Scratch, Stats) {
        (self.scratch, self.stats)
    }

    pub(crate) const fn is_waiting(&self) -> bool {
        matches!(self.step, Step::Wait)
    }

    /// Whether bytes of an unfinished message are held or due.
    pub(crate) const fn mid_message(&self) -> bool {
        !self.scratch.is_empty() || matches!(self.step, Step::Place { .. } | Step::Skip { .. })
    }

    /// Bytes that were received but not parsed.
    pub(crate) const fn has_unparsed(&self) -> bool {
        !self.scratch.is_empty()
    }

    /// Whether what was received can be parsed on at once.
    pub(crate) fn has_parsable(&self) -> bool {
        match self.step {
            Step::Parse { need } => self.scratch.filled().len() >= need,
            Step::Place { .. } | Step::Skip { .. } => !self.scratch.is_empty(),
            Step::Wait => false,
        }
    }

    /// Room for the rest of what is to be parsed: when a large payload is expected
    /// behind it, no more than that.
    fn parse_window(&self, need: usize, header: Option<usize>) -> usize {
        let have = self.scratch.filled().len();
        match header.map(|header| header.max(need).saturating_sub(have)) {
            // What is held already reaches into the payload.
            Some(0) | None => usize::MAX,
            Some(missing) => missing,
        }
    }

    /// Stops: from now on nothing is read or parsed.
    pub(crate) const fn stop(&mut self) {
        self.step = Step::Wait;
    }

    /// Nothing can be received now.
    pub(crate) const fn no_bufs(&mut self) -> RecvBufs<'static> {
        self.offered_payload = 0;
        self.offered_scratch = 0;
        RecvBufs { payload: &mut [], scratch: &mut [] }
    }

    pub(crate) fn recv_bufs<'a, S, R>(&'a mut self, role: &R, sink: &'a mut S) -> RecvBufs<'a>
    where
        S: PayloadSink,
        R: Role<S>,
    {
        let (payload, window): (&mut [u8], usize) = match self.step {
            Step::Wait => (&mut [], 0),
            Step::Skip { .. } => (&mut [], usize::MAX),
            Step::Parse { need } => (&mut [], self.parse_window(need, role.large_next())),
            Step::Place { id, at, left } => {
                let region = if role.wants(id) { sink.region(id, at, left) } else { &mut [] };
                let room = region.len().min(left);
                let region = region.get_mut(..room).unwrap_or_default();
                if room == 0 {
                    (region, usize::MAX)
                } else if room < left {
                    // A scattered destination: more payload comes first.
                    (region, 0)
                } else {
                    (region, role.large_next().unwrap_or(usize::MAX))
                }
            }
        };
        let scratch = if window == 0 { &mut [] } else { self.scratch.window(window) };
        self.offered_payload = payload.len();
        self.offered_scratch = scratch.len();
        RecvBufs { payload, scratch }
    }

    /// The one buffer to offer to a transport without vectored reads: the
    /// destination when the rest of the payload is large, else the scratch buffer.
    pub(crate) fn recv_buf<'a, S, R>(
        &'a mut self,
        role: &R,
        sink: &'a mut S,
        direct_min: usize,
    ) -> &'a mut [u8]
    where
        S: PayloadSink,
        R: Role<S>,
    {
        if let Step::Place { id, at, left } = self.step
            && left >= direct_min
            && role.wants(id)
        {
            let region = sink.region(id, at, left);
            let room = region.len().min(left);
            if room > 0 {
                self.offered_payload = room;
                self.offered_scratch = 0;
                return region.get_mut(..room).unwrap_or_default();
            }
        }
        let window = match self.step {
            Step::Wait => 0,
            Step::Parse { need } => self.parse_window(need, role.large_next()),
            Step::Place { .. } | Step::Skip { .. } => usize::MAX,
        };
        let scratch = if window == 0 { &mut [] } else { self.scratch.window(window) };
        self.offered_payload = 0;
        self.offered_scratch = scratch.len();
        scratch
    }

    /// `n` bytes were received into what was offered last: first into the payload
    /// part, then into the scratch part.
    pub(crate) fn received<S, R>(
        &mut self,
        n: usize,
        role: &mut R,
        sink: &mut S,
    ) -> Result<(), Error>
    where
        S: PayloadSink,
        R: Role<S>,
    {
        let direct = n.min(self.offered_payload);
        let indirect = n.saturating_sub(direct);
        if indirect > self.offered_scratch {
            return Err(ApiMisuse::ReceivedTooMuch.into());
        }
        self.account(n);
        if direct > 0 {
            self.place_direct(direct);
            role.payload(direct);
        }
        self.scratch.commit(indirect);
        self.resume(role, sink)
    }

    fn account(&mut self, n: usize) {
        self.offered_payload = 0;
        self.offered_scratch = 0;
        self.stats.reads = self.stats.reads.wrapping_add(u64::from(n > 0));
        self.stats.bytes_received = self.stats.bytes_received.wrapping_add(n as u64);
    }

    fn place_direct(&mut self, n: usize) {
        if let Step::Place { at, left, .. } = &mut self.step {
            *at = at.saturating_add(n);
            *left = left.saturating_sub(n);
            self.stats.bytes_placed = self.stats.bytes_placed.wrapping_add(n as u64);
        }
    }

    /// Parses what is held, as far as it goes.
    pub(crate) fn resume<S, R>(&mut self, role: &mut R, sink: &mut S) -> Result<(), Error>
    where
        S: PayloadSink,
        R: Role<S>,
    {
        let consumed = drive(&mut self.step, &mut self.stats, role, sink, self.scratch.filled())?;
        self.scratch.consume(consumed);
        Ok(())
    }

    /// Leaves [`Step::Wait`].
    pub(crate) const fn restart(&mut self, step: Step) {
        self.step = step;
    }

    /// Takes bytes from the caller's slice; returns how many. All, unless the
    /// role waits.
    pub(crate) fn feed<S, R>(
        &mut self,
        bytes: &[u8],
        role: &mut R,
        sink: &mut S,
    ) -> Result<usize, Error>
    where
        S: PayloadSink,
        R: Role<S>,
    {
        self.offered_payload = 0;
        self.offered_scratch = 0;
        let mut rest = bytes;
        self.resume(role, sink)?;
        // A message cut by the previous delivery is completed in the scratch
        // buffer, by no more than it needs.
        while let (Step::Parse { need }, false, false) =
            (self.step, self.scratch.is_empty(), rest.is_empty())
        {
            let missing = need.saturating_sub(self.scratch.filled().len()).min(rest.len());
            let (head, tail) = rest.split_at_checked(missing).unwrap_or((rest, &[]));
            self.scratch.push(head);
            rest = tail;
            self.resume(role, sink)?;
        }
        if self.scratch.is_empty() {
            let consumed = drive(&mut self.step, &mut self.stats, role, sink, rest)?;
            rest = rest.get(consumed..).unwrap_or_default();
            if matches!(self.step, Step::Parse { .. }) {
                let pushed = self.scratch.push(rest);
                rest = rest.get(pushed..).unwrap_or_default();
            }
        }
        let taken = bytes.len().saturating_sub(rest.len());
        self.stats.reads = self.stats.reads.wrapping_add(1);
        self.stats.bytes_received = self.stats.bytes_received.wrapping_add(taken as u64);
        Ok(taken)
    }
}

/// Runs the steps over `bytes` as far as they reach; returns how much was used.
fn drive<S, R>(
    step: &mut Step,
    stats: &mut Stats,
    role: &mut R,
    sink: &mut S,
    bytes: &[u8],
) -> Result<usize, Error>
where
    S: PayloadSink,
    R: Role<S>,
{
    let mut rest = bytes;
    loop {
        match step {
            Step::Place { left: 0, .. } | Step::Skip { left: 0 } => *step = role.finished(sink)?,
            Step::Parse { need } if rest.len() >= *need => {
                let (consumed, next) = role.parse(rest, sink)?;
                debug_assert!(
                    consumed > 0 || *step != next || next == Step::Wait,
                    "a role must make progress"
                );
                rest = rest.get(consumed..).unwrap_or_default();
                *step = next;
            }
            Step::Place { id, at, left } if !rest.is_empty() => {
                let mut n = (*left).min(rest.len());
                if role.wants(*id) {
                    let region = sink.region(*id, *at, *left);
                    let room = region.len().min(n);
                    if room == 0 {
                        role.unplaced(*id);
                    } else {
                        n = room;
                        if let (Some(to), Some(from)) = (region.get_mut(..n), rest.get(..n)) {
                            to.copy_from_slice(from);
                        }
                        stats.bytes_copied = stats.bytes_copied.wrapping_add(n as u64);
                    }
                }
                *at = at.saturating_add(n);
                *left = left.saturating_sub(n);
                rest = rest.get(n..).unwrap_or_default();
                role.payload(n);
            }
            Step::Skip { left } if !rest.is_empty() => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left = left.saturating_sub(n as u64);
                rest = rest.get(n..).unwrap_or_default();
            }
            Step::Parse { .. } | Step::Place { .. } | Step::Skip { .. } | Step::Wait => {
                return Ok(bytes.len().saturating_sub(rest.len()));
            }
        }
    }
}
