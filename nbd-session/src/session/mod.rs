//! One session: everything that a client is, but for waiting.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the session, and what it keeps |
//! | `state` | what it is doing, and what it is connected to |
//! | `step` | what it asks its adapter to do |
//! | `attempts` | which target, when, with what |
//! | `connecting` | from a step to a connection that is ready |
//! | `choosing` | option requests |
//! | `request` | a command with what goes with it, and what came of it |
//! | `calls` | from a command to the connection |
//! | `completions` | from what came of it to whoever waits |
//! | `withdrawal` | commands that nobody waits for any more |
//! | `bytes` | reading and writing |
//! | `loss` | what follows from the end of a connection |
//! | `recovery` | what outlives it |
//! | `time` | deadlines |
//! | `silence`, `keep_alive` | the server's silence, and ours |
//! | `outflow` | what leaves, and what that says about the server |
//! | `durability` | what an acknowledged write is worth |
//! | `payload` | where payload is found |

mod attempts;
mod bytes;
mod calls;
mod choosing;
mod completions;
mod connecting;
mod durability;
mod keep_alive;
mod loss;
mod outflow;
mod payload;
mod recovery;
mod request;
mod room;
mod silence;
mod state;
mod step;
mod time;
mod withdrawal;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use nbd_proto::{
    Client, Details, Direction, Disconnect, Machine, Negotiated, Negotiation, RequestId,
    RequestStatus, StrictMode,
};

use crate::error::Error;
use crate::event::{Event, SessionStats};
use crate::link::Link;
use crate::options::ConnectOptions;
use crate::replay::RecoveryError;
use crate::timers::{Timer, Timers};
use crate::waiters::Waiters;

use attempts::Attempts;
use choosing::Negotiating;
use durability::Durability;
use keep_alive::KeepAlive;
use payload::HalfSentWrite;
use recovery::Recovery;
use room::GivenUp;
use silence::Silence;

pub use choosing::{OptionReply, OptionRequest};
pub use request::{Completion, Request};
pub use state::State;
pub use step::{Connect, Step};
pub use withdrawal::Withdrawn;

