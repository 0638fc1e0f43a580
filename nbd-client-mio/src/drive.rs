//! What drives a connection.

use std::time::Instant;

use mio::Registry;
use nbd_proto::io::Progress;
use nbd_proto::{Client, Direction};
use nbd_session::{Error, Limit, Rejected, Request, State, Step};

use crate::connection::Connection;
use crate::submitter::Submission;
use crate::wire::Wire;

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
    #[doc(alias = "nbd_aio_notify_read")]
    #[doc(alias = "nbd_aio_notify_write")]
    #[doc(alias = "nbd_poll")]
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
        self.outcome()
    }

    /// Sends what is due and takes in what has come, until the socket is exhausted both
    /// ways, or the budget is, or there is something to hand out: with the next commands on
    /// their way, the server works while the rest is taken in. Says whether any bytes have come.
    fn pump(&mut self, now: Instant) -> bool {
        let Self { session, wire, buffers, peer_is_done, .. } = self;
        let Some(mut io) = wire.stream() else { return false };
        let (mut reading, mut writing, mut received) = (true, true, false);
        for _ in 0..BUDGET {
            if writing && session.direction().contains(Direction::WRITE) {
                match session.write(&mut io, buffers, now) {
                    Progress::Closed => return received,
                    progress => {
                        let left = session.direction().contains(Direction::WRITE);
                        writing = progress == Progress::More || !left;
                    }
                }
            }
            if reading && session.direction().contains(Direction::READ) {
                let calls = io.calls();
                let progress = session.read(&mut io, buffers, now);
                if progress == Progress::Closed {
                    return received;
                }
                received |= io.calls() > calls && !io.starved();
                // A reply often comes in two pieces, header and payload. Looking for the
                // second one is cheaper than going to sleep and being woken for it. And once
                // the poller has told that the peer will send no more, a read that comes back
                // short is not the last one: no event will tell of the end a second time.
                let halfway =
                    io.calls() > calls && session.core().is_some_and(Client::is_processing);
                reading =
                    progress == Progress::More || ((*peer_is_done || halfway) && !io.starved());
            }
            if reading && session.has_completed() {
                break;
            }
            let direction = session.direction();
            let can_read = reading && direction.contains(Direction::READ);
            let can_write = writing && direction.contains(Direction::WRITE);
            if !can_read && !can_write {
                return received;
            }
        }
        self.again = true;
        received
    }

    /// Submits what other threads have in line, first come first served; what there is no room
    /// for waits for it.
    fn send_in_line(&mut self, now: Instant) {
        while let Some(admission) = self.session.next_admission() {
            let place = self.waiting.get_mut(admission.ticket.slot());
            let Some(next) = place.and_then(Option::take) else {
                self.session.leave_line(admission.ticket, now);
                continue;
            };
            self.in_line -= 1;
            match admission.result {
                Ok(()) => {
                    let limit = self.session.fixed(Limit::Default, next.since);
                    let request = Request::new(next.command).limit(limit).ticket(admission.ticket);
                    self.send_remote(request, next, now);
                }
                Err(error) => (next.on_done)(Err(Rejected { error, buffer: next.buffer })),
            }
        }
        while let Some(next) = self.queue.pop() {
            let limit = self.session.fixed(Limit::Default, next.since);
            if self.session.is_over() || (self.session.is_ready() && !self.session.is_full()) {
                let request = Request::new(next.command).limit(limit);
                self.send_remote(request, next, now);
                continue;
            }
            let slot = self.session.wait_for_room(limit, now).slot();
            if self.waiting.len() <= slot {
                self.waiting.resize_with(slot + 1, || None);
            }
            self.waiting[slot] = Some(next);
            self.in_line += 1;
        }
    }

    fn send_remote(&mut self, request: Request<'_>, next: Submission<B>, now: Instant) {
        let Submission { buffer, on_done, .. } = next;
        match self.submit_request(request, buffer, now) {
            Ok(id) => drop(self.remote.insert(id, on_done)),
            Err(rejected) => on_done(Err(rejected)),
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
                        let dialler = self.dialler.as_mut();
                        let outcome = self.wire.connect(connect, &mut self.given, dialler);
                        self.connected(outcome, now);
                    }
                    Step::Shutdown { generation } => self.wire.shut_down(generation),
                    Step::Close { generation, last_word } => {
                        self.wire.close(generation, &last_word);
                    }
                    // None that a later session may ask for is of use to this one.
                    _ => {}
                }
            }
            let outcome = self.wire.advance(now);
            if outcome.is_none() {
                return;
            }
            self.connected(outcome, now);
        }
    }

    fn connected(&mut self, outcome: Option<crate::wire::Outcome>, now: Instant) {
        if let Some((generation, result)) = outcome {
            self.again = true;
            let result = result.map(|()| nbd_proto::io::IoMode::Vectored);
            self.session.connected(generation, result, now);
        }
    }

    /// Has the poller watch what is waited for now. A poller that cannot is a lost connection.
    fn follow(&mut self, registry: &Registry, received: bool, now: Instant) {
        let Some(registration) = &mut self.registration else { return };
        let (wire, direction) = (&self.wire, self.session.direction());
        match registration.follow(registry, received, |watch| wire.watched(direction, watch)) {
            Ok(leaves) => self.again |= leaves && matches!(wire, Wire::Open { .. }),
            Err(error) => {
                self.session.fail(error, now);
                self.again = true;
            }
        }
    }

    fn outcome(&mut self) -> Result<State, Error> {
        let state = self.session.state();
        if state != State::Closed || std::mem::replace(&mut self.told, true) {
            return Ok(state);
        }
        self.error().map_or(Ok(state), Err)
    }
}
