//! One session: everything that a client is, but for waiting.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the session, and what can be asked of it |
//! | `step` | what it asks its adapter to do |
//! | `way` | which target, when, with what |
//! | `connecting` | from a step to a connection that is ready |
//! | `choosing` | option requests |
//! | `calls` | from a command to its completion |
//! | `withdrawal` | commands that nobody waits for any more |
//! | `bytes` | reading and writing |
//! | `loss` | what follows from the end of a connection |
//! | `lasting` | what outlives it |
//! | `time` | deadlines |
//! | `quiet`, `probe` | the server's silence, and ours |
//! | `durability` | what an acknowledged write is worth |
//! | `ports` | where payload is found |

mod bytes;
mod calls;
mod choosing;
mod connecting;
mod durability;
mod lasting;
mod loss;
mod ports;
mod probe;
mod quiet;
mod step;
mod time;
mod way;
mod withdrawal;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use nbd_proto::{
    Client, ContextId, Details, Direction, Disconnect, ExportInfo, Machine, Negotiated,
    Negotiation, RequestId, RequestStatus, StrictMode,
};
use nbd_transport::tls::TlsInfo;
use nbd_transport::{Endpoint, NbdUri, UriError};

use crate::error::Error;
use crate::event::{Event, SessionStats};
use crate::line::Line;
use crate::link::Link;
use crate::options::{ConnectOptions, Target};
use crate::replay::RecoveryError;
use crate::timers::{Timer, Timers};

use choosing::Negotiating;
use durability::Durability;
use lasting::Lasting;
use ports::Leaving;
use probe::Probe;
use quiet::Quiet;
use way::Way;

pub use calls::{Completion, Request};
pub use choosing::{OptionReply, OptionRequest};
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
/// | the transport is readable or writable | [`read`](Self::read), [`write`](Self::write) |
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
/// [`Buffers`].
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
    leaving: Option<Leaving>,
    /// Payload that is free, and of which nobody has been told.
    released: Vec<RequestId>,
    quiet: Quiet,
    probe: Option<Probe>,
    durability: Durability,
    line: Line,
    /// Only if it reconnects.
    lasting: Option<Box<Lasting>>,
    /// The last write found no room.
    stuck: bool,
    /// The stream takes no more.
    refused: bool,
    /// In which direction there was more to move at once.
    again: Direction,
    goodbye: Goodbye,
    /// Nothing more will be sent on this connection: until when the server's end is waited for.
    linger: Option<Instant>,
    end: Option<End>,
    way: Box<Way>,
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
}

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[doc(alias = "nbd_connection_state")]
pub enum State {
    /// There is no server yet.
    #[doc(alias = "nbd_aio_is_connecting")]
    Connecting,
    /// Waiting for the server's answer to an option.
    Negotiating,
    /// Option mode: the caller chooses what comes next, by
    /// [`Session::request_option`].
    #[doc(alias = "nbd_aio_is_negotiating")]
    Choosing,
    /// Commands are accepted, and sent.
    #[doc(alias = "nbd_aio_is_ready")]
    Ready,
    /// The connection is lost. Commands are accepted, and wait for another one.
    Reconnecting,
    /// The end was asked for; the last replies are waited for, and the server's end.
    Disconnecting,
    /// Over. Completions can still be taken.
    #[doc(alias = "nbd_aio_is_closed")]
    Closed,
}

/// A word for people: "ready".
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Negotiating => "negotiating",
            Self::Choosing => "choosing",
            Self::Ready => "ready",
            Self::Reconnecting => "reconnecting",
            Self::Disconnecting => "disconnecting",
            Self::Closed => "closed",
        })
    }
}

impl Session {
    /// Begins to connect. `seed` is to be different in each session: it spreads the attempts
    /// of many clients, so that they do not come back in step.
    ///
    /// # Errors
    /// When a name is too long or contains NUL, there is nobody to connect to, or a connection
    /// that was handed over is to be made again.
    pub fn new(options: ConnectOptions, seed: u64, now: Instant) -> Result<Self, Error> {
        crate::Handshake::new(options.config.clone())?;
        if options.targets.is_empty() {
            let missing = std::io::ErrorKind::InvalidInput;
            return Err(std::io::Error::new(missing, "there is nobody to connect to").into());
        }
        let given = options.targets.iter().any(|target| matches!(target, Target::Given));
        if options.reconnect.is_some() && given {
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
            quiet: Quiet::new(options.silence_limit(), now),
            probe: options.keep_alive.map(|time| Probe::new(time, now)),
            durability: Durability::default(),
            line: Line::default(),
            lasting: options.reconnect.map(|policy| Box::new(Lasting::new(policy, now))),
            stuck: false,
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
            way: Box::new(Way::new(options, seed, now)),
        };
        session.begin_attempt(now);
        Ok(session)
    }

