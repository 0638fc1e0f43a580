//! Many commands in flight, over as many connections as it takes.

use nbd_proto::{Command, RequestId, SubmitError};
use nbd_session::OldError as Error;

use super::Lasting;
use crate::completion::Completion;
use crate::pipeline::Pipeline;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Pipeline<'_, B> {
    #[inline]
    pub(crate) fn lasting(&mut self) -> Option<Lasting<'_, B>> {
        Lasting::of(self.client, &mut self.ports)
    }

    /// Goes on, where connections are made again, until that has finished a command.
    #[cold]
    #[inline(never)]
    pub(crate) fn lasting_round(&mut self) -> Result<(), Error> {
        let deadline = self.client.pump.deadline();
        let before = self.completed();
        while let Some(mut lasting) = self.lasting() {
            lasting.round(deadline)?;
            if self.completed() > before || self.completed() == self.in_flight() {
                break;
            }
        }
        Ok(())
    }

    /// [`submit`](Self::submit) where connections are made again.
    #[cold]
    #[inline(never)]
    pub(crate) fn submit_lasting(
        &mut self,
        command: Command,
        buffer: Option<B>,
    ) -> Result<RequestId, Error> {
        match self.lasting() {
            Some(mut lasting) => lasting.submit(command, None, buffer),
            None => Err(self.client.not_sent(command, SubmitError::NotConnected)),
        }
    }

    /// [`next_completed`](Self::next_completed) where connections are made again. It is
    /// returned in a box so that the way without them keeps it in registers.
    #[cold]
    #[inline(never)]
    pub(crate) fn next_lasting(&mut self) -> Option<Box<Completion<B>>> {
        loop {
            let id = self.peek_completed()?;
            let completion = self.lasting()?.take(id)?;
            match self.callbacks.remove(&id) {
                Some(callback) => (callback.call)(completion),
                None => return Some(Box::new(completion)),
            }
        }
    }
}
