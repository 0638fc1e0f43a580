//! The connections to the server, as one: which takes which request, and what a flush is worth.

use std::time::Instant;

use mio::{Registry, Token};
use nbd_client_mio::proto::{Buffers, Command, CommandType, RequestId};
use nbd_client_mio::session::pool::{Flush, Members};
use nbd_client_mio::session::{Event, Request, SessionStats};
use nbd_client_mio::{Connection, Error, Limit, Rejected, State};

use super::buffers::{Buffer, Spare};

/// Whose request it is: a queue of the kernel's, and the request's name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) queue: usize,
    pub(super) id: RequestId,
}

/// No request of the kernel's has that name.
pub(super) const NOBODY: RequestId = RequestId::from_cookie(u64::MAX);

/// A request that has been carried out, or has failed.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) owner: Owner,
    pub(super) command: Command,
    pub(super) buffer: Option<Buffer>,
    pub(super) result: Result<(), Error>,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    members: Members,
    /// By their places, which are used over and over.
    flushes: Vec<Option<FlushOfAll>>,
    /// Flushes that ended before anything was sent.
    ready: Vec<Done>,
}

#[derive(Debug)]
struct Lane {
    connection: Connection<Buffer>,
    /// By the names that the connection has for its requests.
    waiting: Buffers<Waiting>,
}

/// Who waits for a command of a connection.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    Request(Owner),
    /// The flush of that place.
    Flush(usize),
}

/// One flush of the kernel's, on each connection that has something to flush.
#[derive(Debug)]
struct FlushOfAll {
    owner: Owner,
    flush: Flush,
    /// How many of its members have been asked.
    asked: usize,
    /// And how many of those have not answered.
    left: usize,
}

impl Lanes {
    /// One connection, which is ready; there may be `most`. It is registered with token 0, and
    /// each of the others with one more than the last.
    pub(super) fn new(first: Connection<Buffer>, most: usize, keeps: bool) -> Self {
        let mut lanes = Self {
            lanes: Vec::new(),
            members: Members::new(most),
            flushes: Vec::new(),
            ready: Vec::new(),
        };
        lanes.join(first, keeps);
        lanes
    }

    /// A connection that is ready joins, if that is safe.
    pub(super) fn join(&mut self, connection: Connection<Buffer>, keeps: bool) -> bool {
        let facts = connection.session().negotiated();
        let joined = facts.and_then(|facts| self.members.join(facts, keeps)).is_some();
        if joined {
            self.lanes.push(Lane { connection, waiting: Buffers::new() });
        }
        joined
    }

