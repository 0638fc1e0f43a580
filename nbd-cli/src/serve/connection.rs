//! One client, from its first byte to its last.
//!
//! ```text
//!            ┌──────────────── wait: room to send, requests, stop ◄──┐
//!            ▼                                                       │
//!   read once ──► requests ──► answered one by one ──► sent together ┘
//!                                 ▲                        │
//!                                 └── until too much waits ┘
//! ```
//!
//! Replies that the client does not take hold memory. Up to [`MAX_HELD`] the
//! requests behind them are still read and answered, so a client may send all
//! it has before it reads; beyond it nothing is read.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use nbd_proto::io::Progress;
use nbd_proto::{
    ApiMisuse, Command, Direction, Error, Machine, PeerMisbehaved, RequestId, Server, ServerEvent,
};
use nbd_session::LinkError;
use nbd_transport::tls::TlsError;

use super::answer::Answerer;
use super::buffers::Buffers;
use super::export::MAX_PAYLOAD;
use super::negotiate::negotiate;
use super::running::Shared;
use super::transport::Transport;

/// How long a client may take over one message of the negotiation, and ten times
/// as long over all of it. Without a limit, sockets that never say anything, or
/// only ask, would use up the connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// While there are replies to send, no more is read or answered when requests
/// hold this many bytes: a write of full length that arrives, and as much again
/// for the replies. One burst can go beyond it.
const MAX_HELD: usize = 2 * MAX_PAYLOAD as usize;

/// Replies are sent when they hold this many bytes more, even when there are
/// requests left to answer: the client can use them meanwhile.
const BURST: usize = 512 << 10;

/// Reads in a row before looking whether the server stops, and how much of what
/// has arrived is still taken in then.
const READS: usize = 16;

/// A connection that has been idle for this long keeps no unused memory.
const IDLE: Duration = Duration::from_secs(1);

/// How long a client may take to notice that the server hung up.
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client broke the protocol.
    #[error(transparent)]
    Protocol(#[from] Error),
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client vanished.
    #[error("the client left while it had requests open")]
    Gone,
    /// The negotiation came to a halt.
    #[error("the client said nothing for {} s during the negotiation", .0.as_secs())]
    Stalled(Duration),
    /// The negotiation led nowhere.
    #[error("the client had not chosen an export after {} s", .0.as_secs())]
    Undecided(Duration),
    /// The server stops and the client does not take its replies.
    #[error("the client did not take its last replies")]
    Abandoned,
}

impl From<ApiMisuse> for Fault {
    fn from(misuse: ApiMisuse) -> Self {
        Self::Protocol(misuse.into())
    }
}

impl From<LinkError> for Fault {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Io(error) => Self::Io(error),
            LinkError::Protocol(error) => Self::Protocol(error),
            LinkError::Tls(error) => Self::Tls(error),
            other => Self::Io(other.into()),
        }
    }
}

/// Serves one client until it leaves or the server stops.
///
/// # Errors
///
/// Whatever ended the connection before its time.
pub(super) fn serve(mut transport: Transport, shared: &Shared) -> Result<(), Fault> {
    let server = match negotiate(&mut transport, shared, PATIENCE) {
        Ok(Some(server)) => server,
        Ok(None) => return Ok(()),
        Err(fault) => {
            if let Fault::Tls(_) = fault {
                // Or the alert that tells the client why would be lost.
                transport.hang_up(Instant::now() + LINGER);
            }
            return Err(fault);
        }
    };
    let mut connection = Connection {
        transport,
        shared,
        server,
        buffers: Buffers::default(),
        answerer: Answerer::default(),
        waiting: VecDeque::new(),
        stopping: None,
    };
    connection.run()?;
    connection.transport.close(&mut connection.server);
    if let Some(deadline) = connection.stopping {
        let linger = deadline.min(Instant::now() + LINGER);
        connection.transport.hang_up(linger);
    }
    Ok(())
}

