//! The thread that serves a device: requests from the kernel go to the server, replies come back.
//!
//! ```text
//!   kernel ── socket ── Queue ─► request, buffer ─► Connections ── connection ── server
//!                       Queue ◄── reply, buffer ◄── Connections
//! ```
//!
//! Payload stays in one buffer from one socket to the other, and buffers are used again: while
//! the kernel writes to us because it is short of memory, we want none of it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nbd_client_mio::proto::{Errno, ExportInfo, RequestId, TransmissionFlags};
use nbd_client_mio::session::{BufferPool, Event};
use nbd_client_mio::{ConnectOptions, Connection, Error};

use super::queue::Queue;
use super::status::{Health, Status};
use crate::connections::{Connections, Done, Servers, wait};
use crate::failure::in_words;

/// The token of the first queue; connections have those below.
const QUEUES: usize = 1 << 16;

/// So many turns may follow each other without a look at what else has come.
const UNASKED: u32 = 7;

/// Whose request it is: a queue of the kernel's, and the request's name there.
#[derive(Clone, Copy, Debug)]
struct Owner {
    queue: usize,
    id: RequestId,
}

/// What serves a device.
#[derive(Debug)]
pub(super) struct Relay {
    poll: Poll,
    events: Events,
    connections: Connections<Owner>,
    queues: Vec<Queue>,
    memory: BufferPool,
    servers: Servers,
    /// Turns since the last look at what has come.
    unasked: u32,
    status: Arc<Status>,
}

impl Relay {
    /// Connects to one of the servers, with as many connections as it takes, `connections` at most. So
    /// many bytes of what is written are `kept` until they are flushed.
    ///
    /// # Errors
    /// When there is not even one.
    pub(super) fn connect(
        servers: &Servers,
        options: &ConnectOptions,
        connections: usize,
        kept: usize,
        status: Arc<Status>,
    ) -> Result<Self, Error> {
        let mut poll = Poll::new()?;
        let connections = Connections::connect(options, connections, &mut poll)?;
        let events = Events::with_capacity(64);
        let (queues, memory, servers) = (Vec::new(), BufferPool::keeping(kept), servers.clone());
        let relay = Self { poll, events, connections, queues, memory, servers, unasked: 0, status };
        let size = relay.export().map_or(0, |export| export.size);
        let in_use = relay.in_use();
        relay.status.change(|news| (news.size, news.in_use) = (size, in_use));
        Ok(relay)
    }

    /// Looks whether the servers that are not in use can be taken for the one that is.
    pub(super) fn compare(&self, limit: Option<Duration>) -> crate::failure::Result<()> {
        self.connections
            .iter()
            .next()
            .map_or(Ok(()), |first| self.servers.compare(first.session(), limit))
    }

    /// Where there are several servers, those that are connected to.
    pub(super) fn in_use(&self) -> Vec<String> {
        self.servers.in_use(self.connections.iter().map(Connection::session))
    }

    /// The export, as the server describes it.
    pub(super) fn export(&self) -> Option<&ExportInfo> {
        self.connections.export()
    }

    /// The longest request that the server takes, in bytes.
    pub(super) fn longest_request(&self) -> usize {
        let longest = self.connections.iter().map(|one| one.session().max_request()).min();
        longest.unwrap_or(0)
    }

