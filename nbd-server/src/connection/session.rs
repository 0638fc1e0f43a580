//! The data phase: what is read, carried out, answered and sent when.
//!
//! ```text
//!            ┌────── wait: room to send, requests, answers from elsewhere ◄──┐
//!            ▼                                                              │
//!   read once ──► requests ─┬─ on the spot ─────────────► replies ──► sent together
//!                           └─ elsewhere ──► Mailbox ──────▲
//! ```
//!
//! Replies that the client does not take hold memory. Up to [`MAX_HELD`] the
//! requests behind them are still read and answered, so a client may send all
//! it has before it reads; beyond it nothing is read.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    ApiMisuse, Command, CommandType, Direction, Errno, Error, HeaderStyle, Machine, PeerMisbehaved,
    RequestId, Server, ServerEvent,
};
use nbd_session::{Link, LinkError};

use super::ConnectionError;
use super::budget::{Account, PATIENCE};
use super::buffers::{Buffers, NoMemory};
use super::handshake::Established;
use super::job::{Job, Outcome};
use super::mailbox::Mailbox;
use super::placement::Placement;
use crate::config::Shared;
use crate::export::{AnyExport, Attempt, Export, ExtentKind};
use crate::exports::Opened;

/// While there are replies to send, no more is read or answered when requests
/// hold this many bytes: a write of full length that arrives, and as much again
/// for the replies. One burst can go beyond it.
const MAX_HELD: usize = 64 << 20;

/// Replies are sent when they hold this many bytes more, even when there are
/// requests left to answer: the client can use them meanwhile.
const BURST: usize = 512 << 10;

/// Reads in a row before others have their turn, and how much of what
/// has arrived is still taken in when the server stops.
const READS: usize = 16;

/// A connection that has been idle for this long keeps no unused memory.
const IDLE: Duration = Duration::from_secs(1);

/// A request whose bytes take longer than this keeps memory however steadily they come.
const LONGEST_TRANSFER: Duration = Duration::from_secs(30);

/// Carries requests out elsewhere, where they may wait.
pub(crate) trait Execute {
    /// Takes a request and puts it into the mailbox when it is done.
    ///
    /// # Errors
    /// Gives it back when nobody can take it.
    fn execute(&self, job: Job, export: &AnyExport, mailbox: &Arc<Mailbox>)
    -> Result<(), Box<Job>>;
}

/// What a session waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// The stream in these directions, the waker, or the time.
    Wait(Direction, Option<Instant>),
    /// Nothing, there is more to do at once.
    Again,
    /// It is over.
    Closed,
}

/// A client at work on an export.
pub(crate) struct Session {
    server: Server,
    link: Link,
    opened: Opened,
    shared: Arc<Shared>,
    account: Arc<Account>,
    buffers: Buffers,
    mailbox: Arc<Mailbox>,
    placement: Placement,
    in_parts: bool,
    /// Requests that arrived and have not begun.
    waiting: VecDeque<(RequestId, Command)>,
    /// Requests that are carried out elsewhere.
    elsewhere: usize,
    /// Answers that came back, empty between calls.
    done: Vec<Job>,
    /// There is no memory for the next request.
    short: bool,
    /// Replies that have not left, in order, and since when.
    replies: VecDeque<(RequestId, Instant)>,
    arriving: Option<(RequestId, Instant)>,
    /// Bytes moved, and when that was last looked at and found changed.
    moved: (u64, Instant),
    stop_by: Option<Instant>,
}

impl Session {
    pub(crate) fn new(
        established: Established,
        shared: Arc<Shared>,
        account: Arc<Account>,
        mailbox: Arc<Mailbox>,
        placement: Placement,
        now: Instant,
    ) -> Self {
        let Established { server, link, opened, .. } = established;
        let in_parts = server.negotiated().headers != HeaderStyle::Simple;
        Self {
            server,
            link,
            opened,
            shared,
            buffers: Buffers::new(Arc::clone(&account)),
            account,
            mailbox,
            placement,
            in_parts,
            waiting: VecDeque::new(),
            elsewhere: 0,
            done: Vec::new(),
            short: false,
            replies: VecDeque::new(),
            arriving: None,
            moved: (0, now),
            stop_by: None,
        }
    }

    /// Takes no more requests; those that have arrived are answered until `deadline`.
    pub(crate) fn stop(&mut self, deadline: Instant) {
        self.stop_by.get_or_insert(deadline);
    }

