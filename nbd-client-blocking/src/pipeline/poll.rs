//! A pipeline in a poll loop of one's own.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nbd_proto::Direction;
use nbd_session::OldError as Error;

use super::Pipeline;
use crate::client::Client;
use crate::completion::Woken;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Pipeline<'_, B> {
    /// What a poller is to watch the [descriptor](AsFd) for. Nothing, while the connection
    /// is lost and to be made [again](crate::Builder::reconnect): [`wait`](Self::wait) and
    /// [`poll`](Self::poll) do that, and the descriptor is another one then.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.client.pump.link.direction(&self.client.core)
    }

    /// Receives as much as goes without waiting.
    ///
    /// # Errors
    /// When the connection fails. Every command is completed then.
    pub fn notify_read(&mut self) -> Result<(), Error> {
        if let Some(mut lasting) = self.lasting() {
            return lasting.receive();
        }
        if !self.direction().contains(Direction::READ) {
            return Ok(());
        }
        let Client { core, pump, .. } = &mut *self.client;
        let result = pump.receive(core, &mut self.ports, false);
        self.kill_unless(result)
    }

    /// Sends as much as goes without waiting.
    ///
    /// # Errors
    /// When the connection fails. Every command is completed then.
    pub fn notify_write(&mut self) -> Result<(), Error> {
        if let Some(mut lasting) = self.lasting() {
            return lasting.send();
        }
        let Client { core, pump, .. } = &mut *self.client;
        let result = pump.send(core, &self.ports);
        self.kill_unless(result)
    }

    /// Waits until something can be sent or received, does it, and returns; for ever
    /// without a timeout. Where the connection is lost and to be made
    /// [again](crate::Builder::reconnect), waits for that: an attempt that takes longer than
    /// the timeout goes on, and is there for the next call.
    ///
    /// # Errors
    /// When the connection fails, or is over so that there is nothing to wait for.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<Woken, Error> {
        self.turn(None, timeout)
    }

    /// Waits as [`poll`](Self::poll) does, and also until another descriptor has
    /// something to read, such as a pipe by which another thread ends the wait, also while
    /// the connection is made again.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
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
        if let Some(mut lasting) = self.lasting() {
            return lasting.turn(other, timeout);
        }
        let direction = self.direction();
        if direction.is_empty() {
            return Err(Error::Protocol(nbd_proto::PeerMisbehaved::Closed.into()));
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let waited = self.client.pump.wait_either(direction, other, deadline);
        let Some(ready) = self.kill_unless(waited)? else {
            return Ok(Woken::TimedOut);
        };
        if ready.socket.contains(Direction::WRITE) {
            self.notify_write()?;
        }
        if ready.socket.contains(Direction::READ) {
            self.notify_read()?;
        }
        Ok(if ready.extra { Woken::Other } else { Woken::Progress })
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> AsFd for Pipeline<'_, B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}
