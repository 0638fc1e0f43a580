//! The data phase: what is read, carried out, answered and sent when.
//!
//! | file | what |
//! |---|---|
//! | `mod` | what is done when |
//! | `carrying_out` | requests on their way to the export and back |
//! | `replies` | what is sent |
//! | `time` | clients that stall, or keep memory that others need |
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

mod carrying_out;
mod replies;
mod time;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Command, Direction, HeaderStyle, RequestId, Server};
use nbd_session::{Link, LinkError};

use super::ConnectionError;
use super::budget::Account;
use super::buffers::Buffers;
use super::handshake::Established;
use super::job::Job;
use super::mailbox::Mailbox;
use super::placement::{Placement, queue_of};
use crate::config::Shared;
use crate::export::{Abilities, AnyExport};
use crate::exports::Opened;
use crate::peer::Peer;

/// While there are replies to send, no more is read or answered when requests
/// hold this many bytes: a write of full length that arrives, and as much again
/// for the replies. One burst can go beyond it.
const MAX_HELD: usize = 64 << 20;

/// Reads in a row before others have their turn, and how much of what
/// has arrived is still taken in when the server stops.
const READS: usize = 16;

/// Carries requests out elsewhere, where they may wait.
pub(crate) trait Execute {
    /// Takes a request and puts it into the mailbox when it is done. Those of a queue have a
    /// share of what can be done at a time.
    ///
    /// # Errors
    /// Gives it back when nobody can take it.
    fn execute(
        &self,
        job: Job,
        queue: u64,
        export: &AnyExport,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), Box<Job>>;
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
    peer: Peer,
    abilities: Abilities,
    /// The queue of the export.
    queue: u64,
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
        let Established { server, link, opened, peer } = established;
        let in_parts = server.negotiated().headers != HeaderStyle::Simple;
        Self {
            server,
            link,
            abilities: opened.export.abilities(),
            queue: queue_of(&opened.name),
            opened,
            peer,
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

    /// Whether it waits for its client, or the end of the server; and the end may be told by the
    /// end of what can be read. Under TLS that would be a truncation, and in the middle of a write
    /// a fault of the client's.
    pub(crate) fn is_idle(&self) -> bool {
        self.waits_for_client() && self.arriving.is_none() && !self.link.is_tls()
    }

    /// Whether only its client, or the end of the server, has it go on.
    pub(crate) fn waits_for_client(&self) -> bool {
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
}
