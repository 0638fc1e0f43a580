//! The connections to a server, as one, for those who pass on the requests of a kernel: which
//! takes which request, and what a flush is worth.
//!
//! | file | what |
//! |---|---|
//! | `mod` | requests on their way to the server, and what came of them |
//! | `connect` | how the connections are made and ended |
//! | `servers` | which servers they are to |
//! | `alike` | whether these can be taken for one another |

mod alike;
mod connect;
mod servers;

use std::time::Instant;

use mio::{Registry, Token};
use nbd_client_mio::proto::{
    Buffers, Command, CommandType, ContextId, ExportInfo, Extent, RequestId,
};
use nbd_client_mio::session::pool::{Flush, Members};
use nbd_client_mio::session::{Event, PooledBuffer, Request, SessionStats};
use nbd_client_mio::transport::Endpoint;
use nbd_client_mio::{Completion, ConnectOptions, Connection, Error, Limit, Rejected, State};

pub(crate) use connect::wait;
pub(crate) use servers::{Others, Servers};

/// How many bytes are kept by default, in case that the server loses them.
pub(crate) const KEPT: &str = "64M";

/// A request that has been carried out, or has failed.
#[derive(Debug)]
pub(crate) struct Done<O> {
    /// Whose it is; nobody's is what was sent by those who leave.
    pub(crate) owner: Option<O>,
    pub(crate) command: Command,
    /// What was read, or a buffer that is not needed any more.
    pub(crate) buffer: Option<PooledBuffer>,
    pub(crate) extents: Vec<(ContextId, Extent)>,
    pub(crate) result: Result<(), Error>,
}

/// All connections, and whose their requests are.
#[derive(Debug)]
pub(crate) struct Connections<O> {
    members: Vec<Member<O>>,
    pool: Members,
    /// By their places, which are used over and over.
    flushes: Vec<Option<FlushOfAll<O>>>,
    /// What ended before anything was sent.
    ready: Vec<Done<O>>,
    /// Requests that were submitted and are not done.
    in_flight: usize,
    options: ConnectOptions,
}

#[derive(Debug)]
struct Member<O> {
    connection: Connection<PooledBuffer>,
    /// By the names that the connection has for its requests.
    waiting: Buffers<Waiting<O>>,
}

/// Who waits for a command of a connection.
#[derive(Debug)]
enum Waiting<O> {
    Request(Option<O>),
    /// The flush of that place.
    Flush(usize),
}

/// One flush of the kernel's, on each connection that has something to flush.
#[derive(Debug)]
struct FlushOfAll<O> {
    owner: Option<O>,
    flush: Flush,
    /// How many of its members have been asked.
    asked: usize,
    /// And how many of those have not answered.
    left: usize,
}

impl<O> Connections<O> {
    /// One connection, which is ready; there may be `most`.
    fn new(first: Connection<PooledBuffer>, most: usize, options: ConnectOptions) -> Self {
        let mut connections = Self {
            members: Vec::new(),
            pool: Members::new(most),
            flushes: Vec::new(),
            ready: Vec::new(),
            in_flight: 0,
            options,
        };
        connections.join(first);
        connections
    }

    /// A connection that is ready joins, if that is safe.
    fn join(&mut self, connection: Connection<PooledBuffer>) -> bool {
        let facts = connection.session().negotiated();
        let joined = facts.and_then(|facts| self.pool.join(facts, &self.options)).is_some();
        if joined {
            self.members.push(Member { connection, waiting: Buffers::new() });
        }
        joined
    }

