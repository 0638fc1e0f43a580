//! The thread that serves a device: requests from the kernel go to the server, replies come back.
//!
//! ```text
//!   kernel ── socket ── Queue ─► request, Buffer ─► Lanes ── connection ── server
//!                       Queue ◄── reply, Buffer ◄── Lanes
//! ```
//!
//! Payload stays in one buffer from one socket to the other, and buffers are used again: while
//! the kernel writes to us because it is short of memory, we want none of it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nbd_client_mio::proto::{Errno, ExportInfo, TransmissionFlags};
use nbd_client_mio::session::Event;
use nbd_client_mio::{ConnectOptions, Connection, Error, Limit, State};

use super::buffers::{Buffer, Spare};
use super::lanes::{Done, Lanes, Owner};
use super::queue::Queue;
use super::status::{Health, Status};

/// The token of the first queue; connections have those below.
const QUEUES: usize = 1 << 16;

/// How long the server has for the last replies and the last flush, once the kernel has left.
const FAREWELL: Duration = Duration::from_secs(30);

/// What serves a device.
#[derive(Debug)]
pub(super) struct Relay {
    poll: Poll,
    events: Events,
    lanes: Lanes,
    keeps: bool,
    queues: Vec<Queue>,
    spare: Spare,
    status: Arc<Status>,
}

/// A connection that is ready, over a poll of its own.
fn connect(
    options: ConnectOptions,
    poll: &mut Poll,
    token: Token,
) -> Result<Connection<Buffer>, Error> {
    let mut connection = Connection::connect(options)?;
    poll.registry().register(&mut connection, token, mio::Interest::READABLE)?;
    let mut events = Events::with_capacity(16);
    loop {
        match connection.drive(poll.registry())? {
            State::Ready => return Ok(connection),
            State::Closed => return Err(io::Error::from(io::ErrorKind::NotConnected).into()),
            _ => {}
        }
        if connection.needs_drive() {
            continue;
        }
        let left =
            connection.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        wait(poll, &mut events, left)?;
        events.iter().filter(|event| event.token() == token).for_each(|event| {
            connection.handle_event(event);
        });
        if connection.next_deadline().is_some_and(|at| at <= Instant::now()) {
            connection.handle_timeout(Instant::now());
        }
    }
}

/// Polls; a signal is no event.
fn wait(poll: &mut Poll, events: &mut Events, left: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, left) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        polled => polled,
    }
}

impl Relay {
    /// Connects to the server, with as many connections as it takes, `connections` at most. So
    /// many bytes of what is written are `kept` until they are flushed.
    ///
    /// # Errors
    /// When there is not even one.
    pub(super) fn connect(
        options: &ConnectOptions,
        connections: usize,
        kept: usize,
        status: Arc<Status>,
    ) -> Result<Self, Error> {
        let mut poll = Poll::new()?;
        let first = connect(options.clone(), &mut poll, Token(0))?;
        // Of an export that nobody can write to nothing is kept.
        let read_only = first.session().export().is_some_and(ExportInfo::is_read_only);
        let keeps = options.keeps_unflushed() && !read_only;
        let mut lanes = Lanes::new(first, connections, keeps);
        while lanes.wants_more() {
            let token = Token(lanes.connections().count());
            let Ok(another) = connect(options.clone(), &mut poll, token) else { break };
            if !lanes.join(another, keeps) {
                break;
            }
        }
        let events = Events::with_capacity(64);
        let (queues, spare) = (Vec::new(), Spare::new(kept));
        let relay = Self { poll, events, lanes, keeps, queues, spare, status };
        let size = relay.export().map_or(0, |export| export.size);
        relay.status.change(|news| news.size = size);
        Ok(relay)
    }

    /// The export, as the server describes it.
    pub(super) fn export(&self) -> Option<&ExportInfo> {
        self.lanes.connections().next()?.session().export()
    }

    /// The longest request that the server takes, in bytes.
    pub(super) fn longest_request(&self) -> usize {
        let longest = self.lanes.connections().map(|one| one.session().max_request()).min();
        longest.unwrap_or(0)
    }

    /// Whether what is written is kept until it is flushed.
    pub(super) const fn keeps(&self) -> bool {
        self.keeps
    }

    /// How many connections there are.
    pub(super) fn connections(&self) -> usize {
        self.lanes.connections().count()
    }

    /// Serves the kernel at this socket too, with these abilities.
    ///
    /// # Errors
    /// When the system is short of something.
    pub(super) fn serve(&mut self, socket: UnixStream, flags: TransmissionFlags) -> io::Result<()> {
        let queue = Queue::new(socket, flags).ok_or(io::ErrorKind::InvalidInput)?;
        queue.register(self.poll.registry(), Token(QUEUES + self.queues.len()))?;
        self.queues.push(queue);
        Ok(())
    }

    /// Serves until the kernel has left, or the server is lost for good.
    ///
    /// # Errors
    /// When the server is lost, and when it is not certain that everything which was
    /// acknowledged is safe.
    pub(super) fn run(mut self) -> Result<(), Error> {
        // Whatever waits in the kernel then fails, for the sockets close.
        self.relay().and_then(|()| self.leave())
    }