/// One connection to an export, from dialling to goodbye, and over again after a loss.
///
/// It is to a client what [`nbd_proto::Client`] is to the wire: everything but waiting. It
/// opens no socket, reads no clock, starts nothing and stores no payload; an adapter does what
/// it [asks for](Self::next_step), moves the bytes, sleeps, and hands out results. All that
/// could be decided differently is decided here.
///
/// | it is told | by |
/// |---|---|
/// | the outcome of a step | [`credentials`](Self::credentials), [`connected`](Self::connected) |
/// | a command | [`submit`](Self::submit), [`submit_request`](Self::submit_request), [`withdraw`](Self::withdraw) |
/// | an option | [`request_option`](Self::request_option) |
/// | the transport is readable or writable | [`read`](Self::read), [`write`](Self::write); [`fill`](Self::fill) and [`sent`](Self::sent) |
/// | the time | `now` with each of them, [`handle_timeout`](Self::handle_timeout) |
/// | the end is wanted | [`disconnect`](Self::disconnect) |
///
/// | it answers | by |
/// |---|---|
/// | what to do | [`next_step`](Self::next_step) |
/// | what to wait for | [`direction`](Self::direction), [`needs_drive`](Self::needs_drive), [`next_deadline`](Self::next_deadline) |
/// | what is finished | [`next_completion`](Self::next_completion), [`take`](Self::take), [`take_option`](Self::take_option), [`next_admission`](Self::next_admission), [`next_released`](Self::next_released) |
/// | what happened | [`state`](Self::state), [`end`](Self::end), [`next_event`](Self::next_event), [`stats`](Self::stats) |
///
/// # A turn
///
/// 1. `now` is read once. If [`next_deadline`](Self::next_deadline) has come,
///    [`handle_timeout`](Self::handle_timeout).
/// 2. [`next_step`](Self::next_step) until there is none: `Close` and `Connect` are about the
///    stream.
/// 3. While [`direction`](Self::direction) has `WRITE`, [`write`](Self::write), until it makes
///    no progress. Then [`read`](Self::read), as often as there may be something.
/// 4. Completions are handed out.
/// 5. If it [`needs_drive`](Self::needs_drive), the next turn follows at once; else when the
///    stream is ready in the [`direction`](Self::direction) or the deadline has come.
///
/// Any call is legal at any time. Driving never fails: an error is a lost connection, and what
/// follows from that is decided here. Events of a stream that was closed may come late; they
/// are hints and do no harm.
///
/// # Identifiers
///
/// A command's id is valid from its submission until its completion is taken, or it is
/// withdrawn and its payload released. Its [slot](RequestId::slot) is small and dense and
/// belongs to it for as long, so side tables (buffers, wakers) are indexed by it: see
/// [`Buffers`](nbd_proto::Buffers).
///
/// # Example
///
/// An adapter for a stream that waits by itself, such as a pipe in memory:
///
/// ```
/// use nbd_proto::{Command, Direction, Discard, ReadInto};
/// use nbd_proto::io::IoMode;
/// use nbd_session::{ConnectOptions, Limit, Session, Step, Target};
/// use nbd_sim::memory_server::{MemoryServer, MemoryStream};
/// use std::time::Instant;
///
/// let options = ConnectOptions::new().target(Target::Dialler);
/// let mut session = Session::new(options, 1, Instant::now())?;
/// let mut stream = MemoryStream::new(MemoryServer::new(vec![7; 4096]));
/// while !session.is_ready() {
///     let now = Instant::now();
///     while let Some(step) = session.next_step() {
///         if let Step::Connect(connect) = step {
///             session.connected(connect.generation, Ok(IoMode::Vectored), now);
///         }
///     }
///     if session.direction().contains(Direction::WRITE) {
///         session.write(&mut stream, &mut Discard, now);
///     }
///     session.read(&mut stream, &mut Discard, now);
/// }
///
/// let mut buffer = [0; 512];
/// let now = Instant::now();
/// let id = session.submit(Command::read(0, 512), Limit::Default, now)?;
/// # struct Lent<'a>(ReadInto<'a>);
/// # impl nbd_proto::PayloadSink for Lent<'_> {
/// #     fn region(&mut self, id: nbd_proto::RequestId, at: usize, len: usize) -> &mut [u8] {
/// #         self.0.region(id, at, len)
/// #     }
/// # }
/// # impl nbd_proto::PayloadSource for Lent<'_> {
/// #     fn bytes(&self, _: nbd_proto::RequestId, _: usize, _: usize) -> &[u8] { &[] }
/// # }
/// let mut lent = Lent(ReadInto { id, buffer: &mut buffer });
/// let done = loop {
///     session.write(&mut stream, &mut lent, now);
///     session.read(&mut stream, &mut lent, now);
///     if let Some(done) = session.take(id) {
///         break done;
///     }
/// };
/// done.result?;
/// assert_eq!(buffer, [7; 512]);
/// # Ok::<(), nbd_session::Error>(())
/// ```
pub struct Session {
    stage: Stage,
    timers: Timers,
    /// Commands whose time is over, with when it began, and whose completion was not taken.
    late: VecDeque<Timer>,
    /// What replies told besides payload.
    details: Details,
    /// Some read was to report its parts.
    reports_chunks: bool,
    leaving: Option<HalfSentWrite>,
    /// Payload that is free, and of which nobody has been told.
    released: Vec<RequestId>,
    silence: Silence,
    keep_alive: Option<KeepAlive>,
    durability: Durability,
    waiters: Waiters,
    given_up: GivenUp,
    /// Only if it reconnects.
    recovery: Option<Box<Recovery>>,
    /// The stream takes no more.
    refused: bool,
    /// In which direction there was more to move at once.
    again: Direction,
    goodbye: Goodbye,
    /// Nothing more will be sent on this connection: until when the server's end is waited for.
    linger: Option<Instant>,
    end: Option<End>,
    attempts: Box<Attempts>,
    stats: Box<SessionStats>,
    /// What callers were told of the server.
    facts: Option<Arc<Negotiated>>,
    export_name: String,
    strict: Option<StrictMode>,
    /// Most commands in flight.
    capacity: usize,
}

