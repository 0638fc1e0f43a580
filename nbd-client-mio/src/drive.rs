//! What drives a connection.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::Registry;
use nbd_proto::io::Progress;
use nbd_proto::{Client, Direction};
use nbd_session::{Error, Limit, Request, State, Step};

use crate::connection::Connection;

/// Rounds in one drive, so that one busy connection does not starve the others.
const BUDGET: usize = 16;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Does everything that can be done without waiting: connects, negotiates, sends
    /// what is due, takes in what has come, and registers for what it waits for next.
    ///
    /// # Errors
    /// When the connection is over and will not be made again, or not all is done that was
    /// promised before the end that was asked for. It is [`State::Closed`] then, and every
    /// command in flight has its completion. The error is told once.
    #[doc(alias("nbd_aio_notify_read", "nbd_aio_notify_write", "nbd_poll"))]
    pub fn drive(&mut self, registry: &Registry) -> Result<State, Error> {
        let now = Instant::now();
        self.again = false;
        self.take_steps(now);
        self.send_in_line(now);
        let received = self.pump(now);
        self.take_steps(now);
        while let Some(id) = self.session.next_released() {
            self.buffers.remove(id);
        }
        self.send_in_line(now);
        self.follow(registry, received, now);
        let state = self.session.state();
        if state != State::Closed || mem::replace(&mut self.told, true) {
            return Ok(state);
        }
        self.error().map_or(Ok(state), Err)
    }

    /// Sends what is due and takes in what has come, until the socket is exhausted both
    /// ways, or the budget is, or there is something to hand out: with the next commands on
    /// their way, the server works while the rest is taken in. Says whether any bytes have come.
    fn pump(&mut self, now: Instant) -> bool {
        let Self { session, wire, buffers, peer_is_done, .. } = self;
        let Some(mut io) = wire.stream() else { return false };
        let (mut open, mut received) = (Direction::READ | Direction::WRITE, false);
        for _ in 0..BUDGET {
            let due = open & session.direction();
            if due.is_empty() {
                return received;
            }
            if due.contains(Direction::WRITE) {
                match session.write(&mut io, buffers, now) {
                    Progress::Closed => return received,
                    Progress::More => {}
                    _ => open.remove(session.direction() & Direction::WRITE),
                }
            }
            if (open & session.direction()).contains(Direction::READ) {
                let calls = io.calls();
                let progress = session.read(&mut io, buffers, now);
                if progress == Progress::Closed {
                    return received;
                }
                let moved = io.calls() > calls && !io.starved();
                received |= moved;
                // A reply often comes in two pieces, header and payload. Looking for the
                // second one is cheaper than going to sleep and being woken for it. And once
                // the poller has told that the peer will send no more, a read that comes back
                // short is not the last one: no event will tell of the end a second time.
                let halfway = moved && session.core().is_some_and(Client::is_processing);
                let more = progress == Progress::More || halfway;
                open.set(Direction::READ, more || *peer_is_done && !io.starved());
            }
            if open.contains(Direction::READ) && session.has_completed() {
                break;
            }
        }
        self.again = true;
        received
    }

    /// Submits what other threads have in line, first come first served; what there is no room
    /// for waits for it.
    fn send_in_line(&mut self, now: Instant) {
        // Whoever comes from now on rings again.
        self.submitter.rung.swap(0, Ordering::AcqRel);
        while let Ok(id) = self.withdrawn.1.try_recv() {
            drop(self.withdraw(id));
        }
        while let Ok(next) = self.submissions.try_recv() {
            let limit = self.session.fixed(Limit::Default, next.since);
            self.waiting.insert(self.session.wait_for_room(limit, now), next);
        }
        while let Some(ticket) = self.session.next_admission() {
            let Some(next) = self.waiting.remove(&ticket) else { continue };
            let request = Request::new(next.command).ticket(ticket);
            let _ = self.submit_for(request, next.buffer, next.on_done);
        }
    }
}

impl<B> Connection<B> {
    /// Does what the session asks for.
    pub(crate) fn take_steps(&mut self, now: Instant) {
        loop {
            while let Some(step) = self.session.next_step() {
                match step {
                    Step::Credentials(config) => self.session.credentials(config.connector(), now),
                    Step::Connect(connect) => {
                        self.peer_is_done = false;
                        self.wire.connect(connect, self.dialler.as_mut());
                    }
                    Step::Shutdown { generation } => self.wire.shut_down(generation),
                    Step::Close { generation, last_word } => {
                        self.wire.close(generation, &last_word);
                    }
                    // None that a later session may ask for is of use to this one.
                    _ => {}
                }
            }
            let Some((generation, result)) = self.wire.advance(now) else { return };
            self.again = true;
            self.session.connected(generation, result, now);
        }
    }

    /// Has the poller watch what is waited for now. A poller that cannot is a lost connection.
    fn follow(&mut self, registry: &Registry, received: bool, now: Instant) {
        let Some(registration) = &mut self.registration else { return };
        let (wire, direction) = (&self.wire, self.session.direction());
        match registration.follow(registry, received, |watch| wire.watched(direction, watch)) {
            Ok(leaves) => self.again |= leaves,
            Err(error) => {
                self.session.fail(error, now);
                self.again = true;
            }
        }
    }
}
