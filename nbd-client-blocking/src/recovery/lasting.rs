//! A client that makes its connection again, at work.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nbd_proto::{
    Command, CommandType, ContextId, Direction, Disconnect, Machine, PeerMisbehaved, RequestId,
    RequestStatus, SubmitError,
};
use nbd_session::OldError as Error;
use nbd_session::replay::RecoveryError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::ports::Renamed;
use super::{Ending, Recovery};
use crate::client::Client;
use crate::completion::{Completion, Woken};
use crate::ports::Many;
use crate::pump::Pump;

/// What a wait for another connection ended with.
enum Nap {
    /// The attempt is through.
    Attempt,
    /// The caller's descriptor has something to read.
    Other,
    /// Its time is over, or a signal came.
    Time,
}

/// The parts of a client that was told to reconnect, and the memory of its callers.
///
/// Its methods stay out of the way of the others: whoever does not reconnect pays for one
/// comparison a call.
pub(crate) struct Lasting<'a, B> {
    core: &'a mut nbd_proto::Client,
    pump: &'a mut Pump,
    recovery: &'a mut Recovery,
    ports: &'a mut Many<B>,
}

impl<'a, B: AsRef<[u8]> + AsMut<[u8]>> Lasting<'a, B> {
    /// `None` for a client that was not told to reconnect.
    #[inline]
    pub(crate) fn of(client: &'a mut Client, ports: &'a mut Many<B>) -> Option<Self> {
        let Client { core, pump, recovery, .. } = client;
        Some(Self { core, pump, recovery: recovery.as_deref_mut()?, ports })
    }

    /// Takes in a command, and hands it over if it may be sent.
    #[cold]
    #[inline(never)]
    pub(crate) fn submit(
        &mut self,
        command: Command,
        filter: Option<&[ContextId]>,
        buffer: Option<B>,
    ) -> Result<RequestId, Error> {
        let Recovery { ledger, ending, .. } = &mut *self.recovery;
        if let Some(end) = ledger.ended() {
            return Err(end.clone().into());
        }
        if *ending != Ending::No {
            return Err(Error::Submit { command, error: SubmitError::Disconnecting });
        }
        let keeps = ledger.keeps() && command.kind == CommandType::Write;
        let payload = buffer.as_ref().filter(|_| keeps).map(|buffer| buffer.as_ref().to_vec());
        let submitted = ledger.submit(command, filter, payload);
        let id = submitted.map_err(|error| Error::Submit { command, error })?;
        self.pump.trace.submitted(id, &command);
        if let Some(buffer) = buffer {
            self.ports.buffers.insert(id, buffer);
        }
        ledger.hand_over(self.core);
        // What makes no sense is told at once, as it is without all this.
        match ledger.take_refused(id) {
            Some(error) => {
                self.ports.buffers.remove(id);
                Err(Error::Submit { command, error })
            }
            None => Ok(id),
        }
    }

    /// The parts of the answer to a read are wanted too.
    pub(crate) fn report_chunks(&mut self, id: RequestId) {
        self.ports.chunks.insert(id, Vec::new());
    }

    /// Takes a completion.
    #[cold]
    #[inline(never)]
    pub(crate) fn take(&mut self, id: RequestId) -> Option<Completion<B>> {
        if self.recovery.ledger.status(id) != RequestStatus::Completed {
            return None;
        }
        let remark = self.ports.remarks.remove(id);
        let (command, result) = self.recovery.ledger.take(id, remark)?;
        self.pump.trace.finished(id, result.as_ref().copied());
        Some(Completion {
            id,
            command,
            buffer: self.ports.buffers.remove(id),
            extents: self.ports.extents.remove(id).unwrap_or_default(),
            chunks: self.ports.chunks.remove(id).unwrap_or_default(),
            result,
        })
    }

    /// Sends what is due and takes in what comes, or else makes the connection again; until
    /// the deadline in the latter case, and as long as the server may be silent in the
    /// former.
    #[cold]
    #[inline(never)]
    pub(crate) fn round(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        if self.recovery.is_down() {
            return match self.reconnect(None, deadline)? {
                Woken::Progress | Woken::Other => Ok(()),
                Woken::TimedOut => Err(Error::TimedOut {
                    state: "reconnecting",
                    timeout: self.pump.timeout.unwrap_or_default(),
                }),
            };
        }
        let (mut ports, core, pump) = self.hand_over();
        let result = pump.round(core, &mut ports);
        self.settle(result).map(drop)
    }

