//! How a task waits for a socket, for others, and for the time.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Wake};
use std::time::Instant;

use nbd_proto::Direction;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::sleep_until;

/// Wakes the one task that waits with it.
#[derive(Debug, Default)]
pub(super) struct TaskWaker {
    rung: Notify,
}

/// What a task knows of the readiness of its socket. To be cleared where it found nothing.
pub(super) type Ready<'a> = AsyncFdReadyGuard<'a, OwnedFd>;

/// Has the runtime watch a socket.
///
/// # Errors
/// When the system is short of something.
#[allow(deprecated, reason = "what it warns of are types that change their descriptor")]
pub(super) fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}

impl TaskWaker {
    /// Waits until the socket can go on in one of the directions, somebody wakes, or the time is
    /// up. Nothing but the first gives what is ready. Others have their turn now and then, however
    /// seldom there is anything to wait for.
    ///
    /// # Errors
    /// When the runtime is gone.
    pub(super) async fn wait<'a>(
        &self,
        socket: &'a AsyncFd<OwnedFd>,
        direction: Direction,
        deadline: Option<Instant>,
    ) -> io::Result<Option<Ready<'a>>> {
        // Where there is always something, nothing else has the task give its thread to others.
        consume_budget().await;
        let reads = direction.contains(Direction::READ).then_some(Interest::READABLE);
        let writes = direction.contains(Direction::WRITE).then_some(Interest::WRITABLE);
        let interest = match (reads, writes) {
            (Some(reads), Some(writes)) => Some(reads | writes),
            (one, other) => one.or(other),
        };
        let mut ready = pin!(async {
            match interest {
                Some(interest) => socket.ready(interest).await,
                None => std::future::pending().await,
            }
        });
        let mut rung = pin!(self.rung.notified());
        let mut late = pin!(async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|cx| {
            if let Poll::Ready(ready) = ready.as_mut().poll(cx) {
                return Poll::Ready(ready.map(Some));
            }
            if rung.as_mut().poll(cx).is_ready() || late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            Poll::Pending
        })
        .await
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.notify_one();
    }
}
