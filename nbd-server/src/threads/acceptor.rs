//! Where clients come in and negotiate, all in one thread: who takes long over it costs nobody
//! else anything.
//!
//! ```text
//!   listening sockets ─► Client ─ negotiates ─► a thread of its own
//!                          ▲ │
//!                    Inbox ┘ └► the exports are asked, in a pool
//! ```

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nbd_proto::Direction;
use nbd_transport::SocketIo;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::inbox::{ExportsQuery, Message};
use super::wait::ThreadWaker;
use super::{Accepting, Core, Ended};
use crate::clients::Place;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Handshake, Step};
use crate::connection::linger::{Linger, Lingering};
use crate::event::Event;
use crate::listener::{Listener, is_short_of_descriptors, is_transient};
use crate::peer::Peer;

/// How long to wait before trying again when the system is short of something.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Clients that are taken in at once before those who are there have their turn.
const BATCH: usize = 64;

/// Events that are looked at at once.
const EVENTS: usize = 256;

/// What the inbox is called among the clients, which are called by their numbers.
const INBOX: u64 = u64::MAX;

/// What the first listening socket is called; the others have the numbers below.
const LISTENER: u64 = u64::MAX - 1;

/// Clients on their way to an export.
pub(super) struct Acceptor {
    core: Arc<Core>,
    listeners: Vec<Listener>,
    poller: OwnedFd,
    clients: HashMap<u64, Negotiating>,
    /// When which client is to be looked at, whatever happens.
    due: BTreeSet<(Instant, u64)>,
    /// Nobody is taken in until then, the system is short of something.
    closed_until: Option<Instant>,
}

/// A client on its way to an export.
struct Negotiating {
    socket: OwnedFd,
    peer: Peer,
    state: State,
    watched: Option<Direction>,
    due: Option<Instant>,
}

enum State {
    Negotiates(Box<Handshake>),
    /// The exports are being asked.
    Waits,
    /// It has been told that it is over.
    Leaves(Linger, Place),
}

