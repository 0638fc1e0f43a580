//! Many commands in flight, over as many connections as it takes.

use nbd_transport::Error;

use super::Lasting;
use crate::completion::Completion;
use crate::pipeline::Pipeline;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Pipeline<'_, B> {
    #[inline]
    pub(crate) fn lasting(&mut self) -> Option<Lasting<'_, B>> {
        Lasting::of(self.client, &mut self.ports)
    }

    /// [`wait`](Self::wait) where connections are made again.
    #[cold]
    #[inline(never)]
    pub(crate) fn wait_lasting(&mut self) -> Result<Option<Completion<B>>, Error> {
        let deadline = self.client.pump.deadline();
        loop {
            if let Some(completion) = self.next_lasting() {
                return Ok(Some(completion));
            }
            match self.lasting() {
                Some(mut lasting) if lasting.in_flight() > 0 => lasting.round(deadline)?,
                _ => return Ok(None),
            }
        }
    }

    /// [`next_completed`](Self::next_completed) where connections are made again.
    #[cold]
    #[inline(never)]
    pub(crate) fn next_lasting(&mut self) -> Option<Completion<B>> {
        loop {
            let id = self.peek_completed()?;
            let completion = self.lasting()?.take(id)?;
            match self.callbacks.remove(&id) {
                Some(callback) => (callback.call)(completion),
                None => return Some(completion),
            }
        }
    }
}
