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
use tokio::sync::oneshot;

use super::execute::{Executor, ExportsQuery};
use super::wait::{Ready, TaskWaker};
use crate::clients::Place;
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Established, Handshake, Step};
use crate::connection::mailbox::Mailbox;
use crate::connection::placement::Placement;
use crate::connection::session::{Next, Session};
use crate::event::Event;

/// How long a client may take to notice that the server hung up.
const LINGER: Duration = Duration::from_secs(1);

/// A client and what serves it.
pub(super) struct ClientTask {
    pub(super) socket: AsyncFd<OwnedFd>,
    pub(super) shared: Arc<Shared>,
    pub(super) executor: Executor,
    pub(super) task_waker: Arc<TaskWaker>,
}

impl ClientTask {
    /// Negotiates, and serves the client until it leaves or the server stops.
    pub(super) async fn negotiate_and_run(self, handshake: Box<Handshake>) {
        let peer = handshake.peer().clone();
        let mut handshake = Some(handshake);
        let result = self.negotiate(&mut handshake).await;
        if let Err(ConnectionError::Tls(_)) = result {
            // Or the alert that tells the client why would be lost.
            self.hang_up(Instant::now() + LINGER).await;
        }
        let error = result.as_ref().err();
        match handshake.and_then(|handshake| handshake.finish()) {
            Some((established, place)) if error.is_none() => self.run(established, &place).await,
            // Whose place, if any, is given back when all is told.
            _unsettled => self.shared.tell(&Event::Closed { peer: &peer, error }),
        }
    }

    fn io(&self) -> SocketIo<'_> {
        SocketIo::non_blocking(self.socket.as_fd())
    }

    /// Negotiates until the client has chosen an export, or leaves.
    async fn negotiate(
        &self,
        handshake: &mut Option<Box<Handshake>>,
    ) -> Result<(), ConnectionError> {
        let mut ready: Option<Ready<'_>> = None;
        while let Some(negotiating) = handshake {
            let mut io = self.io();
            let step = negotiating.drive(&mut io, Instant::now())?;
            match step {
                Step::Ask => {
                    let Some(asking) = handshake.take() else { break };
                    // It may take its time.
                    let (answer, asked) = oneshot::channel();
                    self.executor
                        .exports_queries
                        .add(ExportsQuery { handshake: asking, answer })
                        .map_err(|_| {
                        io::Error::new(io::ErrorKind::OutOfMemory, "there is no thread to ask in")
                    })?;
                    let (asking, answered) = asked.await.map_err(io::Error::other)?;
                    *handshake = Some(asking);
                    answered?;
                }
                Step::Established | Step::Closed => break,
                Step::Again => tokio::task::yield_now().await,
                Step::Wait(direction, deadline) => {
                    // It has been tried in this direction, in vain.
                    clear(ready.take(), direction);
                    ready = self.task_waker.wait(&self.socket, direction, Some(deadline)).await?;
                }
            }
        }
        Ok(())
    }

    /// Serves the client until it leaves or the server stops, and tells how that went.
    pub(super) async fn run(self, established: Established, place: &Place) {
        let peer = established.peer.clone();
        self.shared.tell(&Event::Opened {
            peer: &peer,
            export: &established.opened.name,
            read_only: established.is_read_only(),
        });
        let result = self.transmit(established, place).await;
        self.shared.tell(&Event::Closed { peer: &peer, error: result.as_ref().err() });
    }

    async fn transmit(
        &self,
        established: Established,
        place: &Place,
    ) -> Result<(), ConnectionError> {
        let waker = Waker::from(Arc::clone(&self.task_waker));
        let account = self.shared.budget.account(waker.clone());
        let mailbox = Arc::new(Mailbox::new(waker));
        let shared = Arc::clone(&self.shared);
        let placement = Placement::in_task();
        let mut session =
            Session::new(established, shared, account, mailbox, placement, Instant::now());
        let mut readable = true;
        let mut ready: Option<Ready<'_>> = None;
        loop {
            if let Some(deadline) = place.stop_by() {
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
                    ready = self.task_waker.wait(&self.socket, direction, deadline).await?;
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
        if let Some(deadline) = place.stop_by() {
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
                    match self.task_waker.wait(&self.socket, Direction::READ, Some(deadline)).await
                    {
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