    /// Whether only its client, or the end of the server, has it go on; and the end may be told
    /// by the end of what can be read. Under TLS that would be a truncation.
    pub(crate) fn is_idle(&self) -> bool {
        if self.link.is_tls() {
            return false;
        }
        let waits_for_others = self.elsewhere > 0 || self.short || self.buffers.is_overdrawn();
        let nothing_due = self.link.direction(&self.server) == Direction::READ;
        nothing_due && !waits_for_others && self.waiting.is_empty() && self.stop_by.is_none()
    }

    /// Reads once, which may wait, ahead of [`drive`](Self::drive). Tells whether there may be
    /// more to read.
    ///
    /// # Errors
    /// Whatever ended the connection before its time.
    pub(crate) fn receive<T>(&mut self, io: &mut T) -> Result<bool, ConnectionError>
    where
        T: Read + Write + ?Sized,
    {
        let progress = self.link.read(&mut self.server, io, &mut self.buffers, IoMode::Vectored);
        Ok(self.with_alert(io, progress)? == Progress::More)
    }

    /// Moves what can be moved, and carries out what can be carried out. Reads only what is
    /// `readable`, or may be.
    ///
    /// # Errors
    /// Whatever ended the connection before its time.
    pub(crate) fn drive<T>(
        &mut self,
        io: &mut T,
        readable: bool,
        now: Instant,
        execute: &dyn Execute,
    ) -> Result<Next, ConnectionError>
    where
        T: Read + Write + ?Sized,
    {
        self.check_time(now)?;
        let readable = readable || self.link.is_behind();
        for _ in 0..READS {
            self.collect(now)?;
            self.answer_all(io, now, execute)?;
            if !readable || !self.direction(now).contains(Direction::READ) {
                return self.next(now);
            }
            let more = self.receive(io)?;
            self.answer_all(io, now, execute)?;
            if !more && !self.link.is_behind() {
                return self.next(now);
            }
        }
        if self.stop_by.is_some() {
            return self.next(now);
        }
        self.publish(now);
        Ok(Next::Again)
    }

    fn with_alert<T>(
        &mut self,
        io: &mut T,
        result: Result<Progress, LinkError>,
    ) -> Result<Progress, ConnectionError>
    where
        T: Write + ?Sized,
    {
        if let Err(LinkError::Tls(_)) = result {
            // The alert that tells the client why. The error stands whether it
            // arrives or not.
            let _ = self.link.write(&mut self.server, io, &self.buffers, IoMode::Vectored);
        }
        Ok(result?)
    }

    /// What comes next, when all that could be moved has been.
    fn next(&mut self, now: Instant) -> Result<Next, ConnectionError> {
        if self.stop_by.is_some() {
            self.server.stop();
            self.take_events()?;
        }
        self.publish(now);
        let direction = self.direction(now);
        let nothing_due = self.link.direction(&self.server).is_empty();
        Ok(if nothing_due && self.elsewhere == 0 && self.waiting.is_empty() {
            Next::Closed
        } else {
            Next::Wait(direction, self.deadline(direction, now))
        })
    }

    /// Says what else is to be said, when it is over.
    pub(crate) fn close<T: Write + ?Sized>(&mut self, io: &mut T) {
        self.link.close();
        let _ = self.link.write(&mut self.server, io, &self.buffers, IoMode::Vectored);
    }

    /// What to wait for on the stream.
    fn direction(&mut self, now: Instant) -> Direction {
        let mut direction = self.link.direction(&self.server);
        if direction.contains(Direction::READ)
            && (self.is_full() || self.short || self.buffers.must_wait_to_receive(now))
        {
            direction.remove(Direction::READ);
        }
        direction
    }

    /// Whether replies have to leave before anything else is done. So there must be some, or be
    /// some to come: otherwise nothing would ever make room.
    fn is_full(&self) -> bool {
        if self.buffers.in_use() < MAX_HELD {
            return false;
        }
        let due = self.link.direction(&self.server);
        self.elsewhere > 0 || due.contains(Direction::WRITE)
    }