    /// Waits until something can be sent or received, and does it; makes the connection
    /// again when there is none.
    #[cold]
    #[inline(never)]
    pub(crate) fn turn(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> Result<Woken, Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if self.recovery.is_down() {
            return self.reconnect(other, deadline);
        }
        let (_, core, pump) = self.hand_over();
        let direction = pump.link.direction(core);
        if direction.is_empty() {
            return Err(self.over());
        }
        let waited = pump.wait_either(direction, other, deadline);
        let Some(ready) = self.settle(waited)? else { return Ok(Woken::Progress) };
        let Some(ready) = ready else { return Ok(Woken::TimedOut) };
        if ready.socket.contains(Direction::WRITE) {
            self.send()?;
        }
        if ready.socket.contains(Direction::READ) {
            self.receive()?;
        }
        Ok(if ready.extra { Woken::Other } else { Woken::Progress })
    }

    /// Sends as much as goes without waiting.
    #[cold]
    #[inline(never)]
    pub(crate) fn send(&mut self) -> Result<(), Error> {
        if self.recovery.is_down() {
            // Lost already, and not once more.
            return Ok(());
        }
        let (ports, core, pump) = self.hand_over();
        let result = pump.send(core, &ports);
        self.settle(result).map(drop)
    }

    /// Receives as much as goes without waiting.
    #[cold]
    #[inline(never)]
    pub(crate) fn receive(&mut self) -> Result<(), Error> {
        let (mut ports, core, pump) = self.hand_over();
        if !pump.link.direction(core).contains(Direction::READ) {
            return Ok(());
        }
        let result = pump.receive(core, &mut ports, false);
        self.settle(result).map(drop)
    }

    fn hand_over(&mut self) -> (Renamed<'_, Many<B>>, &mut nbd_proto::Client, &mut Pump) {
        let ledger = &mut self.recovery.ledger;
        ledger.hand_over(self.core);
        let ports = Renamed { journal: ledger.journal(), ports: self.ports };
        (ports, self.core, self.pump)
    }