#[expect(clippy::large_enum_variant, reason = "the large one is on the way of every byte")]
enum Stage {
    /// For the time of the next attempt.
    Waiting(Instant),
    /// For credentials to be read.
    Credentials,
    Connecting,
    Negotiating(Box<Negotiating>),
    /// Also when it is over, for completions that were not taken.
    Open(Open),
    Over,
}

/// A connection in its data phase.
struct Open {
    core: Client,
    link: Link,
}

/// Whether the end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    No,
    Wanted {
        when: Disconnect,
        /// When that has taken too long.
        by: Option<Instant>,
        since: Instant,
    },
}

/// Why it is over.
#[derive(Clone, Debug)]
struct End {
    cause: Error,
    /// What to tell whoever asked for the end.
    farewell: Result<(), Error>,
    /// Somebody had asked.
    wanted: bool,
}

impl Session {
    /// Begins to connect. `seed` is to be different in each session: it spreads the attempts
    /// of many clients, so that they do not come back in step.
    ///
    /// # Errors
    /// When a name is too long or contains NUL, there is nobody to connect to, or a connection
    /// that was handed over is to be made again and there is no server to do so.
    pub fn new(options: ConnectOptions, seed: u64, now: Instant) -> Result<Self, Error> {
        crate::Handshake::new(options.config.clone())?;
        if options.ways() == 0 && !options.given {
            let missing = std::io::ErrorKind::InvalidInput;
            return Err(std::io::Error::new(missing, "there is nobody to connect to").into());
        }
        if options.ways() == 0 && options.reconnect.is_some() {
            return Err(RecoveryError::NoWayBack.into());
        }
        let mut session = Self {
            stage: Stage::Over,
            timers: Timers::default(),
            late: VecDeque::new(),
            details: Details::new(),
            reports_chunks: false,
            leaving: None,
            released: Vec::new(),
            silence: Silence::new(options.silence_limit(), options.keep_alive, now),
            keep_alive: options.keep_alive.map(|time| KeepAlive::new(time, now)),
            durability: Durability::default(),
            waiters: Waiters::default(),
            given_up: GivenUp::default(),
            recovery: options.reconnect.map(|policy| Box::new(Recovery::new(policy, now))),
            refused: false,
            again: Direction::empty(),
            goodbye: Goodbye::No,
            linger: None,
            end: None,
            stats: Box::default(),
            facts: None,
            export_name: String::new(),
            strict: None,
            capacity: 0,
            attempts: Box::new(Attempts::new(options, seed, now)),
        };
        session.begin_attempt(now);
        Ok(session)
    }

    /// For adapters whose reads wait: the time that [`read`](Self::read) is told is that of its
    /// beginning then, and what it brings may have come later.
    pub const fn reads_wait(&mut self, wait: bool) {
        self.silence.waits = wait;
    }

