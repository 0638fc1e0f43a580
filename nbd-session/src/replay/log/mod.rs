//! What is under way and what has to be sent again.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the log, and what is to be sent |
//! | `answers` | what comes of it |
//! | `loss` | from one connection to the next |

mod answers;
mod loss;

use std::collections::VecDeque;
use std::fmt;

use nbd_proto::{
    Buffers, Command, CommandFlags, CommandType, ContextId, ExportInfo, Negotiated, RequestId,
    SubmitError, TransmissionFlags,
};

use super::entry::{Entry, Owner, Stage};
use super::error::RecoveryError;
use super::pending::{Pending, Place};
use super::reconnect::Reconnect;
use super::unflushed::UnflushedWrites;
use crate::error::broken;

/// Stands between callers and a [`Client`](nbd_proto::Client), and outlives the client.
///
/// Every command goes in by [`submit`](Self::submit). [`due`](Self::due) tells which one to
/// hand to the client, now or again; [`sent`](Self::sent) tells that it was, and
/// [`completed`](Self::completed) takes in what came of it and tells whom that concerns.
/// `T` is what a caller is known by, `P` the data of a write, cheap to clone or moved in.
///
/// ```
/// use nbd_session::replay::{ReplayLog, Reconnect};
/// use nbd_proto::{Command, CommandError, ExportInfo, Negotiated, RequestId, TransmissionFlags};
/// # fn export() -> Negotiated {
/// #     let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
/// #     Negotiated::new(ExportInfo::new(1 << 20, flags))
/// # }
/// let policy = Reconnect::new().keep_unflushed(1 << 20);
/// let negotiated: Negotiated = export();
/// let mut log = ReplayLog::new(&policy, &negotiated, 64)?;
///
/// let place = log.submit("caller", Command::write(0, 5), Some(b"bytes"))?;
/// let (due, command) = log.due().unwrap();
/// let id = RequestId::from_cookie(0); // from Client::submit(command)
/// log.sent(due, id);
///
/// // No reply, but the end of the connection. What was under way is due again.
/// log.completed(id, Err(CommandError::ConnectionLost));
/// log.lost();
/// log.resume(&negotiated)?;
/// assert_eq!(log.due(), Some((place, command)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A loop around it, for each connection:
///
/// 1. While the client has a free slot, hand it what is [`due`](Self::due).
/// 2. Give the client's completions to [`completed`](Self::completed). Take
///    [`poll_failed`](Self::poll_failed) until it is empty; end when there is a
///    [`fault`](Self::fault).
/// 3. When the client [says](nbd_proto::Client::is_shutting_down) that the server is shutting
///    down, tell [`drain`](Self::drain).
/// 4. When the connection is lost, or [`is_drained`](Self::is_drained): let the client report
///    what it has, then call [`lost`](Self::lost). Connect, negotiate, and call
///    [`resume`](Self::resume).
///
/// Data of a write is asked of [`payload`](Self::payload) when nobody else has it any more:
/// [`caller`](Self::caller) is `None` then.
pub struct ReplayLog<T, P> {
    /// What callers were told.
    facts: Negotiated,
    /// The export may have grown.
    growth: bool,
    /// Numbers of meta contexts, now and then.
    contexts: Vec<(ContextId, ContextId)>,
    unflushed: Option<UnflushedWrites<P>>,
    /// Writes are made durable one by one, for want of a flush.
    durable_writes: bool,
    capacity: usize,
    link: Link,
    pending: Pending<T, P>,
    sent: Buffers<Place>,
    /// Commands whose caller waits.
    callers: usize,
    flushes: usize,
    under_way: usize,
    /// Writes acknowledged so far that were not durable by themselves.
    acknowledged: u64,
    /// How many of them have been flushed, or told to be lost.
    settled: u64,
    /// The next flush has to tell that writes are lost.
    owes_failure: bool,
    /// The last flush of the log's own failed.
    flush_failed: bool,
    failed: VecDeque<(T, RecoveryError)>,
    fault: Option<RecoveryError>,
}

/// What the log knows of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    /// The server is shutting down: nothing more is sent.
    Draining,
    Down,
}