    /// For adapters whose reads wait: the time that [`read`](Self::read) is told is that of its
    /// beginning then, and what it brings may have come later.
    pub const fn reads_wait(&mut self, wait: bool) {
        self.quiet.waits = wait;
    }

    /// Its name: the one that was [given](ConnectOptions::name), or `nbd1`, `nbd2` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.way.trace.name
    }

    /// What it was told to do.
    #[must_use]
    pub const fn options(&self) -> &ConnectOptions {
        &self.way.options
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        if self.end.is_some() {
            return State::Closed;
        }
        let ending = self.goodbye != Goodbye::No;
        match &self.stage {
            Stage::Over => State::Closed,
            _ if ending => State::Disconnecting,
            Stage::Open(_) => State::Ready,
            _ if self.is_ready() => State::Reconnecting,
            Stage::Negotiating(negotiating) if negotiating.is_choosing() => State::Choosing,
            Stage::Negotiating(_) => State::Negotiating,
            Stage::Waiting(_) | Stage::Credentials | Stage::Connecting => State::Connecting,
        }
    }

    /// The state in words, for diagnostics only.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match (&self.stage, self.state()) {
            (Stage::Open(open), State::Ready | State::Disconnecting) => open.core.state_name(),
            (_, State::Connecting) => "connecting",
            (_, State::Negotiating) => "negotiating",
            (_, State::Choosing) => "waiting for an option to be chosen",
            (_, State::Ready) => "ready",
            (_, State::Reconnecting) => "reconnecting",
            (_, State::Disconnecting) => "disconnecting",
            (_, State::Closed) => "closed",
        }
    }

    /// Whether the export is there: commands are accepted, even if they have to wait for
    /// another connection.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.end.is_none() && self.facts.is_some()
    }

    /// Whether it is over. Completions can still be taken.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Why it is over, if it is: told to every call that was under way, and to those that come
    /// later.
    #[must_use]
    #[doc(alias = "nbd_aio_is_dead")]
    pub fn end(&self) -> Option<&Error> {
        self.end.as_ref().map(|end| &end.cause)
    }

    /// Once it is [over](Self::is_over), what to tell whoever asked for the end: that all is
    /// well; or why it is not certain that everything which was acknowledged or under way has
    /// been done, and made durable where the server can.
    ///
    /// # Errors
    /// When the connection died with commands under way, or after writes that were not flushed;
    /// when the end took longer than its limit.
    pub fn farewell(&self) -> Result<(), Error> {
        match &self.end {
            None => Ok(()),
            Some(end) => end.farewell.clone(),
        }
    }

    /// What was negotiated, as callers were told first: later connections agree with it, or are
    /// refused. Only the size may grow, where the
    /// [policy](crate::replay::Reconnect::allow_growth) says so. `None` before the export is
    /// ready.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.facts.as_ref()
    }

    /// The export, once it is ready.
    #[must_use]
    pub fn export(&self) -> Option<&ExportInfo> {
        self.facts.as_ref()?.export.as_ref()
    }

    /// The name of the export that was asked for. What the server calls it is in
    /// [`ExportInfo::canonical_name`].
    #[must_use]
    #[doc(alias = "nbd_get_export_name")]
    pub fn export_name(&self) -> &str {
        &self.export_name
    }

    /// The number of a meta context, if it was asked for and granted.
    #[must_use]
    pub fn context(&self, name: &str) -> Option<ContextId> {
        let contexts = &self.facts.as_ref()?.contexts;
        let found = contexts.iter().find(|context| context.name == name)?;
        Some(ContextId(found.id))
    }

    /// The longest read or write to be sent as one command, in bytes; longer ones are split.
    /// Whole blocks, so that what follows a piece stays aligned.
    #[must_use]
    #[doc(alias = "nbd_get_block_size")]
    pub fn max_request(&self) -> usize {
        /// What a server takes that tells no maximum (proto.md, "Size constraints").
        const DEFAULT: u64 = 32 << 20;
        let Some(export) = self.export() else { return DEFAULT as usize };
        let told = export.block_sizes.map(|sizes| u64::from(sizes.maximum));
        let maximum = told.map_or(DEFAULT, |maximum| maximum.min(DEFAULT));
        let block = u64::from(export.minimum_block()).max(1);
        (maximum - maximum % block).max(block) as usize
    }

    /// What was agreed on for TLS, if it is in use on this connection.
    #[must_use]
    #[doc(alias = "nbd_get_tls_negotiated")]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        match &self.stage {
            Stage::Negotiating(negotiating) => negotiating.handshake.tls_info(),
            Stage::Open(open) => open.link.tls_info(),
            _ => None,
        }
    }

    /// A URI that leads to the same export, with the same credentials for TLS as long as those
    /// came from a URI. `peer` is what the stream is connected to, if that has a name.
    ///
    /// What was connected to comes first, because a host name says more than the address it
    /// was resolved to.
    ///
    /// # Errors
    /// [`UriError::NoUri`] when the server has no address: a program that speaks on its
    /// standard input and output, or a socket of another kind that was handed over.
    pub fn to_uri(&self, peer: Option<&Endpoint>) -> Result<NbdUri, UriError> {
        let tls = self.facts.as_ref().is_some_and(|facts| facts.tls);
        let nameless = |what: &dyn fmt::Display| UriError::NoUri(what.to_string());
        let uri = match (self.options().given_uri(), self.way.target()) {
            (Some(uri), Some(Target::Endpoint(endpoint))) if *endpoint == uri.endpoint() => {
                let again = NbdUri::new(uri.address().clone(), tls || uri.tls_required())?
                    .with_tls(uri.tls().clone())?;
                match uri.username() {
                    Some(name) => again.with_username(name)?,
                    None => again,
                }
            }
            (
                _,
                Some(Target::Endpoint(
                    endpoint @ (Endpoint::Command(_) | Endpoint::SocketActivation(_)),
                )),
            ) => NbdUri::from_endpoint(peer.ok_or_else(|| nameless(endpoint))?, tls)?,
            (_, Some(Target::Endpoint(endpoint))) => NbdUri::from_endpoint(endpoint, tls)?,
            (_, Some(Target::Dialler | Target::Given) | None) => {
                let peer = peer.ok_or_else(|| nameless(&"a socket without an address"))?;
                NbdUri::from_endpoint(peer, tls)?
            }
        };
        uri.with_export_name(&self.export_name)
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
        stats.probes = self.probe.as_ref().map_or(0, |probe| probe.count);
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
        self.way.next_event()
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
            || self.way.has_step()
            || match &self.stage {
                Stage::Open(open) => open.link.is_behind() || open.core.has_buffered(),
                Stage::Negotiating(negotiating) => negotiating.has_buffered(),
                _ => false,
            }
    }

    /// Which connection this is, from 1. Grows with each attempt to connect.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.way.generation
    }

    /// Commands whose completion was not taken.
    #[must_use]
    #[inline]
    pub fn in_flight(&self) -> usize {
        match (&self.lasting, &self.stage) {
            (Some(lasting), _) => lasting.used(),
            (None, Stage::Open(open)) => {
                let probe = self.probe.as_ref().is_some_and(Probe::is_asking);
                let all = open.core.in_flight() + open.core.completed();
                all.saturating_sub(open.core.owed().abandoned + usize::from(probe))
            }
            (None, _) => 0,
        }
    }

    /// The most commands that can be in flight, once the export is ready.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether one more command would find no room, or somebody waits for some.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        !self.line.is_empty() && (self.line.has_waiting() || self.room() <= self.line.admitted())
            || self.room() == 0
    }

    /// What is known about a command.
    #[must_use]
    pub fn status(&self, id: RequestId) -> RequestStatus {
        match (&self.lasting, &self.stage) {
            (Some(lasting), _) => match lasting.get(id) {
                Some(open) if open.outcome.is_some() => RequestStatus::Completed,
                Some(_) => RequestStatus::InFlight,
                None if lasting.is_retired(id) => RequestStatus::Retired,
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
