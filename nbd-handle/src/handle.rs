//! The handle: what happens to it, and what follows from that.

use std::fmt;
use std::io;
use std::mem;
use std::time::Instant;

use nbd_proto::{CommandFlags, Direction, Negotiated, Protocol, Stats, StrictMode};
use nbd_session::{Limit, OptionRequest};
use nbd_transport::Endpoint;
use rustix::io::Errno;

use crate::commands::{Commands, Pending};
use crate::debug::{Debug, DebugCallback};
use crate::engine::Engine;
use crate::fail::Fail;
use crate::level::Level;
use crate::options::OptionCall;
use crate::request::Request;
use crate::settings::Settings;
use crate::state::{Published, State};

/// Memory of the caller's. No more of it is looked at than is asked for, and only while it is
/// asked for.
#[expect(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait Memory: Send {
    /// How many bytes there are.
    fn len(&self) -> usize;

    /// At most `len` bytes from `at`; none beyond the end.
    fn bytes(&self, at: usize, len: usize) -> &[u8];

    /// The same, to be written to.
    fn region(&mut self, at: usize, len: usize) -> &mut [u8];
}

impl Memory for Vec<u8> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        nbd_proto::part(self, at, len)
    }

    fn region(&mut self, at: usize, len: usize) -> &mut [u8] {
        nbd_proto::part_mut(self, at, len)
    }
}

/// Requests that wait for the next call that drives the handle, when the caller is in a loop of
/// [`poll`](Handle::poll).
const BATCH: usize = 64;

/// One connection, from its configuration to its end.
pub struct Handle<B> {
    pub(crate) level: Level,
    pub(crate) name: String,
    pub(crate) settings: Settings,
    pub(crate) debug: Debug,
    pub(crate) state: State,
    pub(crate) engine: Option<Engine>,
    /// Whom it was told to connect to, as far as that has a name.
    pub(crate) address: Option<Endpoint>,
    pub(crate) commands: Commands<B>,
    pub(crate) option: Option<OptionCall>,
    /// Of the last option.
    pub(crate) answer: Option<Result<i32, Fail>>,
    /// What was agreed on so far.
    pub(crate) facts: Negotiated,
    /// Meta contexts were selected for this export, even if none was granted.
    pub(crate) selected: bool,
    /// The end was asked for.
    pub(crate) ending: bool,
    /// Why it is over, until somebody was told.
    pub(crate) cause: Option<Fail>,
    /// It is driven by [`poll`](Handle::poll), so what is submitted can wait for the next.
    pub(crate) polled: bool,
    unsent: usize,
    /// All of them wait for that only, and not for room.
    put_off: bool,
    last_stats: Stats,
}

impl<B: Memory> Handle<B> {
    /// A handle on which nothing is set; `name` is told in debug messages.
    #[must_use]
    pub fn new(level: Level, name: impl Into<String>) -> Self {
        Self {
            level,
            name: name.into(),
            settings: Settings::new(level),
            debug: Debug::new(),
            state: State::Created,
            engine: None,
            address: None,
            commands: Commands::new(),
            option: None,
            answer: None,
            facts: Negotiated::default(),
            selected: false,
            ending: false,
            cause: None,
            polled: false,
            unsent: 0,
            put_off: false,
            last_stats: Stats::default(),
        }
    }

    /// What it is doing.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Which release's behaviour it plays.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Lets others see what can be seen without the lock.
    pub fn publish(&self, published: &Published) {
        let in_flight = i32::try_from(self.in_flight()).unwrap_or(i32::MAX);
        published.publish(self.state, self.direction(), in_flight);
    }

