//! What is told of a fault, and how a connection ends by one.

use nbd_proto::{Command, Machine, RequestId, SubmitError};
use nbd_session::OldError as Error;
use rustix::net::{Shutdown, shutdown};

use crate::client::Client;

impl Client {
    /// Stops waiting for a command after the connection failed or was too slow. Its
    /// memory is not ours any more.
    pub(crate) fn give_up(&mut self, id: RequestId, error: &Error) {
        let gone = self.core.abandon(id);
        let unsent = self.core.get_direction().contains(nbd_proto::Direction::WRITE);
        if !gone && unsent {
            // A part of the request is still to be sent, from memory that we no longer
            // have: the stream cannot go on.
            self.fail(error);
        }
    }

    /// Whether a command has come with the right buffer. What else is wrong with it is told
    /// first.
    #[inline]
    pub(crate) fn check_buffer(&self, command: Command, buffer: usize) -> Result<(), Error> {
        match Error::check_buffer(&command, buffer) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.worst(command, error)),
        }
    }

    #[cold]
    fn worst(&self, command: Command, error: Error) -> Error {
        match self.core.check(command) {
            Ok(()) => error,
            // There is to be another connection.
            Err(SubmitError::NotConnected) if self.recovery.is_some() => error,
            Err(worse) => self.not_sent(command, worse),
        }
    }

    pub(crate) fn not_sent(&self, command: Command, error: SubmitError) -> Error {
        Error::not_sent(&self.core, self.lost.as_ref(), command, error)
    }

    /// Ends the connection on the spot, for this reason.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.lost = self.lost.take().or_else(|| error.again());
        self.kill();
    }

    /// Ends the connection on the spot.
    pub(crate) fn kill(&mut self) {
        self.pump.trace.killed();
        // The state machine is told what the peer will see.
        let _ = self.core.eof();
        let _ = shutdown(&self.pump.connection.stream, Shutdown::Both);
    }
}
