//! Going on after a lost connection.
//!
//! ```text
//!   Client, Pipeline ── submit ──► Ledger ── hand over ──► nbd_proto::Client ──► server
//!                 ◄── completion ─┘   ▲                         │
//!                                     └──────── lost ◄──────────┘
//!                                        Recovery: wait, dial, check, go on
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | what a client that was told to reconnect has in addition |
//! | `ledger` | callers' commands, by names that outlive connections |
//! | `dial` | how the same server is reached once more |
//! | `attempt` | doing so, while nobody waits for it |
//! | `ports` | where payload is, by those names |
//! | `lasting` | one round, and what follows from its outcome |
//! | `calls` | one command at a time |
//! | `pipeline` | many of them |
//!
//! What is sent again, and in which order, is for
//! [`nbd_session::replay`] to say. None of this is in the way of a client that was not
//! told to reconnect: it has no [`Recovery`].

mod attempt;
mod calls;
mod dial;
mod lasting;
mod ledger;
mod pipeline;
mod ports;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_proto::{Client, ClientConfig, Negotiated, StrictMode};
use nbd_session::OldError as Error;
use nbd_session::replay::{Reconnect, RecoveryError};

use crate::builder::Builder;

use attempt::Attempt;
pub(crate) use calls::{put_back, run};
use dial::Dial;
pub(crate) use dial::{Dialer, Way};
use lasting::{Lasting, closed};
use ledger::{End, Ledger};

impl crate::Client {
    /// How often the connection was lost and made again; see
    /// [`Builder::reconnect`].
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.recovery.as_ref().map_or(0, |recovery| recovery.reconnects())
    }

    /// How many commands were sent again for that.
    #[must_use]
    pub fn sent_again(&self) -> u64 {
        self.recovery.as_ref().map_or(0, |recovery| recovery.ledger().sent_again())
    }
}

/// What happens to a client that [reconnects](crate::Builder::reconnect), told to
/// [`Builder::on_reconnect`](crate::Builder::on_reconnect).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReconnectEvent {
    /// The connection is lost, and is to be made again.
    Lost {
        /// Why.
        cause: Arc<Error>,
    },
    /// It could not be made again so far.
    Failed {
        /// How often it was tried since something was last completed.
        attempts: u32,
        /// Why not.
        cause: Arc<Error>,
    },
    /// There is another one, and what was under way is sent again.
    Reconnected {
        /// How long there was none.
        after: Duration,
    },
    /// It will not be tried any more: the client is dead.
    GaveUp,
}

/// Who wants to be told.
#[derive(Clone)]
pub(crate) struct Observer(Arc<dyn Fn(&ReconnectEvent) + Send + Sync>);

impl Observer {
    pub(crate) fn new(observe: impl Fn(&ReconnectEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// What a client needs that is to make its connection again.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) policy: Reconnect,
    pub(crate) observer: Option<Observer>,
    pub(crate) builder: Builder,
    pub(crate) way: Way,
}

impl Plan {
    /// From now on, for a connection that was negotiated with this configuration.
    pub(crate) fn carry_out(
        self,
        config: ClientConfig,
        export: &str,
        core: &Client,
    ) -> Result<Recovery, RecoveryError> {
        let Self { policy, observer, builder, way } = self;
        let facts = core.negotiated().clone();
        Ok(Recovery {
            ledger: Ledger::new(&policy, &facts, core.capacity())?,
            dial: Arc::new(Dial::new(builder, way, config, export, &facts)),
            policy,
            observer,
            facts,
            connected: Instant::now(),
            down: None,
            trouble: None,
            reconnects: 0,
            random: RandomState::new(),
            ending: Ending::No,
            strict: None,
        })
    }
}

/// What a client has that makes its connection again.
#[derive(Debug)]
pub(crate) struct Recovery {
    policy: Reconnect,
    dial: Arc<Dial>,
    observer: Option<Observer>,
    ledger: Ledger,
    /// What callers were told of the server.
    facts: Negotiated,
    /// When this connection was made.
    connected: Instant,
    down: Option<Down>,
    trouble: Option<Trouble>,
    reconnects: u64,
    random: RandomState,
    ending: Ending,
    /// What [`Client::set_strict`](crate::Client::set_strict) was called with.
    strict: Option<StrictMode>,
}

/// Whether the caller wants the end of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// No more commands; the server is told once everything is done.
    Wanted,
    /// The server is told.
    Told,
}

/// There is no connection.
#[derive(Debug)]
struct Down {
    lost: Instant,
    /// When to try.
    next: Instant,
    /// Being made.
    attempt: Option<Attempt>,
    cause: Arc<Error>,
}

/// Since something was last completed.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    since: Instant,
    attempts: u32,
}