    /// Why there are not as many connections as the user wants.
    pub(super) fn why_fewer(&self, is_command: bool) -> &'static str {
        self.connections.why_fewer(is_command)
    }

    /// How many connections there are.
    pub(super) fn connections(&self) -> usize {
        self.connections.iter().count()
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
        let relayed = self.relay();
        let Self { mut poll, mut events, mut connections, queues, .. } = self;
        drop(queues);
        relayed.and_then(|()| connections.leave(&mut poll, &mut events))
    }

    fn relay(&mut self) -> Result<(), Error> {
        loop {
            for number in 0..self.queues.len() {
                self.take_requests(number);
            }
            let alive = self.connections.drive(self.poll.registry());
            self.answer_all();
            self.tell();
            if !alive {
                self.queues.iter_mut().for_each(Queue::send);
                let cause = self.connections.iter().find_map(|one| one.session().end().cloned());
                return cause.map_or(Ok(()), Err);
            }
            self.queues.iter_mut().for_each(Queue::send);
            if self.queues.iter().all(Queue::is_over) {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Waits for something to do. While there is something at once it only looks, and not every
    /// time: what is there is known, and the kernel has sent what comes behind it before.
    fn wait(&mut self) -> io::Result<()> {
        let at_once = self.connections.needs_drive() || self.queues.iter().any(Queue::needs_drive);
        if at_once && self.unasked < UNASKED {
            self.unasked += 1;
            return Ok(());
        }
        self.unasked = 0;
        let left = match at_once {
            true => Some(Duration::ZERO),
            false => {
                let deadline = self.connections.next_deadline();
                deadline.map(|at| at.saturating_duration_since(Instant::now()))
            }
        };
        wait(&mut self.poll, &mut self.events, left)?;
        for event in &self.events {
            let Token(number) = event.token();
            match number.checked_sub(QUEUES) {
                None => self.connections.handle_event(event),
                Some(number) => {
                    let queue = self.queues.get_mut(number);
                    queue.into_iter().for_each(|queue| queue.handle_event(event));
                }
            }
        }
        // One that is busy does not keep the others from being late.
        self.connections.handle_timeout(Instant::now());
        Ok(())
    }

    fn take_requests(&mut self, number: usize) {
        let Self { queues, connections, memory, .. } = self;
        let Some(queue) = queues.get_mut(number) else { return };
        queue.receive(memory);
        while let Some((id, command, buffer)) = queue.next_request(memory) {
            connections.submit(Some(Owner { queue: number, id }), command, buffer);
        }
    }

    fn answer_all(&mut self) {
        let Self { queues, connections, .. } = self;
        while let Some(Done { owner, command, buffer, result, .. }) = connections.next_done() {
            let Some(owner) = owner else { continue };
            let Some(queue) = queues.get_mut(owner.queue) else { continue };
            let result = result.map_err(|error| Errno::from_linux(error.errno()));
            queue.answer(owner.id, &command, buffer, result);
        }
    }

    /// Passes on what happened to the connections.
    fn tell(&mut self) {
        let mut changed = None;
        while let Some((event, server)) = self.connections.next_event() {
            let words = |cause: &Error| match self.servers.name_at(server.as_ref()) {
                Some(name) => format!("{name}: {}", in_words(cause)),
                None => in_words(cause),
            };
            let (health, trouble) = match event {
                Event::Lost { cause } => (Health::Reconnecting, Some(words(&cause))),
                Event::Failed { cause, .. } => (Health::Reconnecting, Some(words(&cause))),
                Event::GaveUp { cause } => (Health::Failed, Some(words(&cause))),
                Event::Reconnected { .. } => (Health::Connected, None),
                _ => continue,
            };
            changed = Some((health, trouble));
        }
        let Some((health, trouble)) = changed else { return };
        let reconnects =
            self.connections.stats().map(|stats| stats.connections.saturating_sub(1)).sum::<u64>();
        let size = self.export().map_or(0, |export| export.size);
        let in_use = self.in_use();
        self.status.change(|news| {
            news.health = health;
            news.in_use = in_use;
            news.reconnects = reconnects;
            news.trouble = trouble.or_else(|| news.trouble.take());
            news.size = size;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::io::Write;
    use std::sync::mpsc::channel;
    use std::thread;

    use nbd_client_mio::session::replay::Reconnect;
    use nbd_sim::peer::Server;

    use super::super::status::News;
    use super::*;
    use crate::connections::Others;

    /// Longer than anything here takes on a busy machine, so that a hang is a failure.
    const LIMIT: Duration = Duration::from_secs(300);

    #[test]
    fn a_server_that_is_away_is_not_waited_for_when_the_kernel_has_left() {
        let server = Server::nbdkit(&["memory", "1M"]).start().unwrap();
        let policy = Reconnect::new().give_up_after(Duration::MAX);
        let options = ConnectOptions::new().uri(&server.uri()).unwrap().reconnect(policy);
        let status = Arc::new(Status::default());
        let servers = Servers::named(OsStr::new(&server.uri()), &Others::default()).unwrap();
        let mut relay = Relay::connect(&servers, &options, 1, 0, Arc::clone(&status)).unwrap();
        let flags = relay.export().unwrap().flags & !TransmissionFlags::SEND_FAST_ZERO;
        let (ours, mut kernel) = UnixStream::pair().unwrap();
        relay.serve(ours, flags).unwrap();
        let (tell, told) = channel();
        let relay = thread::spawn(move || tell.send(relay.run()));
        drop(server);
        let mut known = News::default();
        while known.health != Health::Reconnecting {
            known = status.wait(&known);
        }
        // A read of the first 512 bytes.
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend([0; 20]);
        request.extend(512_u32.to_be_bytes());
        kernel.write_all(&request).unwrap();
        drop(kernel);
        told.recv_timeout(LIMIT).unwrap().unwrap();
        relay.join().unwrap().unwrap();
    }
}