    /// Whether another connection may join.
    pub(super) const fn wants_more(&self) -> bool {
        self.members.wants_more()
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection<Buffer>> {
        self.lanes.iter().map(|lane| &lane.connection)
    }

    /// The token of a connection is its number.
    pub(super) fn handle_event(&mut self, event: &mio::event::Event) {
        let Token(number) = event.token();
        if let Some(lane) = self.lanes.get_mut(number) {
            lane.connection.handle_event(event);
        }
    }

    /// Sends a request. What is kept of it shares its buffer.
    ///
    /// # Errors
    /// When it cannot be sent; [`Error::is_full`] tells that it can be once another is done.
    pub(super) fn submit(
        &mut self,
        owner: Owner,
        command: Command,
        buffer: Option<Buffer>,
        spare: &mut Spare,
    ) -> Result<(), Rejected<Buffer>> {
        if command.kind == CommandType::Flush {
            self.begin_flush(owner);
            return Ok(());
        }
        let Some(number) = self.members.pick(usize::MAX) else {
            return Err(Rejected { error: self.end(), buffer });
        };
        let keeps = |lane: &Lane| lane.connection.session().keeps_payload(&command);
        let (request, buffer) = match buffer {
            Some(buffer) if self.lanes.get(number).is_some_and(keeps) => {
                (Request::new(command).payload(spare.share(buffer)), None)
            }
            buffer => (Request::new(command), buffer),
        };
        let submitted = self.send(number, request, buffer, Waiting::Request(owner));
        if submitted.is_err() {
            self.members.finished(number);
        }
        submitted
    }

    fn send(
        &mut self,
        number: usize,
        request: Request<'_>,
        buffer: Option<Buffer>,
        waiting: Waiting,
    ) -> Result<(), Rejected<Buffer>> {
        let Some(lane) = self.lanes.get_mut(number) else {
            return Err(Rejected { error: self.end(), buffer });
        };
        let id = lane.connection.submit_request(request, buffer)?;
        lane.waiting.insert(id, waiting);
        Ok(())
    }

    /// Why there is no connection any more.
    fn end(&self) -> Error {
        let end = self.lanes.iter().find_map(|lane| lane.connection.session().end());
        end.cloned()
            .unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
    }

    fn begin_flush(&mut self, owner: Owner) {
        let lanes = &self.lanes;
        let flush = self.members.begin_flush(|number| {
            lanes.get(number).is_some_and(|lane| lane.connection.session().has_unflushed())
        });
        let begun = FlushOfAll { owner, flush, asked: 0, left: 0 };
        let free = self.flushes.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.flushes.push(None);
            self.flushes.len() - 1
        });
        self.go_on(place, begun);
    }

    /// Asks those members that have not been asked, and ends the flush when all have answered.
    fn go_on(&mut self, place: usize, mut flush: FlushOfAll) {
        while let Some(number) = flush.flush.members().get(flush.asked).copied() {
            flush.asked += 1;
            match self.send(number, Command::flush().into(), None, Waiting::Flush(place)) {
                Ok(()) => {
                    self.members.pick_one(number, usize::MAX);
                    flush.left += 1;
                }
                Err(rejected) => {
                    self.note_death(number);
                    self.members.flushed(&mut flush.flush, Err(rejected.error));
                }
            }
        }
        if flush.left > 0 {
            self.flushes[place] = Some(flush);
            return;
        }
        let FlushOfAll { owner, flush, asked, .. } = flush;
        let result = match asked {
            0 => Err(self.end()),
            _ => self.members.end_flush(flush),
        };
        self.ready.push(Done { owner, command: Command::flush(), buffer: None, result });
    }

    fn note_death(&mut self, number: usize) {
        let Some(lane) = self.lanes.get(number) else { return };
        let session = lane.connection.session();
        if session.is_over() {
            self.members.died(number, session.has_unflushed());
        }
    }

    /// Moves what can be moved. Whether any connection is left.
    pub(super) fn drive(&mut self, registry: &Registry) -> bool {
        for number in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(number) else { break };
            let now_over = match lane.connection.drive(registry) {
                Ok(state) => state == State::Closed,
                // Everybody who waits is told that by the completions.
                Err(_) => true,
            };
            if now_over {
                self.note_death(number);
            }
        }
        self.members.alive() > 0
    }

    /// Does what is due at this time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            if lane.connection.next_deadline().is_some_and(|at| at <= now) {
                lane.connection.handle_timeout(now);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.connection.next_deadline()).min()
    }

    pub(super) fn needs_drive(&self) -> bool {
        self.lanes.iter().any(|lane| lane.connection.needs_drive())
    }

    /// The next request that is done.
    pub(super) fn next_done(&mut self) -> Option<Done> {
        for number in 0..self.lanes.len() {
            while let Some((waiting, completion)) = self.next_of(number) {
                self.members.finished(number);
                match waiting {
                    Waiting::Request(owner) => {
                        let nbd_client_mio::Completion { command, buffer, result, .. } = completion;
                        return Some(Done { owner, command, buffer, result });
                    }
                    Waiting::Flush(place) => self.flushed(number, place, completion.result),
                }
            }
        }
        self.ready.pop()
    }

    fn next_of(&mut self, number: usize) -> Option<(Waiting, nbd_client_mio::Completion<Buffer>)> {
        let lane = self.lanes.get_mut(number)?;
        loop {
            let completion = lane.connection.next_completion()?;
            if let Some(waiting) = lane.waiting.remove(completion.id) {
                return Some((waiting, completion));
            }
        }
    }

    fn flushed(&mut self, number: usize, place: usize, result: Result<(), Error>) {
        let Some(mut flush) = self.flushes.get_mut(place).and_then(Option::take) else { return };
        if result.is_err() {
            self.note_death(number);
        }
        flush.left -= 1;
        self.members.flushed(&mut flush.flush, result);
        self.go_on(place, flush);
    }

    /// What happened to the connections, one thing after the other.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.lanes.iter_mut().find_map(|lane| lane.connection.next_event())
    }

    /// What the connections have done, each for itself.
    pub(super) fn stats(&self) -> impl Iterator<Item = SessionStats> {
        self.lanes.iter().map(|lane| lane.connection.session().stats())
    }

    /// Begins to end the connections in good order, by `limit`.
    pub(super) fn disconnect(&mut self, limit: Limit) {
        for lane in &mut self.lanes {
            lane.connection.disconnect(limit);
        }
    }

    /// Whether everything that was acknowledged is safe, once all connections are over.
    ///
    /// # Errors
    /// Why that is not certain.
    pub(super) fn farewell(&self) -> Result<(), Error> {
        self.members.farewell()?;
        self.lanes.iter().find_map(|lane| lane.connection.error()).map_or(Ok(()), Err)
    }
}