    fn relay(&mut self) -> Result<(), Error> {
        loop {
            for number in 0..self.queues.len() {
                self.take_requests(number);
            }
            let alive = self.lanes.drive(self.poll.registry());
            self.answer_all();
            self.tell();
            if !alive {
                self.queues.iter_mut().for_each(Queue::send);
                let cause = self.lanes.connections().find_map(|one| one.session().end().cloned());
                return cause.map_or(Ok(()), Err);
            }
            self.queues.iter_mut().for_each(Queue::send);
            if self.queues.iter().all(Queue::is_over) {
                return Ok(());
            }
            self.wait()?;
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let at_once = self.lanes.needs_drive() || self.queues.iter().any(Queue::needs_drive);
        let left = match at_once {
            true => Some(Duration::ZERO),
            false => {
                let deadline = self.lanes.next_deadline();
                deadline.map(|at| at.saturating_duration_since(Instant::now()))
            }
        };
        wait(&mut self.poll, &mut self.events, left)?;
        for event in &self.events {
            let Token(number) = event.token();
            match number.checked_sub(QUEUES) {
                None => self.lanes.handle_event(event),
                Some(number) => {
                    self.queues.get_mut(number).into_iter().for_each(Queue::handle_event);
                }
            }
        }
        if !at_once {
            self.lanes.handle_timeout(Instant::now());
        }
        Ok(())
    }

    fn take_requests(&mut self, number: usize) {
        let Self { queues, lanes, spare, .. } = self;
        let Some(queue) = queues.get_mut(number) else { return };
        queue.receive(spare);
        while let Some((id, command, buffer)) = queue.next_request(spare) {
            let owner = Owner { queue: number, id };
            if let Err(rejected) = lanes.submit(owner, command, buffer, spare) {
                let errno = Errno::from_linux(rejected.error.errno());
                queue.answer(id, &command, rejected.buffer, Err(errno), spare);
            }
        }
    }

    fn answer_all(&mut self) {
        let Self { queues, lanes, spare, .. } = self;
        while let Some(Done { owner, command, buffer, result }) = lanes.next_done() {
            let Some(queue) = queues.get_mut(owner.queue) else { continue };
            let result = result.map_err(|error| Errno::from_linux(error.errno()));
            queue.answer(owner.id, &command, buffer, result, spare);
        }
    }

    /// Passes on what happened to the connections.
    fn tell(&mut self) {
        let mut changed = None;
        while let Some(event) = self.lanes.next_event() {
            let (health, trouble) = match event {
                Event::Lost { cause } => (Health::Reconnecting, Some(cause.to_string())),
                Event::Failed { cause, .. } => (Health::Reconnecting, Some(cause.to_string())),
                Event::GaveUp { cause } => (Health::Failed, Some(cause.to_string())),
                Event::Reconnected { .. } => (Health::Connected, None),
                _ => continue,
            };
            changed = Some((health, trouble));
        }
        let Some((health, trouble)) = changed else { return };
        let reconnects =
            self.lanes.stats().map(|stats| stats.connections.saturating_sub(1)).sum::<u64>();
        let size = self.export().map_or(0, |export| export.size);
        self.status.change(|news| {
            news.health = health;
            news.reconnects = reconnects;
            news.trouble = trouble.or_else(|| news.trouble.take());
            news.size = size;
        });
    }

    /// Takes leave of the server, when all that was acknowledged is safe there.
    fn leave(&mut self) -> Result<(), Error> {
        let nobody = Owner { queue: usize::MAX, id: super::lanes::NOBODY };
        let limit = Instant::now() + FAREWELL;
        let flushes = self
            .export()
            .is_some_and(|export| export.flags.contains(TransmissionFlags::SEND_FLUSH));
        let mut flushed = Ok(());
        if flushes {
            let command = nbd_client_mio::proto::Command::flush();
            let submitted = self.lanes.submit(nobody, command, None, &mut self.spare);
            flushed = submitted.map_err(|rejected| rejected.error);
        }
        let mut waiting = flushes && flushed.is_ok();
        self.queues.clear();
        let mut leaving = false;
        loop {
            let alive = self.lanes.drive(self.poll.registry());
            while let Some(done) = self.lanes.next_done() {
                if done.owner == nobody {
                    waiting = false;
                    flushed = done.result;
                }
            }
            if !alive {
                return flushed.and_then(|()| self.lanes.farewell());
            }
            if !leaving && (!waiting || Instant::now() >= limit) {
                leaving = true;
                self.lanes.disconnect(Limit::Until(limit));
                continue;
            }
            let until = self.lanes.next_deadline().map_or(limit, |at| at.min(limit));
            let left = match self.lanes.needs_drive() {
                true => Duration::ZERO,
                false => until.saturating_duration_since(Instant::now()),
            };
            wait(&mut self.poll, &mut self.events, Some(left))?;
            self.events.iter().for_each(|event| self.lanes.handle_event(event));
            self.lanes.handle_timeout(Instant::now());
        }
    }
}
