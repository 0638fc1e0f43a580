//! A stream that does something else at one of its calls.
//!
//! A wrapper for any stream: everything goes through but for the `n`th read, write or
//! flush, at which it says that nothing was moved, lies about how much was, or fails with
//! an error of any kind; once, or from then on.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nbd_proto::io::is_gone;

/// A call to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `read` or `read_vectored`.
    Read,
    /// `write` or `write_vectored`.
    Write,
    /// `flush`.
    Flush,
}

/// What a stream does in place of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Says that nothing was moved, and moves nothing.
    Nothing,
    /// Says that one byte more was moved than it was offered.
    Lie,
    /// Says that all the bytes of the world were moved.
    WildLie,
    /// Fails.
    Error(ErrorKind),
}

impl Mischief {
    /// All of it, with errors of kinds that are treated alike and of kinds that are not.
    pub const ALL: [Self; 13] = [
        Self::Nothing,
        Self::Lie,
        Self::WildLie,
        Self::Error(ErrorKind::WouldBlock),
        Self::Error(ErrorKind::Interrupted),
        Self::Error(ErrorKind::ConnectionReset),
        Self::Error(ErrorKind::BrokenPipe),
        Self::Error(ErrorKind::TimedOut),
        Self::Error(ErrorKind::UnexpectedEof),
        Self::Error(ErrorKind::Other),
        Self::Error(ErrorKind::OutOfMemory),
        Self::Error(ErrorKind::PermissionDenied),
        Self::Error(ErrorKind::InvalidInput),
    ];
}

/// When a stream does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// At which kind of call.
    pub call: Call,
    /// At which of them, from 1.
    pub nth: usize,
    /// What it does.
    pub mischief: Mischief,
    /// It does so at all the later ones too.
    pub lasting: bool,
}

/// What a stream is up to, and what it has done. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    reads: usize,
    writes: usize,
    flushes: usize,
    struck: bool,
    broken: bool,
}

impl Trouble {
    /// None at all, to count calls.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// What a plan says.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self(Arc::new(Mutex::new(State { plan: Some(plan), ..State::default() })))
    }

    /// What it is up to from now on.
    pub fn plan(&self, plan: Plan) {
        self.lock().plan = Some(plan);
    }

    /// Whether the time has come and gone.
    #[must_use]
    pub fn has_struck(&self) -> bool {
        self.lock().struck
    }

    /// Whether it has said that nobody takes any more bytes, so that its end is near.
    #[must_use]
    pub fn has_broken(&self) -> bool {
        self.lock().broken
    }

    /// How many calls of a kind there were.
    #[must_use]
    pub fn calls(&self, call: Call) -> usize {
        let state = self.lock();
        match call {
            Call::Read => state.reads,
            Call::Write => state.writes,
            Call::Flush => state.flushes,
        }
    }

    /// Counts a call that was offered this many bytes, and says what it comes to, unless
    /// it goes through.
    #[must_use]
    pub fn strike(&self, call: Call, offered: usize) -> Option<io::Result<usize>> {
        let mut state = self.lock();
        let count = match call {
            Call::Read => &mut state.reads,
            Call::Write => &mut state.writes,
            Call::Flush => &mut state.flushes,
        };
        *count += 1;
        let count = *count;
        let plan = state.plan.filter(|plan| {
            plan.call == call && (count == plan.nth || plan.lasting && count > plan.nth)
        })?;
        state.struck = true;
        let gone = matches!(plan.mischief, Mischief::Error(kind) if is_gone(kind));
        state.broken |= call != Call::Read && gone;
        Some(match plan.mischief {
            Mischief::Nothing => Ok(0),
            Mischief::Lie => Ok(offered + 1),
            Mischief::WildLie => Ok(usize::MAX),
            Mischief::Error(kind) => Err(kind.into()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plans for every call of a session of which `calls` has counted the calls.
pub fn plans(calls: &Trouble, kinds: &[Call]) -> Vec<Plan> {
    let mut plans = Vec::new();
    for call in kinds.iter().copied() {
        // One more than there were shows that plans are counted right.
        for nth in 1..=calls.calls(call) + 1 {
            for mischief in Mischief::ALL {
                for lasting in [false, true] {
                    plans.push(Plan { call, nth, mischief, lasting });
                }
            }
        }
    }
    plans
}

impl Plan {
    /// Whether a session goes on as if nothing had happened, on a stream whose callers try
    /// again when it would block.
    #[must_use]
    pub const fn is_harmless(&self) -> bool {
        let passing = matches!(
            self.mischief,
            Mischief::Error(ErrorKind::Interrupted | ErrorKind::WouldBlock)
        );
        let flushed = matches!(self.call, Call::Flush)
            && matches!(self.mischief, Mischief::Nothing | Mischief::Lie | Mischief::WildLie);
        passing && !self.lasting || flushed
    }

    /// Whether an error says who erred and how: the stream, with its own error at hand, or
    /// the peer when the stream has said that it is gone.
    #[cfg(feature = "adapters")]
    #[must_use]
    pub fn explains(&self, error: &nbd_session::Error) -> bool {
        let source = std::error::Error::source(error);
        let cause = source.and_then(|source| source.downcast_ref::<io::Error>());
        // When nothing was asked, an end is no fault.
        let closed = error.is_closed() && cause.is_none();
        let failed = |kind| cause.is_some_and(|cause| cause.kind() == kind);
        match (self.mischief, self.call) {
            (Mischief::Nothing, Call::Read) => closed,
            (Mischief::Nothing, Call::Write | Call::Flush) => failed(ErrorKind::WriteZero),
            (Mischief::Lie | Mischief::WildLie, _) => failed(ErrorKind::InvalidData),
            // Nobody says when it would not.
            (Mischief::Error(ErrorKind::WouldBlock), _) => failed(ErrorKind::Other),
            // The peer may have said all there is to say.
            (Mischief::Error(kind), Call::Write | Call::Flush) if is_gone(kind) => {
                closed || cause.is_some_and(|cause| is_gone(cause.kind()))
            }
            (Mischief::Error(kind), _) => failed(kind),
        }
    }
}

/// A stream in trouble.
#[derive(Debug)]
pub struct Troubled<S> {
    inner: S,
    trouble: Trouble,
}

impl<S> Troubled<S> {
    /// Wraps a stream.
    pub const fn new(inner: S, trouble: Trouble) -> Self {
        Self { inner, trouble }
    }

    /// The stream that was wrapped.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Read> Read for Troubled<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.trouble.strike(Call::Read, buf.len()) {
            Some(result) => result,
            None => self.inner.read(buf),
        }
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self.trouble.strike(Call::Read, bufs.iter().map(|buf| buf.len()).sum()) {
            Some(result) => result,
            None => self.inner.read_vectored(bufs),
        }
    }
}

impl<S: Write> Write for Troubled<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.trouble.strike(Call::Write, buf.len()) {
            Some(result) => result,
            None => self.inner.write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.trouble.strike(Call::Write, bufs.iter().map(|buf| buf.len()).sum()) {
            Some(result) => result,
            None => self.inner.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.trouble.strike(Call::Flush, 0) {
            Some(result) => result.map(drop),
            None => self.inner.flush(),
        }
    }
}
