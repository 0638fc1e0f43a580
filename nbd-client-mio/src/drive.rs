//! What makes a connection an event source: driving it, and following what it waits for.

use std::io;
use std::mem;
use std::os::fd::{AsFd, RawFd};
use std::time::Instant;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nbd_proto::Machine;
use nbd_proto::io::IoMode;
use nbd_transport::{Error, SocketIo};

use crate::connection::{Connection, State};
use crate::stage::{Open, Stage};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Registration {
    token: Token,
    interest: Interest,
    fd: RawFd,
}

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
        let result = result.and_then(|()| Ok(self.follow(registry)?));
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

    fn advance(&mut self, registry: &Registry) -> Result<(), Error> {
        while !matches!(self.stage, Stage::Open(_)) {
            match mem::replace(&mut self.stage, Stage::Over) {
                Stage::Dialing { dial, handshake, tcp_keep_alive } => {
                    match dial.finish(registry)? {
                        Ok(dialled) => {
                            self.keeper = dialled.keeper;
                            let connection = dialled.connection;
                            if let Some(keep_alive) = tcp_keep_alive {
                                connection.set_tcp_keep_alive(keep_alive)?;
                            }
                            self.stage = Stage::Negotiating { handshake, connection };
                        }
                        Err(dial) => {
                            self.stage = Stage::Dialing { dial, handshake, tcp_keep_alive };
                            return Ok(());
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
                            return Ok(());
                        }
                    }
                }
                stage @ (Stage::Open(_) | Stage::Over) => {
                    self.stage = stage;
                    return Ok(());
                }
            }
        }
        self.send_in_line();
        let Stage::Open(open) = &mut self.stage else {
            return Ok(());
        };
        let before = open.core.stats().bytes_received;
        self.again = open.pump(&mut self.ports, self.peer_is_done)?;
        if open.core.stats().bytes_received != before {
            self.last_byte = Instant::now();
        }
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

    /// Tells the registry if something else is waited for, or elsewhere.
    fn follow(&mut self, registry: &Registry) -> io::Result<()> {
        let (Some(now), Some(fd)) = (&mut self.registration, self.stage.raw_fd()) else {
            return Ok(());
        };
        let interest = self.stage.interest(self.blocked);
        if now.fd != fd {
            SourceFd(&fd).register(registry, now.token, interest)?;
        } else if now.interest != interest {
            SourceFd(&fd).reregister(registry, now.token, interest)?;
        }
        (now.fd, now.interest) = (fd, interest);
        Ok(())
    }
}

/// What was given comes on top of what it waits for, until it is first driven.
impl<B> Source for Connection<B> {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let fd = self.stage.raw_fd().ok_or(io::ErrorKind::NotConnected)?;
        let interest = interest | self.stage.interest(self.blocked);
        SourceFd(&fd).register(registry, token, interest)?;
        self.registration = Some(Registration { token, interest, fd });
        Ok(())
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let fd = self.stage.raw_fd().ok_or(io::ErrorKind::NotConnected)?;
        let interest = interest | self.stage.interest(self.blocked);
        SourceFd(&fd).reregister(registry, token, interest)?;
        self.registration = Some(Registration { token, interest, fd });
        Ok(())
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.registration = None;
        // A socket that is closed already has left by itself.
        match self.stage.raw_fd() {
            Some(fd) => SourceFd(&fd).deregister(registry),
            None => Ok(()),
        }
    }
}
