//! The task of one client.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use nbd_proto::Direction;
use nbd_transport::SocketIo;
use rustix::net::{Shutdown, shutdown};
use tokio::io::Ready as Readiness;
use tokio::io::unix::AsyncFd;

use super::execute::Executor;
use super::wait::{Bell, Ready};
use crate::clients::Place;
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Established, Handshake, Step};
use crate::connection::mailbox::Mailbox;
use crate::connection::placement::Placement;
use crate::connection::session::{Next, Session};
use crate::event::Event;
use crate::peer::Peer;

/// How long a client may take to notice that the server hung up.
const LINGER: Duration = Duration::from_secs(1);

/// A client and what serves it.
pub(super) struct Attendance {
    pub(super) socket: AsyncFd<OwnedFd>,
    pub(super) peer: Peer,
    pub(super) shared: Arc<Shared>,
    pub(super) executor: Executor,
    pub(super) place: Place,
    pub(super) bell: Arc<Bell>,
}

impl Attendance {
    /// Serves the client until it leaves or the server stops, and tells how that went.
    pub(super) async fn run(mut self) {
        let result = self.serve().await;
        let (peer, error) = (&self.peer, result.as_ref().err());
        self.shared.tell(&Event::Closed { peer, error });
    }

    async fn serve(&mut self) -> Result<(), ConnectionError> {
        let handshake = Handshake::new(Arc::clone(&self.shared), self.peer.clone(), Instant::now());
        let established = match self.negotiate(handshake).await {
            Ok(Some(established)) => established,
            Ok(None) => return Ok(()),
            Err(error) => {
                if let ConnectionError::Tls(_) = error {
                    // Or the alert that tells the client why would be lost.
                    self.hang_up(Instant::now() + LINGER).await;
                }
                return Err(error);
            }
        };
        if !self.place.establish() {
            return Err(ConnectionError::Displaced);
        }
        self.peer = established.peer.clone();
        self.shared.tell(&Event::Opened {
            peer: &self.peer,
            export: &established.opened.name,
            read_only: established.is_read_only(),
        });
        self.transmit(established).await
    }

    fn io(&self) -> SocketIo<'_> {
        SocketIo::non_blocking(self.socket.as_fd())
    }

    /// Negotiates. Returns nothing when the client leaves without an export, or the server stops.
    async fn negotiate(
        &self,
        mut handshake: Handshake,
    ) -> Result<Option<Established>, ConnectionError> {
        let mut ready: Option<Ready<'_>> = None;
        loop {
            let mut io = self.io();
            let step = handshake.drive(&mut io, Instant::now())?;
            match step {
                Step::Ask => {
                    // It may take its time.
                    let asked = move || {
                        let answered = handshake.answer();
                        (handshake, answered)
                    };
                    let asked = tokio::task::spawn_blocking(asked).await;
                    let (answered, result) = asked.map_err(io::Error::other)?;
                    result?;
                    handshake = answered;
                }
                Step::Established => return Ok(handshake.finish()),
                Step::Closed => return Ok(None),
                Step::Wait(direction, deadline) => {
                    // It has been tried in this direction, in vain.
                    clear(ready.take(), direction);
                    ready = self.bell.wait(&self.socket, direction, Some(deadline)).await?;
                }
            }
            if self.place.stop_by().is_some() {
                handshake.close(&mut self.io());
                return Ok(None);
            }
            if self.place.is_displaced() {
                return Err(ConnectionError::Displaced);
            }
        }
    }

    async fn transmit(&self, established: Established) -> Result<(), ConnectionError> {
        let waker = Waker::from(Arc::clone(&self.bell));
        let account = self.shared.budget.account(waker.clone());
        let mailbox = Arc::new(Mailbox::new(waker));
        let shared = Arc::clone(&self.shared);
        let placement = Placement::cautious();
        let mut session =
            Session::new(established, shared, account, mailbox, placement, Instant::now());
        let mut readable = true;
        let mut ready: Option<Ready<'_>> = None;
        loop {
            if let Some(deadline) = self.place.stop_by() {
                session.stop(deadline);
                // What has arrived is answered.
                readable = true;
            }
            let mut io = self.io();
            match session.drive(&mut io, readable, Instant::now(), &self.executor)? {
                Next::Wait(direction, deadline) => {
                    let mut found_nothing = Direction::empty();
                    found_nothing.set(Direction::READ, io.starved());
                    // Otherwise it would have been sent.
                    found_nothing.set(Direction::WRITE, direction.contains(Direction::WRITE));
                    clear(ready.take(), found_nothing);
                    ready = self.bell.wait(&self.socket, direction, deadline).await?;
                    readable = ready.is_some() && direction.contains(Direction::READ);
                }
                Next::Again => {
                    tokio::task::yield_now().await;
                    readable = true;
                }
                Next::Closed => break,
            }
        }
        session.close(&mut self.io());
        if let Some(deadline) = self.place.stop_by() {
            self.hang_up(deadline.min(Instant::now() + LINGER)).await;
        }
        Ok(())
    }

    /// Ends a connection of which the client does not know yet. To close a
    /// socket with unread bytes would take back replies that are on their way,
    /// so those bytes are read and thrown away until the client closes too.
    async fn hang_up(&self, deadline: Instant) {
        let mut bytes = [0; 4 << 10];
        if shutdown(self.socket.get_ref(), Shutdown::Write).is_err() {
            return;
        }
        let mut ready = None;
        while Instant::now() < deadline {
            match self.io().read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    clear(ready.take(), Direction::READ);
                    match self.bell.wait(&self.socket, Direction::READ, Some(deadline)).await {
                        Ok(woken) => ready = woken,
                        Err(_) => return,
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// Nothing came, or had room, in these directions: only news of the socket counts again.
fn clear(ready: Option<Ready<'_>>, directions: Direction) {
    if let Some(mut ready) = ready {
        if directions.contains(Direction::READ) {
            ready.clear_ready_matching(Readiness::READABLE);
        }
        if directions.contains(Direction::WRITE) {
            ready.clear_ready_matching(Readiness::WRITABLE);
        }
    }
}
