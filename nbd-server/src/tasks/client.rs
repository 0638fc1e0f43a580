//! The task of one client.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use nbd_proto::Direction;
use nbd_transport::SocketIo;
use tokio::io::Ready as Readiness;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::execute::{Executor, ExportsQuery};
use super::wait::{Ready, TaskWaker};
use crate::clients::Place;
use crate::config::Shared;
use crate::connection::ConnectionError;
use crate::connection::handshake::{Established, Handshake, Step};
use crate::connection::linger::{Linger, Lingering};
use crate::connection::mailbox::Mailbox;
use crate::connection::placement::Placement;
use crate::connection::session::{Next, Session};
use crate::event::Event;

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
        let error = result.as_ref().err();
        let mut place = match handshake.map(|handshake| handshake.finish()) {
            Some(Ok((established, place))) if error.is_none() => {
                return self.run(established, &place).await;
            }
            Some(Ok((_, place)) | Err(place)) => Some(place),
            // It went with whoever asked the exports for it.
            None => None,
        };
        self.shared.tell(&Event::Closed { peer: &peer, error });
        if let Some(place) = &mut place
            && error.is_some_and(ConnectionError::is_told)
        {
            place.lingers();
            self.linger(place).await;
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
        if place.stop_by().is_some() {
            self.linger(place).await;
        }
        Ok(())
    }

    /// Ends a connection of which the client does not know yet.
    async fn linger(&self, place: &Place) {
        let begun = Linger::begin(self.socket.get_ref(), Instant::now(), place.stop_by());
        let Some(linger) = begun else { return };
        let mut ready = None;
        loop {
            match linger.drive(&mut self.io(), place, Instant::now()) {
                Lingering::Over => return,
                Lingering::Again => tokio::task::yield_now().await,
                Lingering::Wait(until) => {
                    clear(ready.take(), Direction::READ);
                    let (wakes, reads) = (&self.task_waker, Direction::READ);
                    match wakes.wait(&self.socket, reads, Some(until)).await {
                        Ok(woken) => ready = woken,
                        Err(_) => return,
                    }
                }
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
