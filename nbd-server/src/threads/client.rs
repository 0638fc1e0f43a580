//! The thread of one client.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use nbd_proto::{Direction, Error, PeerMisbehaved};
use nbd_transport::SocketIo;
use rustix::net::{Shutdown, shutdown};

use super::wait::{Reader, ThreadWaker};
use crate::clients::Place;
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Established, Handshake, Step};
use crate::connection::mailbox::Mailbox;
use crate::connection::placement::Placement;
use crate::connection::session::{Next, Session};
use crate::event::Event;
use crate::pool::{Pool, Request};

/// How long a client may take to notice that the server hung up.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// A client and what serves it.
pub(super) struct ClientThread {
    pub(super) socket: Arc<OwnedFd>,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<Pool<Request>>,
    pub(super) thread_waker: Arc<ThreadWaker>,
}

impl ClientThread {
    /// Negotiates, and serves the client until it leaves or the server stops.
    pub(super) fn negotiate_and_run(self, mut handshake: Handshake) -> Result<(), ConnectionError> {
        let result = self.negotiate(&mut handshake);
        if let Err(ConnectionError::Tls(_)) = result {
            // Or the alert that tells the client why would be lost.
            self.hang_up(Instant::now() + LINGER);
        }
        let (peer, error) = (handshake.peer().clone(), result.as_ref().err());
        match handshake.finish() {
            Some((established, place)) if error.is_none() => self.run(established, &place),
            _ => {
                self.shared.tell(&Event::Closed { peer: &peer, error });
                result
            }
        }
    }

    /// Negotiates until the client has chosen an export, or leaves.
    fn negotiate(&self, handshake: &mut Handshake) -> Result<(), ConnectionError> {
        loop {
            let mut io = SocketIo::non_blocking(self.socket.as_fd());
            match handshake.drive(&mut io, Instant::now())? {
                Step::Ask => handshake.answer()?,
                Step::Established | Step::Closed => return Ok(()),
                Step::Again => {}
                Step::Wait(direction, deadline) => {
                    self.thread_waker.wait(&self.socket, direction, Some(deadline))?;
                }
            }
        }
    }

    /// Serves the client until it leaves or the server stops, and tells how that went.
    pub(super) fn run(
        self,
        established: Established,
        place: &Place,
    ) -> Result<(), ConnectionError> {
        let peer = established.peer.clone();
        self.shared.tell(&Event::Opened {
            peer: &peer,
            export: &established.opened.name,
            read_only: established.is_read_only(),
        });
        let result =
            match self.transmit(established, place) {
                // It was the stop that ended the reading, see [`Reader`].
                Err(ConnectionError::Protocol(Error::Misbehaved(
                    PeerMisbehaved::ClosedMidMessage,
                ))) if place.stop_by().is_some() => Ok(()),
                result => result,
            };
        let error = result.as_ref().err();
        self.shared.tell(&Event::Closed { peer: &peer, error });
        result
    }

    fn transmit(&self, established: Established, place: &Place) -> Result<(), ConnectionError> {
        let waker = Waker::from(Arc::clone(&self.thread_waker));
        let account = self.shared.budget.account(waker.clone());
        let mailbox = Arc::new(Mailbox::new(waker));
        let shared = Arc::clone(&self.shared);
        let mut session = Session::new(
            established,
            shared,
            account,
            mailbox,
            Placement::in_thread(),
            Instant::now(),
        );
        let mut readable = true;
        let reader =
            Arc::new(Reader::new(Arc::clone(&self.socket), Arc::clone(&self.thread_waker))?);
        place.wake_with(Waker::from(Arc::clone(&reader)));
        loop {
            if let Some(deadline) = place.stop_by() {
                session.stop(deadline);
                // What has arrived is answered.
                readable = true;
            }
            let mut io = SocketIo::non_blocking(self.socket.as_fd());
            match session.drive(&mut io, readable, Instant::now(), &*self.pool)? {
                Next::Wait(direction, deadline) => {
                    if session.waits_for_client()
                        && let Some(more) = self.receive_awake(&mut session, place)?
                    {
                        readable = more;
                        continue;
                    }
                    // One that has been busy a moment ago waits in the read itself, which takes
                    // a call less.
                    if deadline.is_some() && session.is_idle() && reader.begins(place) {
                        let mut io = SocketIo::blocking_read(self.socket.as_fd());
                        let received = session.receive(&mut io);
                        let in_time = !io.starved();
                        reader.ends();
                        readable = received?;
                        if in_time {
                            continue;
                        }
                    }
                    let ready = self.thread_waker.wait(&self.socket, direction, deadline)?;
                    readable = ready.contains(Direction::READ);
                }
                Next::Again => readable = true,
                Next::Closed => break,
            }
        }
        session.close(&mut SocketIo::non_blocking(self.socket.as_fd()));
        if let Some(deadline) = place.stop_by() {
            self.hang_up(deadline.min(Instant::now() + LINGER));
        }
        Ok(())
    }

    /// Looks for what the client sends without going to sleep, as long as was asked for. Tells
    /// whether there may be more to read; nothing where nothing came.
    fn receive_awake(
        &self,
        session: &mut Session,
        place: &Place,
    ) -> Result<Option<bool>, ConnectionError> {
        let Some(time) = self.shared.busy_poll else { return Ok(None) };
        let begin = Instant::now();
        while place.stop_by().is_none() && begin.elapsed() < time {
            let mut io = SocketIo::non_blocking(self.socket.as_fd());
            let more = session.receive(&mut io)?;
            if !io.starved() {
                return Ok(Some(more));
            }
            // Whoever else wants the processor, its client perhaps, goes first.
            thread::yield_now();
        }
        Ok(None)
    }

    /// Ends a connection of which the client does not know yet. To close a
    /// socket with unread bytes would take back replies that are on their way,
    /// so those bytes are read and thrown away until the client closes too.
    fn hang_up(&self, deadline: Instant) {
        let mut bytes = [0; 4 << 10];
        if shutdown(&self.socket, Shutdown::Write).is_err() {
            return;
        }
        let mut io = SocketIo::non_blocking(self.socket.as_fd());
        while Instant::now() < deadline {
            match io.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self
                        .thread_waker
                        .wait(&self.socket, Direction::READ, Some(deadline))
                        .is_err()
                    {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