    /// Whether another connection may join.
    const fn wants_more(&self) -> bool {
        self.pool.wants_more()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection<PooledBuffer>> {
        self.members.iter().map(|member| &member.connection)
    }

    /// The export, as the server describes it.
    pub(crate) fn export(&self) -> Option<&ExportInfo> {
        self.iter().next()?.session().export()
    }

    /// The token of a connection is its number.
    pub(crate) fn handle_event(&mut self, event: &mio::event::Event) {
        let Token(number) = event.token();
        if let Some(member) = self.members.get_mut(number) {
            member.connection.handle_event(event);
        }
    }

    /// Sends a request; [`next_done`](Self::next_done) has what came of it, also when it could
    /// not be sent. What is kept of it shares its buffer.
    pub(crate) fn submit(
        &mut self,
        owner: Option<O>,
        command: Command,
        buffer: Option<PooledBuffer>,
    ) {
        self.in_flight += 1;
        if command.kind == CommandType::Flush {
            self.begin_flush(owner);
            return;
        }
        let Some(number) = self.pool.pick(usize::MAX) else {
            let error = self.end();
            return self.reject(owner, command, Rejected { error, buffer });
        };
        let keeps = |member: &Member<O>| member.connection.session().keeps_payload(&command);
        let (request, buffer) = match buffer {
            Some(buffer) if self.members.get(number).is_some_and(keeps) => {
                (Request::new(command).payload(buffer.into()), None)
            }
            buffer => (Request::new(command), buffer),
        };
        match self.send(number, request, buffer) {
            Ok(id) => self.wait_for(number, id, Waiting::Request(owner)),
            Err(rejected) => {
                self.pool.finished(number);
                self.reject(owner, command, rejected);
            }
        }
    }

    /// Requests that were submitted and are not done.
    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn reject(&mut self, owner: Option<O>, command: Command, rejected: Rejected<PooledBuffer>) {
        let Rejected { error, buffer } = rejected;
        let (extents, result) = (Vec::new(), Err(error));
        self.ready.push(Done { owner, command, buffer, extents, result });
    }

    fn send(
        &mut self,
        number: usize,
        request: Request<'_>,
        buffer: Option<PooledBuffer>,
    ) -> Result<RequestId, Rejected<PooledBuffer>> {
        match self.members.get_mut(number) {
            Some(member) => member.connection.submit_request(request, buffer),
            None => Err(Rejected { error: self.end(), buffer }),
        }
    }

    fn wait_for(&mut self, number: usize, id: RequestId, waiting: Waiting<O>) {
        if let Some(member) = self.members.get_mut(number) {
            member.waiting.insert(id, waiting);
        }
    }

    /// Why there is no connection any more.
    fn end(&self) -> Error {
        let end = self.members.iter().find_map(|member| member.connection.session().end());
        end.cloned()
            .unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
    }

    fn begin_flush(&mut self, owner: Option<O>) {
        let members = &self.members;
        let flush = self.pool.begin_flush(|number| {
            members.get(number).is_some_and(|member| member.connection.session().has_unflushed())
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
    fn go_on(&mut self, place: usize, mut flush: FlushOfAll<O>) {
        while let Some(number) = flush.flush.members().get(flush.asked).copied() {
            flush.asked += 1;
            match self.send(number, Command::flush().into(), None) {
                Ok(id) => {
                    self.wait_for(number, id, Waiting::Flush(place));
                    self.pool.pick_one(number, usize::MAX);
                    flush.left += 1;
                }
                Err(rejected) => {
                    self.note_death(number);
                    self.pool.flushed(&mut flush.flush, Err(rejected.error));
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
            _ => self.pool.end_flush(flush),
        };
        let (command, buffer, extents) = (Command::flush(), None, Vec::new());
        self.ready.push(Done { owner, command, buffer, extents, result });
    }

    fn note_death(&mut self, number: usize) {
        let Some(member) = self.members.get(number) else { return };
        let session = member.connection.session();
        if session.is_over() {
            self.pool.died(number, session.has_unflushed());
        }
    }

    /// Moves what can be moved. Whether any connection is left.
    pub(crate) fn drive(&mut self, registry: &Registry) -> bool {
        for number in 0..self.members.len() {
            let Some(member) = self.members.get_mut(number) else { break };
            let now_over = match member.connection.drive(registry) {
                Ok(state) => state == State::Closed,
                // Everybody who waits is told that by the completions.
                Err(_) => true,
            };
            if now_over {
                self.note_death(number);
            }
        }
        self.pool.alive() > 0
    }

    /// Does what is due at this time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for member in &mut self.members {
            if member.connection.next_deadline().is_some_and(|at| at <= now) {
                member.connection.handle_timeout(now);
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.members.iter().filter_map(|member| member.connection.next_deadline()).min()
    }

    pub(crate) fn needs_drive(&self) -> bool {
        self.members.iter().any(|member| member.connection.needs_drive())
    }

    /// The next request that is done.
    pub(crate) fn next_done(&mut self) -> Option<Done<O>> {
        let done = self.find_done();
        self.in_flight -= usize::from(done.is_some());
        done
    }

    fn find_done(&mut self) -> Option<Done<O>> {
        for number in 0..self.members.len() {
            while let Some((waiting, completion)) = self.next_of(number) {
                self.pool.finished(number);
                match waiting {
                    Waiting::Request(owner) => {
                        let Completion { command, buffer, extents, result, .. } = completion;
                        return Some(Done { owner, command, buffer, extents, result });
                    }
                    Waiting::Flush(place) => self.flushed(number, place, completion.result),
                }
            }
        }
        self.ready.pop()
    }

    fn next_of(&mut self, number: usize) -> Option<(Waiting<O>, Completion<PooledBuffer>)> {
        let member = self.members.get_mut(number)?;
        loop {
            let completion = member.connection.next_completion()?;
            if let Some(waiting) = member.waiting.remove(completion.id) {
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
        self.pool.flushed(&mut flush.flush, result);
        self.go_on(place, flush);
    }

    /// What happened to the connections, one thing after the other, and to which server that one
    /// is.
    pub(crate) fn next_event(&mut self) -> Option<(Event, Option<Endpoint>)> {
        self.members.iter_mut().find_map(|member| {
            let event = member.connection.next_event()?;
            let endpoint = match &event {
                // The next one is up already.
                Event::Failed { endpoint, .. } => endpoint.clone(),
                _ => member.connection.session().endpoint().cloned(),
            };
            Some((event, endpoint))
        })
    }

    /// What the connections have done, each for itself.
    pub(crate) fn stats(&self) -> impl Iterator<Item = SessionStats> {
        self.members.iter().map(|member| member.connection.session().stats())
    }

    /// Begins to end the connections in good order, by `limit`.
    pub(crate) fn disconnect(&mut self, limit: Limit) {
        // From here on a connection that ends is no loss: what it says of its end counts.
        let _ = self.pool.leave();
        for member in &mut self.members {
            member.connection.disconnect(limit);
        }
    }

    /// Whether everything that was acknowledged is safe, once all connections are over.
    ///
    /// # Errors
    /// Why that is not certain.
    pub(crate) fn farewell(&self) -> Result<(), Error> {
        self.pool.farewell()?;
        self.members.iter().find_map(|member| member.connection.error()).map_or(Ok(()), Err)
    }
}