/// The data phase.
struct Connection<'a> {
    transport: Transport,
    shared: &'a Shared,
    server: Server,
    buffers: Buffers,
    answerer: Answerer,
    /// Requests that arrived and are not answered.
    waiting: VecDeque<(RequestId, Command)>,
    /// When a connection that is told to stop is cut.
    stopping: Option<Instant>,
}

impl Connection<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        self.answer_all()?;
        loop {
            let interest = self.interest();
            // Every request is answered as it is taken, so when nothing is left
            // to move the connection is over.
            if interest.is_empty() {
                return Ok(());
            }
            if self.stopping.is_some_and(|end| end <= Instant::now()) {
                return Err(Fault::Abandoned);
            }
            let stop = self.stopping.is_none().then_some(&self.shared.stop);
            let woken = self.transport.wait(interest, stop, self.deadline(interest))?;
            if woken.ready.contains(Direction::WRITE) {
                self.send()?;
            }
            if woken.ready.contains(Direction::READ) || woken.stop {
                self.receive()?;
            } else {
                self.answer_all()?;
            }
            if woken.stop {
                self.stopping = Some(self.shared.deadline());
                self.server.stop();
            } else if woken.ready.is_empty() {
                self.buffers.forget_unused();
            }
        }
    }

    /// What to wait for on the socket.
    fn interest(&self) -> Direction {
        let mut interest = self.transport.direction(&self.server);
        if self.is_full() {
            interest.remove(Direction::READ);
        }
        interest
    }

    /// Whether the client has to take replies before anything else is done. So
    /// there must be some: otherwise nothing would ever make room.
    fn is_full(&self) -> bool {
        let due = self.transport.direction(&self.server);
        due.contains(Direction::WRITE) && self.buffers.held() >= MAX_HELD
    }

    fn deadline(&self, interest: Direction) -> Option<Instant> {
        let idle = interest == Direction::READ && self.buffers.keeps_any();
        self.stopping.or_else(|| idle.then(|| Instant::now() + IDLE))
    }

    /// Reads what has arrived, and answers after each read.
    fn receive(&mut self) -> Result<(), Fault> {
        for _ in 0..READS {
            if !self.interest().contains(Direction::READ) {
                break;
            }
            let progress = self.transport.read(&mut self.server, &mut self.buffers)?;
            self.answer_all()?;
            if progress != Progress::More {
                break;
            }
        }
        Ok(())
    }

    /// Answers the requests that have arrived and sends the replies, as far as
    /// the client takes them.
    fn answer_all(&mut self) -> Result<(), Fault> {
        loop {
            self.take_events()?;
            if self.waiting.is_empty() && self.server.has_buffered() {
                // Requests that were read while there was no slot for them.
                self.server.received(0, &mut self.buffers)?;
                self.take_events()?;
            }
            if self.waiting.is_empty() || self.is_full() {
                return Ok(());
            }
            self.answer_burst()?;
            self.send()?;
        }
    }

    fn answer_burst(&mut self) -> Result<(), Fault> {
        let store = &*self.shared.export.store;
        let enough = self.buffers.held() + BURST;
        while let Some((id, command)) = self.waiting.pop_front() {
            self.answerer.answer(id, command, &mut self.server, &mut self.buffers, store)?;
            if self.buffers.held() >= enough {
                break;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Fault> {
        while self.transport.direction(&self.server).contains(Direction::WRITE) {
            let progress = self.transport.write(&mut self.server, &self.buffers)?;
            self.take_events()?;
            if progress != Progress::More {
                break;
            }
        }
        Ok(())
    }

    fn take_events(&mut self) -> Result<(), Fault> {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Request { id, command } => self.waiting.push_back((id, command)),
                ServerEvent::Replied { id } => self.buffers.give_back(id),
                ServerEvent::Disconnected { error: None } => {}
                ServerEvent::Disconnected {
                    error: Some(Error::Misbehaved(PeerMisbehaved::Closed)),
                } => return Err(Fault::Gone),
                ServerEvent::Disconnected { error: Some(error) } => return Err(error.into()),
            }
        }
        Ok(())
    }
}