    /// What to wait for.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.engine.as_ref().map_or(Direction::empty(), Engine::direction)
    }

    /// Commands that were not answered, and the goodbye.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.commands.in_flight() + usize::from(self.ending && !self.state.is_over())
    }

    /// Puts a command on its way, and returns its cookie.
    ///
    /// # Errors
    /// When it cannot be sent, or would be wrong and the checks in force mind. It and its
    /// callbacks are dropped then.
    pub fn submit(&mut self, request: Request<B>) -> Result<i64, Fail> {
        let (odd, never) = request.odd_flags();
        let strict = self.settings.strict_mode();
        if never != 0 || odd != 0 && strict.contains(StrictMode::FLAGS) {
            let given = if never != 0 { never } else { odd };
            return Err(Fail::invalid(format!("flags {given:#x} do not belong to this command")));
        }
        let Request { command, buffer, callbacks, contexts, .. } = request;
        let now = Instant::now();
        let Some(engine) = &mut self.engine else { return Err(not_connected()) };
        // A release that knew no such flag has sent it as it is, where odd flags are not minded.
        let unknown =
            !self.level.has_extended_headers() && command.flags.contains(CommandFlags::PAYLOAD_LEN);
        if unknown {
            engine.session.set_strict(strict - StrictMode::COMMANDS);
        }
        let idle = !engine.session.direction().contains(Direction::WRITE);
        let id = match contexts {
            None => {
                let submitted = engine.session.submit(command, Limit::Never, now);
                if unknown {
                    engine.session.set_strict(strict);
                }
                submitted?
            }
            Some(names) => {
                let mut contexts = Vec::new();
                for name in &names {
                    let unknown = || Fail::invalid(format!("no meta context {name:?} was granted"));
                    contexts.push(engine.session.context(name).ok_or_else(unknown)?);
                }
                let request = nbd_session::Request::new(command);
                let request = request.limit(Limit::Never).contexts(&contexts);
                engine.session.submit_request(request, now)?
            }
        };
        let cookie = self.commands.next_cookie();
        let pending = Pending {
            cookie,
            offset: command.offset,
            buffer,
            cleared: self.settings.pread_initialize,
            errno: 0,
            callbacks,
        };
        self.commands.insert(id, pending);
        self.unsent += 1;
        // Whoever is in a loop of `poll` calls it again, and what has gathered leaves at once
        // then; anybody else may look away for long.
        let later = self.polled && self.commands.in_flight() > 1 && self.unsent < BATCH;
        if idle && !later || self.unsent >= BATCH {
            self.send(now);
        } else {
            self.put_off |= idle;
        }
        Ok(cookie)
    }

    /// Sends what is due, as far as there is room.
    pub(crate) fn send(&mut self, now: Instant) {
        self.unsent = 0;
        self.put_off = false;
        if let Some(engine) = &mut self.engine {
            engine.write(&mut self.commands, now);
            engine.finish_turn(&mut self.commands, now);
        }
        self.settle(now);
    }

    /// What has happened becomes what the caller is told.
    pub(crate) fn settle(&mut self, now: Instant) {
        loop {
            self.take_completions();
            let Some(engine) = &mut self.engine else { return };
            if let Some(outcome) = engine.session.take_option() {
                self.finish_option(outcome);
                continue;
            }
            // An old server leaves nothing to choose.
            let engine = self.engine.as_mut();
            if let Some(engine) = engine.filter(|engine| engine.is_choosing())
                && engine.session.negotiation().is_some_and(|negotiation| {
                    negotiation.negotiated().protocol == Protocol::Oldstyle
                })
                && engine.session.request_option(OptionRequest::Go, Limit::Never, now).is_ok()
            {
                engine.finish_turn(&mut self.commands, now);
                continue;
            }
            break;
        }
        self.change_state();
    }

    fn change_state(&mut self) {
        use nbd_session::State as Of;
        let Some(engine) = &self.engine else { return };
        let state = match engine.session.state() {
            Of::Connecting | Of::Negotiating => State::Connecting,
            Of::Choosing => State::Negotiating,
            Of::Ready | Of::Disconnecting | Of::Reconnecting if engine.session.is_ready() => {
                if engine.session.direction().contains(Direction::WRITE) && !self.put_off {
                    State::Processing
                } else {
                    State::Ready
                }
            }
            Of::Closed => self.end_state(engine),
            _ => State::Connecting,
        };
        if state == self.state {
            return;
        }
        self.enter(state);
    }

    /// How it ended.
    fn end_state(&self, engine: &Engine) -> State {
        if engine.found_nobody() {
            return State::Created;
        }
        let orderly = self.ending
            && engine.session.end().is_some_and(nbd_session::Error::is_closed)
            || self.state.is_connected()
                && engine.session.end().is_some_and(|end| match std::error::Error::source(end) {
                    None => end.is_closed(),
                    Some(source) => matches!(
                        source.downcast_ref(),
                        Some(nbd_proto::Error::Misbehaved(nbd_proto::PeerMisbehaved::Closed))
                    ),
                });
        if orderly { State::Closed } else { State::Dead }
    }

    #[cold]
    fn enter(&mut self, state: State) {
        let before = mem::replace(&mut self.state, state);
        if self.debug.on {
            let line = format!("transition: {} -> {}", before.name(), state.name());
            self.tell("state", &line);
        }
        self.learn();
        let Some(engine) = &self.engine else { return };
        if before == State::Connecting && state.is_connected() && !self.settings.option_mode {
            self.selected |= self.settings.request_meta_contexts;
        }
        match state {
            State::Dead | State::Created => {
                self.cause = engine.session.end().cloned().map(Fail::from);
                let errno = self.cause.as_ref().map_or(0, Fail::errno);
                let error = self.cause.clone();
                self.fail_option(error, errno);
                if state == State::Created {
                    self.engine = None;
                }
            }
            State::Closed => {
                let cause = not_connected();
                self.fail_option(Some(cause), Errno::NOTCONN.raw_os_error());
            }
            State::Connecting | State::Negotiating | State::Ready | State::Processing => {}
        }
    }

    /// What was agreed on by now.
    pub(crate) fn learn(&mut self) {
        let Some(engine) = &self.engine else { return };
        self.last_stats = engine.session.stats().wire;
        if let Some(negotiation) = engine.session.negotiation() {
            self.facts.clone_from(negotiation.negotiated());
        } else if let Some(facts) = engine.session.negotiated() {
            self.facts.clone_from(facts);
        }
    }

    /// An option that was under way when it ended.
    fn fail_option(&mut self, error: Option<Fail>, errno: i32) {
        if let Some(mut call) = self.option.take() {
            let errno = if errno == 0 { Errno::NOTCONN.raw_os_error() } else { errno };
            call.complete(errno);
            self.answer = Some(Err(error.unwrap_or_else(not_connected)));
        }
    }

    /// What ended it, told once.
    pub(crate) fn take_cause(&mut self) -> Result<(), Fail> {
        self.cause.take().map_or(Ok(()), Err)
    }

    /// Counters of the protocol.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.as_ref().map_or(self.last_stats, |engine| {
            let now = engine.session.stats().wire;
            if now.bytes_received < self.last_stats.bytes_received { self.last_stats } else { now }
        })
    }

    /// Whether debug messages are wanted.
    #[must_use]
    pub const fn is_debugged(&self) -> bool {
        self.debug.on
    }

    /// Switches debug messages on or off.
    pub const fn set_debug(&mut self, on: bool) {
        self.debug.on = on;
    }

    /// Where debug messages go; standard error without one.
    pub fn set_debug_callback(&mut self, callback: Option<DebugCallback>) {
        self.debug.set_callback(callback);
    }

    /// Tells a debug message about a call, if they are wanted.
    pub fn tell(&mut self, call: &str, line: &str) {
        if self.debug.on {
            self.debug.tell(&self.name, call, line);
        }
    }

    /// Ends it because of a fault of this program, such as a panic of which nobody knows what it
    /// has left half done. It is dead then.
    pub fn give_up(&mut self, why: &str) {
        if let Some(engine) = &mut self.engine {
            engine.session.fail(io::Error::other(why.to_owned()), Instant::now());
            engine.attend(Instant::now());
        }
        self.state = State::Dead;
    }

    /// Ends it abruptly. Commands and options that are under way are finished with `ENOTCONN`,
    /// where the release that is played does so; a program that was started is waited for.
    pub fn close(mut self) {
        if self.unsent > 0
            && let Some(engine) = &mut self.engine
        {
            // What was only put off leaves, as far as there is room.
            engine.write(&mut self.commands, Instant::now());
        }
        if self.level.completes_at_close()
            && let Some(engine) = &mut self.engine
        {
            engine.session.fail(io::Error::from(io::ErrorKind::NotConnected), Instant::now());
            self.settle(Instant::now());
        }
        let engine = self.engine.take();
        // Callbacks go first, and no buffer is looked at any more; then the socket, and whoever
        // is at its other end.
        drop(self);
        drop(engine);
    }
}

impl<B> fmt::Debug for Handle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("name", &self.name)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

pub(crate) fn not_connected() -> Fail {
    Fail::new(Errno::NOTCONN, "there is no connection")
}