    /// Its name: the one that was [given](ConnectOptions::name), or `nbd1`, `nbd2` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.attempts.trace.name
    }

    /// What it was told to do.
    #[must_use]
    pub const fn options(&self) -> &ConnectOptions {
        &self.attempts.options
    }

    /// The negotiation under way, for questions.
    #[must_use]
    pub fn negotiation(&self) -> Option<&Negotiation> {
        match &self.stage {
            Stage::Negotiating(negotiating) => Some(negotiating.handshake.peek()),
            _ => None,
        }
    }

    /// The protocol machine of this connection, for questions. Its ids are the session's own
    /// only where it does not reconnect.
    #[must_use]
    pub const fn core(&self) -> Option<&Client> {
        match &self.stage {
            Stage::Open(open) => Some(&open.core),
            _ => None,
        }
    }

    /// Changes the checks made before a command is sent, on this connection and later ones.
    pub fn set_strict(&mut self, mode: StrictMode) {
        self.strict = Some(mode);
        if let Stage::Open(open) = &mut self.stage {
            open.core.set_strict(mode);
        }
    }

    /// What it has done so far.
    #[must_use]
    #[doc(alias(
        "nbd_stats_bytes_sent",
        "nbd_stats_chunks_sent",
        "nbd_stats_bytes_received",
        "nbd_stats_chunks_received"
    ))]
    pub fn stats(&self) -> SessionStats {
        let mut stats = *self.stats;
        stats.probes = self.keep_alive.as_ref().map_or(0, |probe| probe.count);
        match &self.stage {
            Stage::Open(open) => stats.wire += *open.core.stats(),
            Stage::Negotiating(negotiating) => {
                stats.wire += *negotiating.handshake.stats();
            }
            _ => {}
        }
        stats
    }

    /// The next thing that happened to the connection, where it is made again after a loss. At
    /// most 64 are kept; to be told to an observer when no lock is held.
    pub fn next_event(&mut self) -> Option<Event> {
        self.attempts.next_event()
    }

    /// What to wait for on the stream; nothing while there is none, while an option is to be
    /// chosen, and when it is over.
    #[must_use]
    #[inline]
    pub fn direction(&self) -> Direction {
        match &self.stage {
            Stage::Open(open) => open.link.direction(&open.core),
            Stage::Negotiating(negotiating) => negotiating.handshake.direction(),
            _ => Direction::empty(),
        }
    }

    /// Whether there is something to do right now of which no event of the stream tells: a
    /// step, bytes that were received or decrypted and not taken in, or a budget that was used
    /// up.
    #[must_use]
    #[inline]
    pub fn needs_drive(&self) -> bool {
        !self.again.is_empty()
            || self.attempts.has_step()
            || match &self.stage {
                Stage::Open(open) => open.link.is_behind() || open.core.has_buffered(),
                Stage::Negotiating(negotiating) => negotiating.has_buffered(),
                _ => false,
            }
    }

    /// Which connection this is, from 1. Grows with each attempt to connect.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.attempts.generation
    }

    /// Commands whose completion was not taken.
    #[must_use]
    #[inline]
    pub fn in_flight(&self) -> usize {
        match (&self.recovery, &self.stage) {
            (Some(recovery), _) => recovery.used(),
            (None, Stage::Open(open)) => {
                let probe = self.keep_alive.as_ref().is_some_and(KeepAlive::is_asking);
                let all = open.core.in_flight() + open.core.completed();
                all.saturating_sub(open.core.outstanding().abandoned + usize::from(probe))
            }
            (None, _) => 0,
        }
    }

    /// The most commands that can be in flight, once the export is ready.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// What is known about a command.
    #[must_use]
    pub fn status(&self, id: RequestId) -> RequestStatus {
        match (&self.recovery, &self.stage) {
            (Some(recovery), _) => match recovery.get(id) {
                Some(open) if open.outcome.is_some() => RequestStatus::Completed,
                Some(_) => RequestStatus::InFlight,
                None if recovery.is_retired(id) => RequestStatus::Retired,
                None => RequestStatus::Unknown,
            },
            (None, _) if self.late.iter().any(|timer| timer.id == id) => RequestStatus::Completed,
            (None, Stage::Open(open)) => open.core.status(id),
            (None, _) => RequestStatus::Unknown,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("state", &self.state_name())
            .field("generation", &self.generation())
            .field("in_flight", &self.in_flight())
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}