impl<T: Copy, P> ReplayLog<T, P> {
    /// A log for a connection that has just been negotiated, and for those that follow.
    /// At most `capacity` commands of callers are in it, as many as the client has slots.
    ///
    /// # Errors
    /// [`RecoveryError::CannotKeep`].
    pub fn new(
        policy: &Reconnect,
        facts: &Negotiated,
        capacity: usize,
    ) -> Result<Self, RecoveryError> {
        let flags = facts.export.as_ref().map_or(TransmissionFlags::empty(), |e| e.flags);
        let (mut unflushed, mut durable_writes) = (None, false);
        if let Some(bytes) = policy.kept_bytes()
            && !flags.contains(TransmissionFlags::READ_ONLY)
        {
            if flags.contains(TransmissionFlags::SEND_FLUSH) {
                unflushed = Some(UnflushedWrites::new(bytes));
            } else if flags.contains(TransmissionFlags::SEND_FUA) {
                durable_writes = true;
            } else {
                return Err(RecoveryError::CannotKeep);
            }
        }
        Ok(Self {
            facts: facts.clone(),
            growth: policy.allows_growth(),
            contexts: Vec::new(),
            unflushed,
            durable_writes,
            capacity,
            link: Link::Up,
            pending: Pending::new(),
            sent: Buffers::new(),
            callers: 0,
            flushes: 0,
            under_way: 0,
            acknowledged: 0,
            settled: 0,
            owes_failure: false,
            flush_failed: false,
            failed: VecDeque::new(),
            fault: None,
        })
    }

