//! What drives a connection.

use std::mem;
use std::os::fd::AsFd;
use std::time::Instant;

use mio::Registry;
use nbd_proto::Machine;
use nbd_proto::io::IoMode;
use nbd_session::OldError as Error;
use nbd_transport::SocketIo;

use crate::connection::{Connection, State};
use crate::stage::{Open, Stage};

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    /// Does everything that can be done without waiting: connects, negotiates, sends
    /// what is due, takes in what has come, and registers for what it waits for next.
    ///
    /// # Errors
    /// When the connection fails; it is [`State::Closed`] then, and every command in
    /// flight has its completion. The error is told once.
    pub fn drive(&mut self, registry: &Registry) -> Result<State, Error> {
        self.again = false;
        let leaving = self.state() == State::Disconnecting;
        let result = self.advance(registry);
        let result = result.and_then(|received| self.follow(registry, received));
        if let Err(error) = &result {
            self.end(Some(error));
        }
        if self.state() == State::Closed {
            self.send_in_line();
        }
        match result {
            // The end is what was wanted; how abrupt it is does not matter.
            Err(Error::Io(_)) if leaving => Ok(self.state()),
            result => result.map(|()| self.state()),
        }
    }

    /// Moves bytes. Says whether any have come in the data phase.
    fn advance(&mut self, registry: &Registry) -> Result<bool, Error> {
        while !matches!(self.stage, Stage::Open(_)) {
            match mem::replace(&mut self.stage, Stage::Over(None)) {
                Stage::Dialing { dial, handshake, tcp_keep_alive } => {
                    match dial.finish(registry)? {
                        Ok(connection) => {
                            if let Some(keep_alive) = tcp_keep_alive {
                                connection.set_tcp_keep_alive(keep_alive)?;
                            }
                            self.stage = Stage::Negotiating { handshake, connection };
                        }
                        Err(dial) => {
                            self.stage = Stage::Dialing { dial, handshake, tcp_keep_alive };
                            return Ok(false);
                        }
                    }
                }
                Stage::Negotiating { mut handshake, connection } => {
                    let before = handshake.negotiation().stats().bytes_received;
                    let mut io = SocketIo::non_blocking(connection.stream.as_fd());
                    self.blocked = handshake.drive(&mut io, IoMode::Vectored)?;
                    if handshake.negotiation().stats().bytes_received != before {
                        self.last_byte = Instant::now();
                    }
                    match handshake.finish() {
                        Ok((core, link)) => {
                            self.stage = Stage::Open(Box::new(Open {
                                core,
                                link,
                                connection,
                                leaving: false,
                                lost: None,
                            }));
                            self.clock.open();
                        }
                        Err(handshake) => {
                            self.stage = Stage::Negotiating { handshake, connection };
                            return Ok(false);
                        }
                    }
                }
                stage @ (Stage::Open(_) | Stage::Over(_)) => {
                    self.stage = stage;
                    return Ok(false);
                }
            }
        }
        self.send_in_line();
        let Stage::Open(open) = &mut self.stage else {
            return Ok(false);
        };
        let before = open.core.stats().bytes_received;
        self.again = open.pump(&mut self.ports, self.peer_is_done)?;
        let received = open.core.stats().bytes_received != before;
        if received {
            self.last_byte = Instant::now();
        }
        Ok(received)
    }

    /// Has the poller watch what is waited for now.
    fn follow(&mut self, registry: &Registry, received: bool) -> Result<(), Error> {
        let (Some(watch), Some(fd)) = (&mut self.watch, self.stage.raw_fd()) else {
            return Ok(());
        };
        let interest = self.stage.interest(self.blocked);
        self.again |= watch.follow(registry, fd, interest, received)?;
        Ok(())
    }

    /// Submits what other threads have in line, as far as there is room.
    fn send_in_line(&mut self) {
        while self.takes_more()
            && let Some(next) = self.queue.pop()
        {
            match self.submit_since(next.since, next.command, next.buffer) {
                Ok(id) => drop(self.remote.insert(id, next.on_done)),
                Err(rejected) => (next.on_done)(Err(rejected)),
            }
        }
    }
}
