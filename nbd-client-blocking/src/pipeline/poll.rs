//! A pipeline in a poll loop of one's own.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nbd_proto::Direction;
use nbd_session::{Error, State};

use super::Pipeline;
use crate::completion::Woken;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Pipeline<'_, B> {
    /// What a poller is to watch the [socket](crate::Client::connection) for. Nothing, while
    /// the connection is lost and to be made [again](crate::ConnectOptions::reconnect):
    /// [`wait`](Self::wait) and [`poll`](Self::poll) do that, and the socket is another one
    /// then.
    #[must_use]
    #[doc(alias = "nbd_aio_get_direction")]
    pub fn direction(&self) -> Direction {
        self.client.session().direction()
    }

    /// Receives as much as goes without waiting. When the connection fails, every command is
    /// completed.
    #[doc(alias = "nbd_aio_notify_read")]
    pub fn notify_read(&mut self) {
        let now = Instant::now();
        let driver = &mut self.client.driver;
        driver.attend(now);
        // No server may send more than it was asked for.
        while driver.session.direction().contains(Direction::READ)
            && driver.receive(&mut self.buffers, now)
            && driver.session.needs_drive()
        {}
        driver.attend(now);
    }

    /// Sends as much as goes without waiting. When the connection fails, every command is
    /// completed.
    #[doc(alias = "nbd_aio_notify_write")]
    pub fn notify_write(&mut self) {
        let now = Instant::now();
        let driver = &mut self.client.driver;
        driver.attend(now);
        driver.send(&mut self.buffers, now);
        driver.attend(now);
    }

    /// Waits until something can be sent or received, does it, and returns; for ever
    /// without a timeout. Where the connection is lost and to be made
    /// [again](crate::ConnectOptions::reconnect), waits for that: an attempt that takes longer
    /// than the timeout goes on, and is there for the next call.
    ///
    /// # Errors
    /// When the connection is over, so that there is nothing to wait for.
    #[doc(alias = "nbd_poll")]
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Woken, Error> {
        self.turn(None, timeout)
    }

    /// Waits as [`poll`](Self::poll) does, and also until another descriptor has
    /// something to read, such as a pipe by which another thread ends the wait, also while
    /// the connection is made again.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    #[doc(alias = "nbd_poll2")]
    pub fn poll_with(
        &mut self,
        other: impl AsFd,
        timeout: Option<Duration>,
    ) -> Result<Woken, Error> {
        self.turn(Some(other.as_fd()), timeout)
    }

    fn turn(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> Result<Woken, Error> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let completed = self.completed();
        loop {
            let driver = &mut self.client.driver;
            if driver.session.is_over() && completed == 0 {
                return Err(driver.end());
            }
            let woken = driver.wait(&mut self.buffers, other, until);
            let down = driver.session.state() == State::Reconnecting;
            if woken != Woken::Progress || !down || self.completed() > completed {
                return Ok(woken);
            }
            // An attempt that came to nothing is no progress.
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(Woken::TimedOut);
            }
        }
    }
}