    /// Draws the conclusions. Nothing is returned when the connection was lost by that.
    fn settle<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        let value = match result {
            Ok(value) => value,
            Err(error) if !matches!(error, Error::TimedOut { .. }) => {
                self.lost(error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if self.recovery.ledger.collect(self.core) {
            self.recovery.progressed();
        }
        let journal = self.recovery.ledger.journal();
        if let Some(fault) = journal.fault() {
            let fault = fault.clone();
            self.cut();
            self.recovery.give_up(Some(fault.into()));
        } else if journal.is_drained() || self.core.is_closed() {
            self.lost(closed());
            return Ok(None);
        } else if self.recovery.ending == Ending::Wanted && journal.is_idle() {
            self.end(Disconnect::AfterReplies);
        }
        Ok(Some(value))
    }

    /// The connection is over: it is made again, if that may help and is wanted.
    fn lost(&mut self, error: Error) {
        self.cut();
        let ledger = &mut self.recovery.ledger;
        ledger.collect(self.core);
        ledger.lost();
        // Of an answer that is asked for again.
        for id in ledger.waiting() {
            self.ports.remarks.remove(id);
            self.ports.extents.remove(id);
            if let Some(chunks) = self.ports.chunks.get_mut(id) {
                chunks.clear();
            }
        }
        if self.recovery.ending != Ending::Told && error.is_transient() {
            self.recovery.went_down(error);
        } else {
            self.recovery.give_up(Some(error));
        }
    }

    fn cut(&mut self) {
        self.pump.trace.killed();
        // The state machine is told what the peer will see.
        let _ = self.core.eof();
        let _ = shutdown(&self.pump.connection.stream, Shutdown::Both);
    }

    /// Makes the connection again, until it is there, patience is over, or one of the
    /// caller's conditions holds. An attempt that is under way then is left to go on: the
    /// next call finds it.
    fn reconnect(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> Result<Woken, Error> {
        while let Some(next) = self.recovery.next_attempt() {
            let now = Instant::now();
            let last = self.recovery.last_moment();
            let patient = last.is_none_or(|last| now < last);
            let late = deadline.is_some_and(|deadline| now >= deadline);
            if self.recovery.attempt().is_none()
                && patient
                && now >= next
                && let Err(error) = self.recovery.begin()
            {
                self.recovery.tried(error);
                continue;
            }
            let next = if self.recovery.attempt().is_some() { None } else { Some(next) };
            // What is over is looked at last: an attempt may have come through in time, and
            // nobody have looked.
            match self.nap(other, next.into_iter().chain(last).chain(deadline).min())? {
                Nap::Attempt => {
                    let Some(outcome) = self.recovery.finish() else { continue };
                    if let Err(error) = outcome.and_then(|client| self.adopt(client)) {
                        self.recovery.tried(error);
                    }
                }
                Nap::Other => return Ok(Woken::Other),
                Nap::Time if !patient => self.recovery.out_of_patience(),
                Nap::Time if late => return Ok(Woken::TimedOut),
                Nap::Time => {}
            }
        }
        Ok(Woken::Progress)
    }

    /// Waits for a time, or until the attempt is through, or the caller's descriptor has
    /// something to read.
    fn nap(&mut self, other: Option<BorrowedFd<'_>>, until: Option<Instant>) -> Result<Nap, Error> {
        let attempt = self.recovery.attempt().map(AsFd::as_fd);
        let watched = attempt.into_iter().chain(other);
        let mut fds: Vec<_> =
            watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        self.pump.system_calls += 1;
        match poll(&mut fds, left.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Nap::Time),
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        Ok(match fds.iter().position(|fd| !fd.revents().is_empty()) {
            Some(0) if attempt.is_some() => Nap::Attempt,
            Some(_) => Nap::Other,
            None => Nap::Time,
        })
    }

    /// Goes on over another connection, if it leads to the same thing.
    fn adopt(&mut self, client: Client) -> Result<(), Error> {
        let Client { core, mut pump, .. } = client;
        self.recovery.ledger.resume(core.negotiated())?;
        pump.set_timeout(self.pump.timeout)?;
        *self.core = core;
        if let Some(mode) = self.recovery.strict {
            self.core.set_strict(mode);
        }
        self.pump.link = pump.link;
        self.pump.connection = pump.connection;
        self.pump.system_calls += pump.system_calls;
        self.pump.trace.established(self.core.negotiated());
        self.recovery.went_up();
        Ok(())
    }

    /// Why there is nothing to wait for.
    fn over(&self) -> Error {
        match self.recovery.ledger.ended() {
            Some(end) => end.clone().into(),
            None => closed(),
        }
    }

    /// Stops waiting for a command whose memory is not ours any more.
    #[cold]
    #[inline(never)]
    pub(crate) fn abandon(&mut self, id: RequestId) {
        let sent = self.recovery.ledger.sent(id);
        let gone = sent.is_none_or(|sent| self.core.abandon(sent));
        if !gone && self.core.get_direction().contains(Direction::WRITE) {
            // A part of the request is still to be sent: the stream cannot go on.
            self.recovery.ledger.cancel(id);
            self.lost(closed());
        } else {
            self.recovery.ledger.cancel(id);
        }
    }

    /// Stops waiting for everything. What is partly sent is sent to its end, for its memory
    /// goes with the caller.
    #[cold]
    #[inline(never)]
    pub(crate) fn leave(&mut self) {
        for id in self.recovery.ledger.waiting() {
            if let Some(sent) = self.recovery.ledger.sent(id) {
                self.core.abandon(sent);
            }
        }
        while self.core.in_flight() > 0 && self.core.get_direction().contains(Direction::WRITE) {
            let ports = &mut Renamed { journal: self.recovery.ledger.journal(), ports: self.ports };
            let result = self.pump.round(self.core, ports);
            if let Err(error) = self.settle(result) {
                self.lost(error);
            }
        }
        for id in self.recovery.ledger.waiting() {
            self.recovery.ledger.cancel(id);
        }
    }

    /// Ends the session once everything is done that was asked for.
    #[cold]
    #[inline(never)]
    pub(crate) fn disconnect(&mut self, when: Disconnect) {
        self.recovery.ending = Ending::Wanted;
        self.recovery.ledger.hand_over(self.core);
        let after_replies = matches!(when, Disconnect::AfterReplies);
        if !after_replies || self.recovery.ledger.journal().is_idle() {
            self.end(when);
        }
    }

    fn end(&mut self, when: Disconnect) {
        self.recovery.ending = Ending::Told;
        self.core.disconnect(when);
    }

    /// Waits until acknowledged writes that were lost have been put back. Returns whether
    /// there is a connection then.
    #[cold]
    #[inline(never)]
    pub(crate) fn put_back(&mut self) -> Result<bool, Error> {
        let deadline = self.pump.deadline();
        loop {
            let ledger = &self.recovery.ledger;
            if let Some(end) = ledger.ended() {
                return Err(end.clone().into());
            }
            if ledger.journal().is_idle() {
                break;
            }
            self.round(deadline)?;
        }
        if self.recovery.is_down() && self.recovery.ledger.journal().has_unflushed() {
            return Err(RecoveryError::UnflushedLost.into());
        }
        Ok(!self.recovery.is_down())
    }
}

pub(super) fn closed() -> Error {
    Error::Protocol(PeerMisbehaved::Closed.into())
}