    /// Whether [`submit`](Self::submit) would refuse.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.callers >= self.capacity
    }

    /// Whether nothing is to be sent or answered. Acknowledged writes may still be kept.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// The server has said that it [is shutting
    /// down](nbd_proto::Client::is_shutting_down): nothing more is due on this connection.
    pub fn drain(&mut self) {
        if self.link == Link::Up {
            self.link = Link::Draining;
        }
    }

    /// Whether the server is shutting down and has answered all it had: connect again.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.link == Link::Draining && self.under_way == 0
    }

    /// Whether the connection is lost and another one has not taken its place.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.link == Link::Down
    }

    /// Why the client has to end, if it has to.
    #[must_use]
    pub const fn fault(&self) -> Option<&RecoveryError> {
        self.fault.as_ref()
    }

    /// Who waits for a request; `None` when nobody does, or there is no such request.
    #[must_use]
    pub fn caller(&self, id: RequestId) -> Option<T> {
        match self.pending.get(*self.sent.get(id)?)?.owner {
            Owner::Caller(token) => Some(token),
            Owner::Acknowledged | Owner::Log => None,
        }
    }

    /// Who waits for a command, sent or not.
    #[must_use]
    pub fn owner(&self, place: Place) -> Option<T> {
        match self.pending.get(place)?.owner {
            Owner::Caller(token) => Some(token),
            Owner::Acknowledged | Owner::Log => None,
        }
    }

    /// What callers were told of the server, and rely on.
    #[must_use]
    pub const fn facts(&self) -> &Negotiated {
        &self.facts
    }

    /// Whether writes were acknowledged that no flush has made durable.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        self.owes_failure || self.acknowledged > self.settled
    }

    /// The client's name for a command while it is with the client: what to
    /// [`abandon`](nbd_proto::Client::abandon) before [`cancel`](Self::cancel).
    #[must_use]
    pub fn request(&self, place: Place) -> Option<RequestId> {
        match self.pending.get(place)?.stage {
            Stage::Sent { id, .. } => Some(id),
            Stage::Waiting => None,
        }
    }

    /// The data of a write.
    #[must_use]
    pub fn payload(&self, id: RequestId) -> Option<&P> {
        self.pending.get(*self.sent.get(id)?)?.payload.as_ref()
    }

    /// The number by which callers know a meta context that has this one now.
    #[must_use]
    pub fn context(&self, now: ContextId) -> ContextId {
        let known = self.contexts.iter().find(|(number, _)| *number == now);
        known.map_or(now, |(_, before)| *before)
    }

    /// The number that a meta context has now, which callers know by this one.
    #[must_use]
    pub fn context_now(&self, known: ContextId) -> ContextId {
        let now = self.contexts.iter().find(|(_, before)| *before == known);
        now.map_or(known, |(number, _)| *number)
    }

    /// Takes in a command. `payload` is the data of a write and nothing for the others.
    ///
    /// # Errors
    /// [`SubmitError::Full`].
    pub fn submit(
        &mut self,
        token: T,
        mut command: Command,
        payload: Option<P>,
    ) -> Result<Place, SubmitError> {
        if self.is_full() {
            return Err(SubmitError::Full);
        }
        let modifies = command.kind.modifies();
        // Also where it is writable by now: nothing was prepared for changes, here or in a pool.
        if modifies && self.facts.export.as_ref().is_some_and(ExportInfo::is_read_only) {
            return Err(SubmitError::ReadOnly);
        }
        if self.durable_writes && modifies {
            command = command.with(CommandFlags::FUA);
        }
        if command.kind == CommandType::Flush && std::mem::take(&mut self.owes_failure) {
            self.failed.push_back((token, RecoveryError::UnflushedLost));
            return Ok(self.pending.nobodys_place());
        }
        let mut entry = Entry::new(command, payload, Owner::Caller(token));
        entry.has_room = self.unflushed.is_none() || !modifies;
        Ok(self.enter(entry))
    }

    fn enter(&mut self, entry: Entry<T, P>) -> Place {
        let (wanted, flush) = weight(&entry);
        self.callers = self.callers.saturating_add(wanted);
        self.flushes = self.flushes.saturating_add(flush);
        self.pending.push(entry)
    }

    /// The next command to hand to the client, if there is one. The same again until it was
    /// [`sent`](Self::sent), [`refused`](Self::refused) or [`cancelled`](Self::cancel).
    pub fn due(&mut self) -> Option<(Place, Command)> {
        if self.link != Link::Up || self.fault.is_some() {
            return None;
        }
        if self.wants_flush() {
            self.enter(Entry::new(Command::flush(), None, Owner::Log));
        }
        let unflushed = &self.unflushed;
        let fits = |command: &Command| {
            unflushed.as_ref().is_none_or(|unflushed| unflushed.has_room(command))
        };
        let place = self.pending.first(fits)?;
        self.pending.get(place).map(|entry| (place, entry.command))
    }

    /// Whether a flush is needed that nobody has asked for.
    fn wants_flush(&self) -> bool {
        let Some(unflushed) = self.unflushed.as_ref().filter(|unflushed| !unflushed.is_empty())
        else {
            return false;
        };
        let starving = || {
            let first = self.pending.first_short();
            first.is_some_and(|(_, entry)| !unflushed.has_room(&entry.command))
        };
        // One that failed is not tried again for its own sake.
        self.flushes == 0 && (unflushed.is_crowded() && !self.flush_failed || starving())
    }

    /// The client has taken what was due, under this name.
    pub fn sent(&mut self, place: Place, id: RequestId) {
        let Some((command, had_room)) = self.pending.sent(place, id, self.acknowledged) else {
            return broken("what was due is there until it was sent");
        };
        if let Some(unflushed) = self.unflushed.as_mut().filter(|_| !had_room) {
            unflushed.take_room(&command);
        }
        self.sent.insert(id, place);
        self.under_way = self.under_way.saturating_add(1);
    }
}

/// Counts out what was counted in.
fn count_down(count: &mut usize, by: usize) {
    debug_assert!(*count >= by, "more is counted out than was counted in");
    *count = count.saturating_sub(by);
}

/// What a command counts for among those whose caller waits, and among flushes.
fn weight<T, P>(entry: &Entry<T, P>) -> (usize, usize) {
    let wanted = matches!(entry.owner, Owner::Caller(_));
    (usize::from(wanted), usize::from(entry.command.kind == CommandType::Flush))
}

impl<T, P> fmt::Debug for ReplayLog<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayLog")
            .field("link", &self.link)
            .field("callers", &self.callers)
            .field("under_way", &self.under_way)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
