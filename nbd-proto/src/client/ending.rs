//! How a session ends: by agreement, by the caller's wish, in error.

use core::cmp::Reverse;

use super::completion::NO_PENDING;
use super::{Client, Core, Life, submit};
use crate::error::{CommandError, Error, broken};
use crate::types::HeaderStyle;
use crate::wire::flags::CommandFlags;
use crate::wire::request::{DISCONNECT, RequestHeader};

/// When to send the disconnect request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias("nbd_shutdown", "LIBNBD_SHUTDOWN"))]
#[non_exhaustive]
pub enum Disconnect {
    /// After the last reply, as proto.md, "Terminating the transmission phase",
    /// recommends.
    AfterReplies,
    /// After everything that is queued, without waiting for replies.
    AfterRequests,
    /// After the request that is partly sent; those of which no byte has been sent
    /// fail with [`CommandError::ConnectionLost`].
    AbandonUnsent,
}

impl Client {
    /// Asks for the end of the session. No command is accepted from now on.
    ///
    /// The server closes the connection, as proto.md, "Terminating the transmission phase", has
    /// it. There are servers that do so only when they see that the client sends no more, such as
    /// nbdkit 1.42: shut the sending side down when the client [is ending](crate::Machine::is_ending)
    /// and has nothing left to send.
    #[doc(alias = "nbd_aio_disconnect")]
    pub fn disconnect(&mut self, when: Disconnect) {
        if !matches!(self.core.life, Life::Open | Life::Draining) {
            return;
        }
        self.core.life = Life::Draining;
        match when {
            Disconnect::AfterReplies => self.disconnect_when_drained(),
            Disconnect::AfterRequests => self.queue_disconnect(),
            Disconnect::AbandonUnsent => {
                let mut next = self.core.slots.front(&self.core.in_flight);
                while let Some(id) = next {
                    next = self.core.slots.after(id);
                    let Some(pending) = self.core.slots.get(id) else {
                        broken(NO_PENDING);
                        continue;
                    };
                    if self.core.take_back(pending.sequence) {
                        if let Some(pending) = self.core.slots.get_mut(id) {
                            pending.sequence = 0;
                        }
                        self.core.conclude(id, Some(CommandError::ConnectionLost));
                    }
                }
                self.queue_disconnect();
            }
        }
    }

    pub(super) fn disconnect_when_drained(&mut self) {
        if matches!(self.core.life, Life::Draining) && self.core.is_disconnecting() {
            self.queue_disconnect();
        }
    }

    fn queue_disconnect(&mut self) {
        let header = RequestHeader {
            flags: CommandFlags::empty(),
            kind: DISCONNECT,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        let compact = (self.core.facts.headers != HeaderStyle::Extended).then_some(0);
        submit::push_header(&mut self.core.outbox, compact, header);
        self.core.life = Life::Disconnecting;
    }

    pub(super) fn fail(&mut self, error: Error) -> Error {
        self.core.close(Some(error.clone()));
        self.core.outbox.close();
        self.intake.stop();
        error
    }
}

impl Core {
    /// Whether only the end is to come, although the disconnect request may not be queued
    /// before all has been parsed that arrived together.
    pub(super) fn is_disconnecting(&self) -> bool {
        match self.life {
            Life::Disconnecting => true,
            Life::Draining => self.unfinished == 0,
            Life::Open | Life::Closed(_) => false,
        }
    }

    /// The connection is over: everything unfinished fails, exactly once.
    pub(super) fn close(&mut self, error: Option<Error>) {
        if matches!(self.life, Life::Closed(_)) {
            return;
        }
        self.life = Life::Closed(error);
        self.unsent_operations.clear();
        while let Some(id) = self.slots.front(&self.in_flight) {
            // Errors that came before the end of a reply are not its outcome.
            if let Some(pending) = self.slots.get_mut(id) {
                pending.error = Some(CommandError::ConnectionLost);
            }
            self.conclude(id, None);
        }
        while let Some(Reverse((_, id))) = self.held.pop() {
            // Its reply came, but its payload never left in full: what a server
            // says about data it cannot have is worth something only if it is an
            // error.
            if let Some(pending) = self.slots.get_mut(id) {
                pending.fail(CommandError::ConnectionLost);
            }
            self.finish(id);
        }
    }
}