    fn deadline(&self, direction: Direction, now: Instant) -> Option<Instant> {
        let idle = direction == Direction::READ && self.buffers.keeps_any();
        let wants_memory = self.short || self.buffers.is_overdrawn();
        let stalls = self.is_midway().then(|| self.moved.1 + self.shared.limits.stall_timeout);
        [self.stop_by, idle.then(|| now + IDLE), wants_memory.then(|| now + PATIENCE), stalls]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether the client owes something: the rest of a write, or to take a reply.
    fn is_midway(&self) -> bool {
        self.arriving.is_some() || !self.replies.is_empty()
    }

    fn check_time(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if self.stop_by.is_some_and(|end| end <= now) {
            return Err(ConnectionError::Abandoned);
        }
        if self.account.is_cut() {
            return Err(ConnectionError::MemoryShort);
        }
        let still = now.saturating_duration_since(self.moved.1);
        if !self.is_midway() {
            if still >= IDLE {
                self.buffers.forget_unused();
            }
        } else if still >= self.shared.limits.stall_timeout {
            return Err(ConnectionError::Stalled(self.shared.limits.stall_timeout));
        }
        Ok(())
    }

    /// Notes what has moved, and tells since when the client keeps memory without using it.
    fn publish(&mut self, now: Instant) {
        let stats = self.server.stats();
        let moved = stats.bytes_received.wrapping_add(stats.bytes_sent);
        if moved != self.moved.0 || (!self.is_midway() && self.elsewhere > 0) {
            self.moved = (moved, now);
        }
        self.arriving = match (self.buffers.arriving(), self.arriving) {
            (Some(id), Some((known, since))) if id == known => Some((id, since)),
            (Some(id), _) => Some((id, now)),
            (None, _) => None,
        };
        let arriving = self.arriving.map(|(_, since)| since);
        let leaving = self.replies.front().map(|(_, since)| *since);
        let oldest = arriving.into_iter().chain(leaving).min();
        let drips = |since: &Instant| now.saturating_duration_since(*since) >= LONGEST_TRANSFER;
        let since = oldest.map(|since| if drips(&since) { since } else { since.max(self.moved.1) });
        self.account.keeps_since(since);
    }

    /// Takes in what was carried out elsewhere.
    fn collect(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if self.elsewhere == 0 {
            return Ok(());
        }
        let mut done = mem::take(&mut self.done);
        self.mailbox.take(&mut done);
        self.elsewhere -= done.len();
        for job in done.drain(..) {
            self.placement.learn(job.command, job.took);
            self.reply(job, now)?;
        }
        self.done = done;
        Ok(())
    }

    /// Carries out the requests that have arrived and sends the replies, as far as
    /// the client takes them.
    fn answer_all<T>(
        &mut self,
        io: &mut T,
        now: Instant,
        execute: &dyn Execute,
    ) -> Result<(), ConnectionError>
    where
        T: Write + ?Sized,
    {
        loop {
            self.take_events()?;
            if self.waiting.is_empty() && self.server.has_buffered() {
                // Requests that were read while there was no slot for them.
                self.server.received(0, &mut self.buffers)?;
                self.take_events()?;
            }
            let begin = !self.waiting.is_empty() && !self.is_full();
            if begin {
                self.begin_burst(now, execute)?;
            }
            self.send(io)?;
            let more = self.waiting.is_empty() && self.server.has_buffered();
            if self.short || !(begin || more) {
                return Ok(());
            }
        }
    }

    fn begin_burst(&mut self, now: Instant, execute: &dyn Execute) -> Result<(), ConnectionError> {
        let enough = self.buffers.in_use() + BURST;
        self.short = false;
        while let Some((id, command)) = self.waiting.pop_front() {
            if !self.begin(id, command, now, execute)? {
                self.waiting.push_front((id, command));
                self.short = true;
                break;
            }
            if self.buffers.in_use() >= enough {
                break;
            }
        }
        Ok(())
    }

    /// Carries a request out, or has it carried out elsewhere. False when there is no memory for
    /// it now.
    fn begin(
        &mut self,
        id: RequestId,
        command: Command,
        now: Instant,
        execute: &dyn Execute,
    ) -> Result<bool, ConnectionError> {
        let buffer = match command.kind {
            CommandType::Read => {
                let len = usize::try_from(command.length).unwrap_or(usize::MAX);
                let allocated = match &self.opened.export {
                    AnyExport::Blocking(_) => self.buffers.allocate(len, now),
                    AnyExport::Async(_) => Ok(self.buffers.reserve(len, now)),
                };
                match allocated {
                    Ok(Some(buffer)) => Some(buffer),
                    Ok(None) => return Ok(false),
                    Err(NoMemory) => {
                        self.replies.push_back((id, now));
                        self.server.reply_error(id, Errno::NoMem, "the server has no memory")?;
                        return Ok(true);
                    }
                }
            }
            CommandType::Write => self.buffers.take(id),
            CommandType::Flush
            | CommandType::Trim
            | CommandType::WriteZeroes
            | CommandType::Cache
            | CommandType::BlockStatus => None,
        };
        let mut job = Job {
            id,
            command,
            buffer,
            size: self.server.export().size,
            in_parts: self.in_parts,
            contexts: self.contexts(id, command),
            outcome: Outcome::Done,
            took: Duration::ZERO,
        };
        if let AnyExport::Blocking(export) = &self.opened.export
            && is_done_on_the_spot(&mut job, &**export, &mut self.placement)
        {
            self.reply(job, now)?;
            return Ok(true);
        }
        match execute.execute(job, &self.opened.export, &self.mailbox) {
            Ok(()) => self.elsewhere += 1,
            Err(mut job) => {
                match &self.opened.export {
                    AnyExport::Blocking(export) => job.run(&**export),
                    AnyExport::Async(_) => job.refuse(),
                }
                self.reply(*job, now)?;
            }
        }
        Ok(true)
    }

    /// The meta contexts a block status asks for, with their names.
    fn contexts(&self, id: RequestId, command: Command) -> Vec<(nbd_proto::ContextId, String)> {
        if command.kind != CommandType::BlockStatus {
            return Vec::new();
        }
        let granted = &self.server.negotiated().contexts;
        let name = |id: nbd_proto::ContextId| {
            granted
                .iter()
                .find(|context| context.id == id.0)
                .map(|context| (id, context.name.clone()))
        };
        self.server.contexts(id).into_iter().filter_map(name).collect()
    }

    /// Queues the reply to a request.
    fn reply(&mut self, job: Job, now: Instant) -> Result<(), ApiMisuse> {
        let Job { id, command, buffer, outcome, .. } = job;
        if self.server.is_closed() {
            // There is nobody to reply to.
            return Ok(());
        }
        self.replies.push_back((id, now));
        match buffer {
            Some(buffer) if matches!(outcome, Outcome::Data | Outcome::Parts(_)) => {
                self.buffers.put(id, buffer);
            }
            Some(buffer) => self.buffers.keep(buffer),
            None => {}
        }
        match outcome {
            Outcome::Done => self.server.reply(id, Ok(())),
            Outcome::Data => self.server.reply_data(id),
            Outcome::Failed { errno, reason } => self.server.reply_error(id, errno, &reason),
            Outcome::Parts(parts) => {
                let (mut at, len) = (0, command.length as usize);
                for part in &parts {
                    let length = part.length as usize;
                    let last = at + length == len;
                    match part.kind {
                        ExtentKind::Data => self.server.send_data(id, at, length, last)?,
                        ExtentKind::Hole | ExtentKind::Zero => {
                            self.server.send_hole(id, at, length, last)?;
                        }
                    }
                    at += length;
                }
                Ok(())
            }
            Outcome::Extents(all) => {
                let weight = all.iter().map(|(_, extents)| extents.len() * 16).sum();
                self.buffers.charge(id, weight);
                let count = all.len();
                for (i, (context, extents)) in all.into_iter().enumerate() {
                    let sent = self.server.send_extents(id, context, &extents, i + 1 == count);
                    if sent.is_err() {
                        let reason = "the export has told nothing of its extents";
                        return self.server.reply_error(id, Errno::Io, reason);
                    }
                }
                Ok(())
            }
        }
    }

    fn send<T: Write + ?Sized>(&mut self, io: &mut T) -> Result<(), ConnectionError> {
        while self.link.direction(&self.server).contains(Direction::WRITE) {
            let progress =
                self.link.write(&mut self.server, io, &self.buffers, IoMode::Vectored)?;
            self.take_events()?;
            if progress != Progress::More {
                break;
            }
        }
        Ok(())
    }

    fn take_events(&mut self) -> Result<(), ConnectionError> {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Request { id, command } => {
                    self.buffers.arrived(id);
                    self.waiting.push_back((id, command));
                }
                ServerEvent::Replied { id } => {
                    self.buffers.arrived(id);
                    self.buffers.give_back(id);
                    if self.replies.front().is_some_and(|(front, _)| *front == id) {
                        self.replies.pop_front();
                    } else {
                        // Refused by the machine itself, or overtaken by one that was.
                        self.replies.retain(|(queued, _)| *queued != id);
                    }
                }
                ServerEvent::Disconnected { error: None } => {}
                ServerEvent::Disconnected {
                    error: Some(Error::Misbehaved(PeerMisbehaved::Closed)),
                } => return Err(ConnectionError::Gone),
                ServerEvent::Disconnected { error: Some(error) } => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Carries a request out if that takes no waiting, as far as anybody knows.
fn is_done_on_the_spot(job: &mut Job, export: &dyn Export, placement: &mut Placement) -> bool {
    match job.attempt(export) {
        Attempt::Done => true,
        Attempt::WouldWait => false,
        Attempt::Unknown if placement.is_quick(job.command.kind) => {
            job.run(export);
            placement.learn(job.command, job.took);
            true
        }
        Attempt::Unknown => false,
    }
}
