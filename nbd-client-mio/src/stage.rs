//! How far a connection has come, and the moving of its bytes.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use mio::Interest;
use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Client, Direction, Machine, PayloadSink, PayloadSource, Phase};
use nbd_session::{Handshake, Link, OldError as Error};
use nbd_transport::{Connection, SocketIo, TcpKeepAlive};
use rustix::net::{Shutdown, shutdown};

use crate::connection::State;
use crate::dial::Dial;

/// Rounds in one drive, so that one busy connection does not starve the others.
const BUDGET: usize = 16;

#[derive(Debug)]
pub(crate) enum Stage {
    Dialing {
        dial: Dial,
        handshake: Handshake,
        tcp_keep_alive: Option<TcpKeepAlive>,
    },
    Negotiating {
        handshake: Handshake,
        connection: Connection,
    },
    Open(Box<Open>),
    /// It ended before the data phase; how, if that can be told more than once.
    Over(Option<Error>),
}

impl Stage {
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Dialing { .. } => State::Connecting,
            Self::Negotiating { handshake, .. } => match handshake.phase() {
                Phase::Idle => State::Choosing,
                Phase::Closed => State::Closed,
                _ => State::Negotiating,
            },
            Self::Open(open) if open.core.is_closed() => State::Closed,
            Self::Open(open) if open.leaving => State::Disconnecting,
            Self::Open(_) => State::Ready,
            Self::Over(_) => State::Closed,
        }
    }

    pub(crate) fn raw_fd(&self) -> Option<RawFd> {
        match self {
            Self::Dialing { dial, .. } => Some(dial.raw_fd()),
            Self::Negotiating { connection, .. } => Some(connection.stream.as_fd().as_raw_fd()),
            Self::Open(open) => Some(open.connection.stream.as_fd().as_raw_fd()),
            Self::Over(_) => None,
        }
    }

    /// What to wait for. A poller knows no empty interest; and the end of a
    /// connection shows as something to read.
    pub(crate) fn interest(&self, blocked: Direction) -> Interest {
        let write = match self {
            Self::Dialing { dial, .. } => matches!(dial, Dial::Socket { .. }),
            Self::Negotiating { .. } => blocked.contains(Direction::WRITE),
            Self::Open(open) => open.link.direction(&open.core).contains(Direction::WRITE),
            Self::Over(_) => false,
        };
        if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }
    }
}

/// The data phase.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) core: Client,
    pub(crate) link: Link,
    pub(crate) connection: Connection,
    /// A disconnect was asked for.
    pub(crate) leaving: bool,
    /// What ended the connection, if the machine cannot know.
    pub(crate) lost: Option<Error>,
}

impl Open {
    /// Sends what is due and takes in what has come, until the socket is exhausted both
    /// ways (false), or the budget is or there is something to hand out (true): with the
    /// next commands on their way, the server works while the rest is taken in.
    ///
    /// `to_the_end` is set once the poller has told that the peer will send no more:
    /// then a read that comes back short is not the last one, since no event will
    /// tell of the end a second time.
    pub(crate) fn pump<P>(&mut self, ports: &mut P, to_the_end: bool) -> Result<bool, Error>
    where
        P: PayloadSink + PayloadSource,
    {
        let Self { core, link, connection, leaving, .. } = self;
        let mut io = SocketIo::non_blocking(connection.stream.as_fd());
        let (mut reading, mut writing) = (true, true);
        for _ in 0..BUDGET {
            if writing && link.direction(core).contains(Direction::WRITE) {
                let more = link.write(core, &mut io, ports, IoMode::Vectored)? == Progress::More;
                writing = more || !link.direction(core).contains(Direction::WRITE);
            }
            if reading && link.direction(core).contains(Direction::READ) {
                let calls = io.calls();
                let progress = link.read(core, &mut io, ports, IoMode::Vectored)?;
                // A reply often comes in two pieces, header and payload. Looking for the
                // second one is cheaper than going to sleep and being woken for it.
                let halfway = io.calls() > calls && core.is_processing();
                reading = progress == Progress::More || ((to_the_end || halfway) && !io.starved());
            }
            if reading && core.completed() > 0 {
                return Ok(true);
            }
            let direction = link.direction(core);
            let can_read = reading && direction.contains(Direction::READ);
            let can_write = writing && direction.contains(Direction::WRITE);
            if !can_read && !can_write {
                if *leaving && core.in_flight() == 0 && direction == Direction::READ {
                    // Nothing more will be sent. A peer that is gone already is no loss.
                    let _ = shutdown(&connection.stream, Shutdown::Write);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the connection on the spot, for a reason if there is one.
    pub(crate) fn kill(&mut self, cause: Option<&Error>) {
        self.lost = self.lost.take().or_else(|| cause.and_then(Error::again));
        // The state machine is told what the peer will see.
        let _ = self.core.eof();
        let _ = shutdown(&self.connection.stream, Shutdown::Both);
    }
}
