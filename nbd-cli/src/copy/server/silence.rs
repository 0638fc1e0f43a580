//! Waiting for a server, as long as it is not silent and nobody asks for the end.

use std::time::Duration;

use nbd_client_blocking::{Completion, Pipeline, Woken};

use crate::copy::stop::Stop;
use crate::failure::{Context, Failure, Result};

/// Waits for the completions of one connection.
#[derive(Debug)]
pub(super) struct Silence<'a> {
    /// The server's.
    name: &'a str,
    /// As the connection was told.
    limit: Option<Duration>,
    stop: &'a Stop,
}

impl<'a> Silence<'a> {
    pub(super) const fn new(name: &'a str, limit: Option<Duration>, stop: &'a Stop) -> Self {
        Self { name, limit, stop }
    }

    /// The next command that is finished, or `None` when nothing is in flight.
    pub(super) fn wait<B: AsRef<[u8]> + AsMut<[u8]>>(
        &self,
        pipeline: &mut Pipeline<'_, B>,
    ) -> Result<Option<Completion<B>>> {
        loop {
            if let Some(done) = pipeline.next_completion() {
                let late = done.result.as_ref().is_err_and(|error| error.is_timeout());
                return match self.limit.filter(|_| late) {
                    Some(limit) => Err(Failure::new(format!(
                        "{}: no answer from the server for {limit:?}; --timeout waits longer",
                        self.name
                    ))),
                    None => Ok(Some(done)),
                };
            }
            if pipeline.in_flight() == 0 {
                return Ok(None);
            }
            if pipeline.poll_with(self.stop, None).context(self.name)? == Woken::Other {
                return Err(Failure::new(format!("{}: the copy was stopped", self.name)));
            }
        }
    }
}