impl Acceptor {
    pub(super) fn new(core: Arc<Core>, listeners: Vec<Listener>) -> io::Result<Self> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&poller, &*core.inbox.thread_waker, epoll::EventData::new_u64(INBOX), readable)?;
        for (i, socket) in listeners.iter().flat_map(Listener::sockets).enumerate() {
            let name = epoll::EventData::new_u64(LISTENER - i as u64);
            epoll::add(&poller, socket, name, readable)?;
        }
        Ok(Self {
            core,
            listeners,
            poller,
            clients: HashMap::new(),
            due: BTreeSet::new(),
            closed_until: None,
        })
    }

    /// Takes clients in until the server stops, and is done with those who negotiate.
    pub(super) fn run(mut self) {
        let core = Arc::clone(&self.core);
        // However this thread ends, somebody hears of it.
        let mut ended = Ended { core: &core, accepting: Accepting::Failed };
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            if let Some(deadline) = core.clients.stop_by() {
                // The sockets are gone before anybody hears that the server has stopped.
                self.listeners.clear();
                if self.clients.is_empty() || deadline <= Instant::now() {
                    break;
                }
            }
            if let Err(errno) = self.wait(&mut events) {
                core.shared.tell(&Event::AcceptFailed { error: &errno.into() });
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    INBOX => self.hear(),
                    number if self.clients.contains_key(&number) => self.look_at(number),
                    _ => self.take_in(),
                }
            }
            self.look_at_the_due();
        }
        for client in self.clients.into_values() {
            if let State::Negotiates(_) | State::Waits = client.state {
                let error = Some(&ConnectionError::Abandoned);
                core.shared.tell(&Event::Closed { peer: &client.peer, error });
            }
        }
        ended.accepting = Accepting::Stopped;
    }

    fn wait(&self, events: &mut Vec<epoll::Event>) -> Result<(), Errno> {
        let first = self.due.first().map(|(due, _)| *due);
        let deadline = [first, self.closed_until, self.core.clients.stop_by()];
        let timeout = deadline.into_iter().flatten().min().map(|deadline| {
            // Rounded up, so as not to wake early and find time left.
            let left = deadline.saturating_duration_since(Instant::now());
            left + Duration::from_micros(1)
        });
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.poller, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes in who has come to the listening sockets.
    fn take_in(&mut self) {
        if self.closed_until.is_some() {
            return;
        }
        let mut arrived = Vec::new();
        let mut failed = None;
        for socket in self.listeners.iter().flat_map(Listener::sockets) {
            for _ in 0..BATCH {
                match Listener::accept(socket) {
                    Ok(client) => arrived.push(client),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Those who were there have gone again.
                    Err(error) if is_transient(error.kind()) => {}
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
        for socket in arrived {
            let handshake = self.core.admit(Peer::of(&socket));
            self.enter(socket, handshake);
        }
        let Some(error) = failed else { return };
        if is_short_of_descriptors(&error) && self.make_room() {
            return;
        }
        self.core.shared.tell(&Event::AcceptFailed { error: &error });
        // What the system is short of may be there a little later.
        self.set_accepting(Some(Instant::now() + SHORTAGE));
    }

    /// Has the listening sockets watched, or not for a while.
    fn set_accepting(&mut self, closed_until: Option<Instant>) {
        self.closed_until = closed_until;
        let interest = match closed_until {
            Some(_) => epoll::EventFlags::empty(),
            None => epoll::EventFlags::IN,
        };
        for (i, socket) in self.listeners.iter().flat_map(Listener::sockets).enumerate() {
            let name = epoll::EventData::new_u64(LISTENER - i as u64);
            // Where it fails, all that is lost is time.
            let _ = epoll::modify(&self.poller, socket, name, interest);
        }
    }

    fn hear(&mut self) {
        self.core.inbox.thread_waker.reset();
        for message in self.core.inbox.take() {
            match message {
                Message::Arrived(socket, handshake) => self.enter(socket, handshake),
                Message::Woken(number) => self.look_at(number),
                Message::Answered(number, handshake, answered) => {
                    let Some(client) = self.clients.get_mut(&number) else { continue };
                    client.state = State::Negotiates(handshake);
                    match answered {
                        Ok(()) => self.look_at(number),
                        Err(error) => self.leave(number, Err(error)),
                    }
                }
            }
        }
    }

    fn enter(&mut self, socket: OwnedFd, handshake: Box<Handshake>) {
        let (number, peer) = (handshake.number(), handshake.peer().clone());
        let state = State::Negotiates(handshake);
        self.clients.insert(number, Negotiating { socket, peer, state, watched: None, due: None });
        self.look_at(number);
    }

    fn look_at_the_due(&mut self) {
        let now = Instant::now();
        if self.closed_until.is_some_and(|until| until <= now) {
            self.set_accepting(None);
        }
        while let Some((due, number)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            self.look_at(number);
        }
    }

    /// Moves what can be moved for a client.
    fn look_at(&mut self, number: u64) {
        let now = Instant::now();
        let Some(client) = self.clients.get_mut(&number) else { return };
        let mut io = SocketIo::non_blocking(client.socket.as_fd());
        let step = match &mut client.state {
            State::Negotiates(handshake) => handshake.drive(&mut io, now),
            State::Waits => return,
            State::Leaves(linger, place) => {
                let lingering = linger.drive(&mut io, place, now);
                return self.linger(number, lingering);
            }
        };
        match step {
            Ok(Step::Wait(direction, until)) => {
                if let Err(error) = self.watch(number, direction, until) {
                    self.leave(number, Err(error.into()));
                }
            }
            Ok(Step::Again) => self.core.inbox.put(Message::Woken(number)),
            Ok(Step::Ask) => self.ask(number),
            Ok(Step::Established) => self.settle(number),
            Ok(Step::Closed) => self.leave(number, Ok(())),
            Err(error) => self.leave(number, Err(error)),
        }
    }

    fn watch(&mut self, number: u64, direction: Direction, until: Instant) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        if client.due != Some(until) {
            let before = client.due.replace(until);
            before.map(|before| self.due.remove(&(before, number)));
            self.due.insert((until, number));
        }
        if client.watched == Some(direction) {
            return Ok(());
        }
        let mut wanted = epoll::EventFlags::empty();
        wanted.set(epoll::EventFlags::IN, direction.contains(Direction::READ));
        wanted.set(epoll::EventFlags::OUT, direction.contains(Direction::WRITE));
        let name = epoll::EventData::new_u64(number);
        match client.watched.replace(direction) {
            Some(_) => epoll::modify(&self.poller, &client.socket, name, wanted)?,
            None => epoll::add(&self.poller, &client.socket, name, wanted)?,
        }
        Ok(())
    }

    /// Has the exports asked for a client, which is not looked at meanwhile.
    fn ask(&mut self, number: u64) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if client.watched.take().is_some() {
            // What cannot be taken out of the poller wakes once too often.
            let _ = epoll::delete(&self.poller, &client.socket);
        }
        let State::Negotiates(handshake) = std::mem::replace(&mut client.state, State::Waits)
        else {
            return;
        };
        let inbox = Arc::clone(&self.core.inbox);
        if let Err(ExportsQuery { mut handshake, .. }) =
            self.core.exports_queries.add(ExportsQuery { number, handshake, inbox })
        {
            // Without threads they are asked here.
            let answered = handshake.answer();
            self.core.inbox.put(Message::Answered(number, handshake, answered));
        }
    }

    /// A client has chosen an export.
    fn settle(&mut self, number: u64) {
        let Some(client) = self.remove(number) else { return };
        let State::Negotiates(handshake) = client.state else { return };
        let Ok((established, place)) = handshake.finish() else { return };
        let attended = self.thread_waker().and_then(|thread_waker| {
            self.core.attend(client.socket, established, place, thread_waker)
        });
        if let Err(error) = attended {
            let error = Some(&ConnectionError::Io(error));
            self.core.shared.tell(&Event::Closed { peer: &client.peer, error });
        }
    }

    /// What wakes the thread of a client. Those who have not chosen an export give way to it.
    fn thread_waker(&mut self) -> io::Result<ThreadWaker> {
        loop {
            match ThreadWaker::new() {
                Err(error) if is_short_of_descriptors(&error) && self.make_room() => {}
                made => return made,
            }
        }
    }

    /// Has one who has not chosen an export give its descriptor back, if there is one.
    fn make_room(&mut self) -> bool {
        let displaced = self.core.clients.displace_one();
        if displaced {
            self.hear();
        }
        displaced
    }

    /// A client is done with, without an export.
    fn leave(&mut self, number: u64, result: Result<(), ConnectionError>) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let State::Negotiates(handshake) = std::mem::replace(&mut client.state, State::Waits)
        else {
            return;
        };
        // It is given back when all is told.
        let mut place = handshake.into_place();
        let error = result.as_ref().err();
        self.core.shared.tell(&Event::Closed { peer: &client.peer, error });
        let lingers = error.is_some_and(ConnectionError::is_told);
        let (socket, stop_by) = (client.socket.as_fd(), place.stop_by());
        if lingers && let Some(linger) = Linger::begin(socket, Instant::now(), stop_by) {
            place.lingers();
            client.state = State::Leaves(linger, place);
            self.look_at(number);
        } else {
            self.remove(number);
        }
    }

    /// What becomes of a client that has been told that it is over.
    fn linger(&mut self, number: u64, lingering: Lingering) {
        match lingering {
            Lingering::Wait(until) if self.watch(number, Direction::READ, until).is_ok() => {}
            Lingering::Again => self.core.inbox.put(Message::Woken(number)),
            Lingering::Wait(_) | Lingering::Over => drop(self.remove(number)),
        }
    }

    fn remove(&mut self, number: u64) -> Option<Negotiating> {
        let client = self.clients.remove(&number)?;
        client.due.map(|due| self.due.remove(&(due, number)));
        if client.watched.is_some() {
            // It waits for the socket by other means, if it goes on.
            let _ = epoll::delete(&self.poller, &client.socket);
        }
        Some(client)
    }
}