impl Recovery {
    /// What callers were told of the server when they first connected.
    pub(crate) const fn facts(&self) -> &Negotiated {
        &self.facts
    }

    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) const fn set_strict(&mut self, mode: StrictMode) {
        self.strict = Some(mode);
    }

    pub(crate) const fn is_down(&self) -> bool {
        self.down.is_some()
    }

    pub(crate) const fn reconnects(&self) -> u64 {
        self.reconnects
    }

    fn tell(&self, event: ReconnectEvent) {
        if let Some(Observer(observe)) = &self.observer {
            observe(&event);
        }
    }

    /// Something was completed: the next loss has nothing to do with the last one.
    fn progressed(&mut self) {
        self.trouble = None;
    }

    /// The connection is gone; plans the next attempt.
    fn went_down(&mut self, cause: Error) {
        let cause = Arc::new(cause);
        self.tell(ReconnectEvent::Lost { cause: Arc::clone(&cause) });
        let lost = Instant::now();
        if lost.saturating_duration_since(self.connected) > self.policy.longest_wait() {
            // It was of use, even if nothing was asked of it.
            self.trouble = None;
        }
        self.trouble.get_or_insert(Trouble { since: lost, attempts: 0 });
        self.down = Some(Down { lost, next: lost, attempt: None, cause });
        self.put_off();
    }

    /// Begins the next attempt.
    fn begin(&mut self) -> Result<(), Error> {
        let attempt = Attempt::begin(&self.dial, self.last_moment())?;
        if let Some(down) = &mut self.down {
            down.attempt = Some(attempt);
        }
        Ok(())
    }

    /// The attempt that is being made.
    fn attempt(&self) -> Option<&Attempt> {
        self.down.as_ref()?.attempt.as_ref()
    }

    /// What comes of the attempt that is being made.
    fn finish(&mut self) -> Option<Result<crate::Client, Error>> {
        self.down.as_mut()?.attempt.take().map(Attempt::finish)
    }

    /// An attempt came to nothing: there will be another one, if that may help.
    fn tried(&mut self, error: Error) {
        if error.is_transient() {
            self.failed(error);
        } else {
            self.give_up(Some(error));
        }
    }

    /// No attempt will be made any more, and the one that is being made took too long.
    fn out_of_patience(&mut self) {
        if self.attempt().is_some() {
            let timeout = self.policy.patience();
            self.failed(Error::TimedOut { state: "reconnecting", timeout });
        }
        self.give_up(None);
    }

    /// The next attempt is put off for this.
    fn failed(&mut self, cause: Error) {
        let cause = Arc::new(cause);
        if let Some(down) = &mut self.down {
            down.cause = Arc::clone(&cause);
        }
        let attempts = self.trouble.map_or(0, |trouble| trouble.attempts);
        self.tell(ReconnectEvent::Failed { attempts, cause });
        self.put_off();
    }

    /// Waits a while before the next attempt.
    fn put_off(&mut self) {
        let now = Instant::now();
        let Some(trouble) = &mut self.trouble else { return };
        let random = self.random.hash_one(now);
        let delay = self.policy.delay(trouble.attempts, random);
        trouble.attempts = trouble.attempts.saturating_add(1);
        if let Some(down) = &mut self.down {
            down.next = now.checked_add(delay).unwrap_or(now);
        }
    }

    /// There is another connection.
    fn went_up(&mut self) {
        self.reconnects += 1;
        self.connected = Instant::now();
        if let Some(down) = self.down.take() {
            self.tell(ReconnectEvent::Reconnected { after: down.lost.elapsed() });
        }
    }

    /// When to try next; `None` when there is a connection, or will be none.
    fn next_attempt(&self) -> Option<Instant> {
        self.down.as_ref().map(|down| down.next)
    }

    /// When to stop trying; `None` is never.
    fn last_moment(&self) -> Option<Instant> {
        self.trouble.and_then(|trouble| trouble.since.checked_add(self.policy.patience()))
    }

    /// No other connection will be made: because of this, or because patience is over and
    /// the last attempt says why.
    fn give_up(&mut self, cause: Option<Error>) {
        let last = self.down.take().map(|down| down.cause);
        let after = self.trouble.map_or(Duration::ZERO, |trouble| trouble.since.elapsed());
        let end = match cause {
            Some(Error::Recovery(error)) => End::Recovery(error),
            Some(cause) => End::NotReconnected { after, cause: Arc::new(cause) },
            None => match last {
                Some(cause) => End::NotReconnected { after, cause },
                None => return,
            },
        };
        self.ledger.end(end);
        self.tell(ReconnectEvent::GaveUp);
    }
}
