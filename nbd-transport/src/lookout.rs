//! Whether to look again before going to sleep.

use nbd_proto::{Machine, Stats};
use std::hint;
use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::time::{Duration, Instant};

/// So long a quick server is waited for awake.
const AWAKE: Duration = Duration::from_micros(20);

/// The time between two looks. Each of them is a system call, and holds the server up when it
/// wants to send just then.
const GAP: Duration = Duration::from_micros(3);

/// Of so few replies each is waited for, however small.
const FEW: usize = 8;

/// A reply of so many bytes is taken in piece by piece, while the rest of it is sent.
const LARGE: u64 = 16 << 10;

/// Most waits in a row at which it is not looked out for a server that was slow before.
const MOST_OMITTED: u32 = 63;

/// Looks out for what is about to come.
///
/// Who sleeps has to be woken by who sends. That takes a server as long as sending some ten
/// thousand bytes, and where the next part of a reply has room only when this one has been taken
/// in, it waits for the one whom it has just woken. So a client that knows of a quick server
/// stays awake for a moment:
///
/// ```text
///   server   ──send──────send──────send──────►        ──send──wake────────send──wake──►
///   client   ···look··take·look··take··look··          ──sleep───take──sleep────take──
/// ```
///
/// Of a slow server that is not worth the time. After each moment in vain twice as many waits
/// pass before the next one. And many small replies had better gather while the client sleeps.
#[derive(Debug, Default)]
pub(crate) struct Lookout {
    /// Waits to be passed over after the last moment in vain.
    interval: u32,
    /// How many of them are left.
    omitted: u32,
}

impl Lookout {
    pub(crate) const fn new() -> Self {
        Self { interval: 0, omitted: 0 }
    }

    /// Begins to look out, if that is worth it.
    pub(crate) fn begin<M: Machine>(&mut self, machine: &M) -> Option<Moment> {
        let awaited = machine.awaited();
        if awaited == 0 || (awaited > FEW && !has_large_replies(machine.stats())) {
            return None;
        }
        if self.omitted > 0 {
            self.omitted -= 1;
            return None;
        }
        Some(Moment { end: Instant::now() + AWAKE })
    }

    /// Something has come in time, or nothing.
    pub(crate) fn end(&mut self, in_time: bool) {
        self.interval = if in_time { 0 } else { MOST_OMITTED.min(self.interval * 2 + 1) };
        self.omitted = self.interval;
    }
}

/// Whether replies are large, all in all.
const fn has_large_replies(stats: &Stats) -> bool {
    stats.bytes_received / LARGE >= stats.messages_received
}

/// A moment of looking out.
pub(crate) struct Moment {
    end: Instant,
}

impl Moment {
    /// Waits until it is time for the next look. False when it was the last one.
    pub(crate) fn go_on(&self) -> bool {
        let begin = Instant::now();
        if begin >= self.end {
            return false;
        }
        while begin.elapsed() < GAP {
            hint::spin_loop();
        }
        true
    }
}

/// A stream, and whether it had anything to read.
pub(crate) struct Tried<'a, R: ?Sized> {
    io: &'a mut R,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    NotAsked,
    /// There was nothing.
    Starved,
    /// There was something, or its end.
    Fed,
}

impl<'a, R: Read + ?Sized> Tried<'a, R> {
    pub(crate) const fn new(io: &'a mut R) -> Self {
        Self { io, outcome: Outcome::NotAsked }
    }

    fn note(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        self.outcome = match &result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Outcome::Starved,
            _ => Outcome::Fed,
        };
        result
    }

    pub(crate) const fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl<R: Read + ?Sized> Read for Tried<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.io.read(buf);
        self.note(result)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let result = self.io.read_vectored(bufs);
        self.note(result)
    }
}
