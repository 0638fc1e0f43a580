//! The thread of one client.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Instant;

use nbd_proto::{Direction, Error, PeerMisbehaved};
use nbd_transport::SocketIo;

use super::wait::{Reader, ThreadWaker};
use crate::clients::Place;
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Established, Handshake, Step};
use crate::connection::linger::{Linger, Lingering};
use crate::connection::mailbox::Mailbox;
use crate::connection::placement::Placement;
use crate::connection::session::{Next, Session};
use crate::event::Event;
use crate::pool::{Pool, Request};

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
        let (peer, error) = (handshake.peer().clone(), result.as_ref().err());
        let mut place = match handshake.finish() {
            Ok((established, place)) if error.is_none() => return self.run(established, &place),
            Ok((_, place)) | Err(place) => place,
        };
        self.shared.tell(&Event::Closed { peer: &peer, error });
        if error.is_some_and(ConnectionError::is_told) {
            place.lingers();
            self.linger(&place);
        }
        result
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
        if place.stop_by().is_some() {
            self.linger(place);
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

    /// Ends a connection of which the client does not know yet.
    fn linger(&self, place: &Place) {
        let begun = Linger::begin(&self.socket, Instant::now(), place.stop_by());
        let Some(linger) = begun else { return };
        loop {
            let mut io = SocketIo::non_blocking(self.socket.as_fd());
            match linger.drive(&mut io, place, Instant::now()) {
                Lingering::Over => return,
                Lingering::Again => {}
                Lingering::Wait(until) => {
                    let (wakes, reads) = (&self.thread_waker, Direction::READ);
                    if wakes.wait(&self.socket, reads, Some(until)).is_err() {
                        return;
                    }
                }
            }
        }
    }
}
